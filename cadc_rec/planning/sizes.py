"""What is planned for: how large the tables are, and which processes hold them.

In: an experiment, a work folder. Out: `Sizes`, of the prepared dataset, the generated world, or as
given. Nothing is downloaded and nothing is prepared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cadc_rec.config.data import DataConfig
from cadc_rec.config.ids import IdsConfig
from cadc_rec.data.columns import POINTERS_BY_ITEM
from cadc_rec.data.ids.waiting import DEPTH
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import bring, committed, read_manifest
from cadc_rec.store.manifest import MANIFEST
from cadc_rec.store.pruned import is_pruned

_MAPPED = 8 + 4 + 8 + 8  # bytes a row: id, generation, how often and when it was seen
_WAITING = 8 + 8 + 8  # bytes an id that waits: it, how often and when it was seen


@dataclass(frozen=True)
class Machines:
    """The processes that are planned for.

    Attributes:
        world_size: in all.
        local_world_size: a node.
        device: ``cuda`` or ``cpu``.
        device_bytes: memory of each GPU; 0 on CPU.
        host_bytes: host memory of each process.
    """

    world_size: int
    local_world_size: int
    device: str
    device_bytes: int
    host_bytes: int

    def usable(self, reserve: float) -> int:
        """What tables and their state may fill of each process."""
        return int(self.memory * (1 - reserve))

    @property
    def memory(self) -> int:
        """Of one process: its GPU's, or on CPU the host's."""
        return self.device_bytes if self.device == "cuda" else self.host_bytes


@dataclass(frozen=True)
class PlannedAttribute:
    """An attribute without its values: enough to build the table it is looked up in.

    Attributes:
        name: of the attribute.
        kind: ``categorical``, ``multi`` and so on.
        size: number of codes.
        each: values of an id, on average.
        longest: the most that an id has.
    """

    name: str
    kind: str
    size: int
    each: float = 1.0
    longest: int = 1
    indptr: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))


@dataclass(frozen=True)
class PlannedDense:
    """A table of vectors or numbers without its values."""

    name: str
    kind: str
    width: int
    half: bool
    values: None = None

    @staticmethod
    def of(described: dict[str, Any]) -> PlannedDense:
        """Of an entry of ``dense.json``."""
        half = described["precision"] == "float16"
        width = int(described["table_width"])
        return PlannedDense(described["name"], described["kind"], width, half)


@dataclass(frozen=True)
class Sizes:
    """Ids and attributes of both sides.

    Attributes:
        users: rows of user tables.
        items: rows of item tables.
        source: where the sizes come from, in words.
        user_attributes: the users' attributes; empty if no dataset is prepared.
        item_attributes: the items' attributes; empty if no dataset is prepared.
        user_dense: the users' vectors and numbers, likewise.
        item_dense: the items' vectors and numbers, likewise.
        interactions: of training; 0 if they are not known.
        of_items: of training, by item; None if they are not known.
        id_map: bytes of the map of ids to rows that an update holds, where ids come and go; of ids
            that are numbers.
    """

    users: int
    items: int
    source: str
    user_attributes: tuple[PlannedAttribute, ...] = ()
    item_attributes: tuple[PlannedAttribute, ...] = ()
    user_dense: tuple[PlannedDense, ...] = ()
    item_dense: tuple[PlannedDense, ...] = ()
    interactions: int = 0
    of_items: np.ndarray | None = field(default=None, compare=False)
    id_map: int = 0


def find_sizes(
    data: DataConfig,
    workdir: Path,
    users: int | None,
    items: int | None,
    where: str,
    interactions: int | None = None,
) -> Sizes:
    """The sizes to plan with; `users`, `items` and `interactions` override what is found.

    Args:
        data: the dataset's settings.
        workdir: the work folder, which may hold a prepared dataset.
        users: number of users, or None.
        items: number of items, or None.
        where: the experiment's file, for messages.
        interactions: number of training interactions, or None; not those of other users and items.

    Raises:
        CadcError: no dataset is prepared, and one of the sizes is not given.
    """
    if not data.ids.living:
        return _of_closed_ids(data, workdir, users, items, where, interactions)
    # Tables grow up to these rows, however many the first run has; D_full with them.
    asked = users or data.ids.user_rows or None, items or data.ids.item_rows or None
    found = _of_closed_ids(data, workdir, *asked, where, interactions)
    return replace(found, source="[data.ids]", id_map=map_bytes(data.ids))


def map_bytes(config: IdsConfig) -> int:
    """Memory of the maps of ids that are numbers to rows, and of the counts of whoever waits."""
    of_counts = DEPTH * 4 * config.sketch_width
    total = 0
    for rows in filter(None, (config.user_rows, config.item_rows)):
        total += _MAPPED * rows
        total += of_counts if config.counting == "sketch" else _WAITING * rows
    return total


def _of_closed_ids(
    data: DataConfig,
    workdir: Path,
    users: int | None,
    items: int | None,
    where: str,
    interactions: int | None,
) -> Sizes:
    """The same where every id has a row and keeps it."""
    found = _prepared(data, workdir)
    if found is None and data.source == "generated":
        world = data.generated
        source, rows = "[data.generated]", world.interactions
        found = Sizes(world.users, world.items, source, interactions=rows)
    if users and items:
        found = found or Sizes(users, items, "")
        given, rows = "--users and --items", interactions or 0
        return replace(
            found, users=users, items=items, source=given, interactions=rows, of_items=None
        )
    if found is None:
        raise CadcError(
            f"{where}: its dataset is not prepared in {workdir}, so the sizes of its tables are "
            f"not known; run cadc-rec prepare {where}, or give --users and --items."
        )
    known = interactions or (0 if users or items else found.interactions)
    if users or items:
        return replace(
            found,
            users=users or found.users,
            items=items or found.items,
            source=f"{found.source}, except --{'users' if users else 'items'}",
            interactions=known,
            of_items=None,
        )
    return replace(found, interactions=known, of_items=None if interactions else found.of_items)


def _prepared(data: DataConfig, workdir: Path) -> Sizes | None:
    """Of the dataset last prepared with these settings, whatever archive it was."""
    wanted = data.decisive()
    folders = [folder for folder in committed(workdir, "prepare") if not is_pruned(folder)]
    folders.sort(key=lambda folder: (folder / MANIFEST).stat().st_mtime)
    for folder in reversed(folders):
        manifest = read_manifest(folder)
        info = manifest["info"]
        asked = {k: v for k, v in manifest["settings"].items() if k != "code"}
        if asked != wanted or not _same_world(data, info):
            continue
        bring(folder, ("attributes.json", "dense.json", POINTERS_BY_ITEM))
        sides = json.loads((folder / "attributes.json").read_text("utf-8"))
        user, item = (
            tuple(
                _attribute(folder, f"{side}s.parquet", a, int(info[f"{side}s"]))
                for a in sides[side]
            )
            for side in ("user", "item")
        )
        dense: list[tuple[PlannedDense, ...]] = [(), ()]
        if (folder / "dense.json").is_file():
            described = json.loads((folder / "dense.json").read_text("utf-8"))
            dense = [tuple(map(PlannedDense.of, described[side])) for side in ("user", "item")]
        ids = int(info["users"]), int(info["items"])
        rows = int(info["train"])
        pointers, of_items = folder / POINTERS_BY_ITEM, None
        if pointers.is_file():  # no dataset prepared before there were any has them
            of_items = np.diff(np.load(pointers, allow_pickle=False))
        return Sizes(*ids, str(folder), user, item, dense[0], dense[1], rows, of_items)
    return None


def _attribute(folder: Path, file: str, described: dict[str, Any], ids: int) -> PlannedAttribute:
    """An entry of ``attributes.json``, with how many values the first `ids` ids have."""
    name, kind, size = described["name"], described["kind"], int(described["size"])
    if kind != "multi":
        return PlannedAttribute(name, kind, size)
    bring(folder, (file,))
    lists = pq.read_table(folder / file, columns=[name])[name].slice(0, ids)
    lengths = pc.list_value_length(lists)
    total, longest = pc.sum(lengths).as_py() or 0, pc.max(lengths).as_py() or 0
    return PlannedAttribute(name, kind, size, total / max(1, ids), longest)


def _same_world(data: DataConfig, info: dict[str, int]) -> bool:
    """Whether a prepared world is this one: its settings are not the dataset's but its input's."""
    world = data.generated
    if data.source != "generated" or data.k_core > 1:
        return True
    return (info["users"], info["items"]) == (world.users, world.items)
