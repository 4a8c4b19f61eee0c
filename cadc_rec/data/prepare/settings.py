"""The settings that decide what the prepare stage writes; the raw input comes beside them.

Options that came later are named only where they are not at their default, so that a dataset
prepared before them is still found. Engine, memory and spilling decide nothing.
"""

from __future__ import annotations

from typing import Any

from cadc_rec.config.experiment import DataConfig
from cadc_rec.config.tables import TablesConfig

_HASHED = ("hashed", "hash_codes")
_LATER = {"interactions": ("unit", "weight"), "users": _HASHED, "items": _HASHED}
_OPTIONS = ("since", "until", "duplicates", "max_per_user")
_BY_TIME = ("split", "validation_from", "test_from", "time_shares")


def dataset_settings(config: DataConfig) -> dict[str, Any]:
    """Everything in the configuration that decides what `build_dataset` writes."""
    settings: dict[str, Any] = {"source": config.source, "k_core": max(config.k_core, 1)}
    has_time = config.source != "epinions"
    if config.source == "tables":
        has_time = bool(config.tables.interactions.timestamp)
        settings["tables"] = table_settings(config.tables)
    if not has_time:  # else split_seed changes nothing
        settings["split_seed"] = config.split_seed
    default = DataConfig()
    for name in _OPTIONS + (_BY_TIME if config.split == "time" else ()):
        value = getattr(config, name)
        if value != getattr(default, name):
            settings[name] = list(value) if isinstance(value, tuple) else value
    if config.validation_from:  # then the shares change nothing
        settings.pop("time_shares", None)
    return settings


def table_settings(config: TablesConfig) -> dict[str, Any]:
    """What decides the result beside the files' bytes: everything but where they lie.

    Settings that came later are named where they are not at their default.
    """
    where = {role: {"path", "query"} for role in ("interactions", "users", "items")}
    settings = config.model_dump(mode="json", exclude={"database": True, "driver": True, **where})
    for section, names in _LATER.items():
        told, default = settings[section], type(getattr(config, section))().model_dump(mode="json")
        for name in names:
            if told[name] == default[name]:
                del told[name]
    return settings
