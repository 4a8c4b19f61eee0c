"""How large an experiment's tables are: of its prepared dataset, its world, or as told.

In: an experiment, a work folder. Out: `Sizes`. Nothing is downloaded and nothing is prepared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.prepare.settings import dataset_settings
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import read_manifest


@dataclass(frozen=True)
class PlannedAttribute:
    """An attribute without its values: enough to build the table it is looked up in."""

    name: str
    kind: str
    size: int
    indptr: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))


@dataclass(frozen=True)
class Sizes:
    """Ids and attributes of both sides.

    Attributes:
        users: rows of user tables.
        items: rows of item tables.
        told_by: where they come from, in words.
        user_attributes: of a prepared dataset; none where it is not known.
        item_attributes: likewise.
    """

    users: int
    items: int
    told_by: str
    user_attributes: tuple[PlannedAttribute, ...] = ()
    item_attributes: tuple[PlannedAttribute, ...] = ()


def find_sizes(
    experiment: Experiment, workdir: Path, users: int | None, items: int | None, where: str
) -> Sizes:
    """The sizes to plan with; `users` and `items` win over what is found.

    Args:
        experiment: its ``[data]``.
        workdir: where a prepared dataset may lie.
        users: as told, or None.
        items: as told, or None.
        where: the experiment's file, for messages.

    Raises:
        CadcError: nothing is prepared, and not both sizes are told.
    """
    found = _prepared(experiment, workdir)
    if found is None and experiment.data.source == "generated":
        world = experiment.data.generated
        found = Sizes(world.users, world.items, "[data.generated]")
    if users and items:
        beside = (found.user_attributes, found.item_attributes) if found else ((), ())
        return Sizes(users, items, "--users and --items", *beside)
    if found is None:
        raise CadcError(
            f"{where}: its dataset is not prepared in {workdir}, so the sizes of its tables are "
            f"not known; run cadc-rec prepare {where}, or give --users and --items."
        )
    if users or items:
        return Sizes(
            users or found.users,
            items or found.items,
            f"{found.told_by}, but for --{'users' if users else 'items'}",
            found.user_attributes,
            found.item_attributes,
        )
    return found


def _prepared(experiment: Experiment, workdir: Path) -> Sizes | None:
    """Of the dataset last prepared with these settings, whatever archive it was."""
    wanted = dataset_settings(experiment.data)
    manifests = sorted(
        (workdir / "prepare").glob("*/manifest.json"), key=lambda file: file.stat().st_mtime
    )
    for file in reversed(manifests):
        manifest = read_manifest(file.parent)
        info = manifest["info"]
        asked = {k: v for k, v in manifest["settings"].items() if k != "code"}
        if asked != wanted or not _same_world(experiment, info):
            continue
        sides = json.loads((file.parent / "attributes.json").read_text("utf-8"))
        attributes = (
            tuple(PlannedAttribute(a["name"], a["kind"], int(a["size"])) for a in sides[side])
            for side in ("user", "item")
        )
        return Sizes(int(info["users"]), int(info["items"]), str(file.parent), *attributes)
    return None


def _same_world(experiment: Experiment, info: dict[str, int]) -> bool:
    """Whether a prepared world is this one: its settings are not the dataset's but its input's."""
    world = experiment.data.generated
    if experiment.data.source != "generated" or experiment.data.k_core > 1:
        return True
    return (info["users"], info["items"]) == (world.users, world.items)
