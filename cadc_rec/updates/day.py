"""The folder with a new day's tables, read like the tables of `data.source = "tables"`.

In: a folder, the config, the dataset that the day comes on top of. Out: which files they are, and
how to read them: the config's own `[data.tables]` for that source; for the public archives and the
generated world, tables with the columns that these have when they are prepared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadc_rec.config.experiment import DataConfig
from cadc_rec.config.tables import TablesConfig
from cadc_rec.data.cold_items import FILE as COLD_FILE
from cadc_rec.data.prepare.new_rows import (
    attribute_forms,
    described_attributes,
    id_type,
    layout,
    own_files_apart,
)
from cadc_rec.data.sources.raw_tables import CONTEXT_FILE
from cadc_rec.data.tables.files import FileSet, TableFiles, find_files
from cadc_rec.data.tables.forms import Form
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.artifact import Artifact

_ROLES = ("interactions", "users", "items")
# Settings that an update follows; any other one that is not at its default is refused.
_FOLLOWED = {"source", "k_core", "split_seed", "generated", "tables", "text", "ids"}


@dataclass(frozen=True)
class Day:
    """A new day's tables."""

    folder: Path
    config: TablesConfig
    """How to read them; its paths are those of the day."""
    files: TableFiles
    fingerprint: str
    """SHA-256 of the files' names and bytes."""

    @property
    def name(self) -> str:
        """What the update is called."""
        return self.folder.resolve().name


def require_updatable(config: DataConfig) -> None:
    """Refuse data settings that no update knows how to carry on.

    Raises:
        CadcError: names the setting.
    """
    for name, field in DataConfig.model_fields.items():
        value = getattr(config, name)
        if name not in _FOLLOWED and value != field.get_default():
            raise CadcError(
                f"data.{name} = {value!r} cannot be carried on by an update; run the whole "
                "experiment on all interactions with cadc-rec run."
            )


def require_folder(folder: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        CadcError: names it.
    """
    if not folder.is_dir():
        raise CadcError(f"{folder}: no such folder; correct --new.")


def find_day(config: DataConfig, folder: Path, dataset: Artifact) -> Day:
    """The day's tables in `folder`.

    A table is a file or a folder called ``interactions``, ``users`` or ``items``, or what the
    config calls it. Only interactions must be there.

    Args:
        config: names the columns, where its source is the user's own tables.
        folder: the day's.
        dataset: the prepare stage's artifact that the day comes on top of.

    Raises:
        CadcError: no such folder, no interactions in it, or two files for one table; or the
            dataset has cold items.
    """
    require_folder(folder)
    if (dataset.path / COLD_FILE).is_file():
        raise CadcError(
            "data.cold_items: an update would learn from the items that are held out; set it to "
            "0, or run again on all tables."
        )
    tables = own_files_apart(layout(config, dataset))
    found = {role: _find(folder, role, getattr(tables, role).path) for role in _ROLES}
    if found["interactions"] is None:
        there = ", ".join(sorted(path.name for path in _visible(folder))) or "nothing"
        raise CadcError(
            f"{folder}: holds no table of interactions; call the file interactions.parquet, .csv "
            f"or the like. It holds {there}."
        )
    _warn_of_others(folder, found)
    files = {role: _files(path) if path else None for role, path in found.items()}
    interactions = files["interactions"]
    assert interactions is not None
    table_files = TableFiles(interactions, files["users"], files["items"])
    named = {
        role: getattr(tables, role).model_copy(update={"path": str(path or "")})
        for role, path in found.items()
    }
    ids = {f"{side}_ids": id_type(dataset, side) for side in ("user", "item")}
    day = tables.model_copy(update={**named, **ids})
    return Day(folder, day, table_files, table_files.fingerprint())


def described_context(dataset: Artifact) -> list[dict[str, Any]]:
    """Each context column's name, size, vocabulary and whether it is lagged."""
    file = dataset.path / CONTEXT_FILE
    described: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.is_file() else []
    return described


def value_forms(dataset: Artifact) -> dict[tuple[str, str], Form]:
    """How the values of attributes are written, by side and name, and those of the context."""
    types = dataset.info.get("attribute_types", {})  # an older dataset did not note them
    context = described_context(dataset)
    asked = {("interaction", entry["name"]): Form.of(entry["vocabulary"]) for entry in context}
    return {**attribute_forms(described_attributes(dataset), types), **asked}


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))


def _find(folder: Path, role: str, configured: str) -> Path | None:
    """The file or folder of one table, or None."""
    matching = [path for path in _visible(folder) if path.name.split(".")[0] == role]
    if not matching and configured:
        matching = [path for path in _visible(folder) if path.name == Path(configured).name]
    if len(matching) > 1:
        names = " and ".join(path.name for path in matching)
        raise CadcError(f"{folder}: holds {names}; leave one table of {role}.")
    return matching[0] if matching else None


def _files(path: Path) -> FileSet:
    sets = find_files(str(path.absolute()), "--new", [path.parent])
    if len(sets) > 1:
        formats = " and ".join(files.format for files in sets)
        raise CadcError(f"{path}: holds {formats} files; leave those of one format.")
    return sets[0]


def _warn_of_others(folder: Path, found: Mapping[str, Path | None]) -> None:
    others = [path.name for path in _visible(folder) if path not in found.values()]
    if others:
        log.warning(
            "%s: ignored, for these are not tables of interactions, users or items: %s",
            folder,
            ", ".join(others),
        )
