"""The prepare stage of an update that forgets: a dataset without some users and items.

In: a prepare artifact, original ids. Out: a prepare artifact like any other, in which these users
and items have their rows still, and nothing in them: no interaction, attribute, title or vector,
and in the place of the id one that nobody has. Other users' interactions are split again, for what
was held out may have been of a forgotten item.

Where ids come and go, the rows of the forgotten are the first that a newcomer takes, and an id that
waits for a row waits no longer.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec import strict_json
from cadc_rec.config.ids import IdsConfig
from cadc_rec.data.columns import write_columns
from cadc_rec.data.dense import DESCRIBED, FOLDER, open_table
from cadc_rec.data.forgotten import SIDES, Forgotten, check_of, hashes_of, key_of, stand_ins
from cadc_rec.data.id_forms import in_form
from cadc_rec.data.prepare.again import clock_of, merged, write_train
from cadc_rec.data.prepare.chosen import as_table
from cadc_rec.data.prepare.new_rows import described_attributes, id_type
from cadc_rec.data.prepare.split import LeaveLastTwo, Rows
from cadc_rec.data.sources.raw_tables import CONTEXT_FILE, Side
from cadc_rec.data.streams import one_array, write_parquet
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.store.manifest import digest
from cadc_rec.updates.day import described_context
from cadc_rec.updates.dense import described_dense
from cadc_rec.updates.living import living_of

_WHOLE = re.compile("-?[0-9]{1,19}")


@dataclass(frozen=True)
class Request:
    """Whom to forget.

    Attributes:
        ids: original ids by side, as the dataset has them.
        key: of the hashes that are kept of them.
    """

    ids: Mapping[str, pa.Array]
    key: bytes
    name = "forget"
    """What the update is called."""

    @property
    def fingerprint(self) -> str:
        """The same for the same ids; tells nothing of them without the key."""
        return digest({side: sorted(hashes_of(side, self.ids[side], self.key)) for side in SIDES})


def read_request(
    files: Mapping[str, Path | None], forms: Sequence[str], dataset: Artifact, workdir: Path
) -> Request:
    """Whom files of ids name.

    Args:
        files: by side, a text file with an id a line; None names nobody.
        forms: what was done to the ids of the data.
        dataset: the newest one, which says of what type ids are.
        workdir: receives the key, if nobody was forgotten in the dataset yet.

    Raises:
        CadcError: a file cannot be read or names nobody, a line is no such id, or the key is lost.
    """
    ids = {}
    for side in SIDES:
        file = files[side]
        lines = {} if file is None else _lines(file)
        column = in_form(pa.array(lines.values(), pa.string()), forms)
        if id_type(dataset, side) == "integer":
            for line, text in zip(lines, column.to_pylist(), strict=True):
                if not _is_whole(text):
                    raise CadcError(
                        f"{file}: line {line} is {text!r:.80}, and {side} ids are whole "
                        "numbers; correct it."
                    )
            column = pa.array([int(text) for text in column.to_pylist()], pa.int64())
        ids[side] = pc.unique(column)
    return Request(ids, key_of(workdir, Forgotten.open(dataset.path)))


def _lines(file: Path) -> dict[int, str]:
    """The ids of a file by line, from 1; empty lines are left out.

    An id may hold what Unicode takes for the end of a line, so only a newline counts as one.
    """
    try:
        every = file.read_bytes().decode("utf-8-sig").split("\n")
        lines = {n: text for n, line in enumerate(every, 1) if (text := line.removesuffix("\r"))}
    except (OSError, UnicodeDecodeError) as error:
        raise CadcError(f"{file}: cannot be read as UTF-8 text ({error}).") from error
    if not lines:
        raise CadcError(f"{file}: names nobody; write an id on each line.")
    return lines


def _is_whole(text: str) -> bool:
    # int() also takes 1_000, and digits of other scripts.
    return bool(_WHOLE.fullmatch(text)) and -(2**63) <= int(text) < 2**63


def build_forgotten_dataset(
    config: IdsConfig, parent: Artifact, request: Request, draft: Draft
) -> None:
    """Fill the draft of the prepare stage.

    Args:
        config: whether ids come and go.
        parent: the dataset so far; its rows are streamed.
        request: whom to forget; ids that it does not have are only remembered as forgotten.
        draft: its ``info`` receives what `build_updated_dataset` says, under ``update`` the counts.
    """
    scratch = draft.path / ".scratch"
    scratch.mkdir()
    try:
        _Builder(config, parent, request, draft).build(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Builder:
    """What the steps of `build_forgotten_dataset` share."""

    def __init__(self, config: IdsConfig, parent: Artifact, request: Request, draft: Draft) -> None:
        self.config, self.parent, self.request, self.draft = config, parent, request, draft
        self.every = {side: pq.read_table(parent.path / f"{side}s.parquet") for side in SIDES}
        self.n = {side: int(parent.info[f"{side}s"]) for side in SIDES}
        self.gone = {side: self._rows(side) for side in SIDES}
        """All rows of the forgotten, also of items that nobody took."""
        self.unknown = {side: len(request.ids[side]) - len(self.gone[side]) for side in SIDES}
        for side, unknown in self.unknown.items():
            if unknown:
                log.warning("%d of the %s ids to forget are not in the dataset", unknown, side)
        self.context = [entry["name"] for entry in described_context(parent)]
        self.values: dict[str, dict[str, list[int]]] = {side: {} for side in SIDES}

    def _rows(self, side: str) -> NDArray[np.int64]:
        ids = one_array(self.every[side][f"{side}_id"])
        found = pc.is_in(ids, value_set=self.request.ids[side].cast(ids.type))
        rows: NDArray[np.int64] = np.flatnonzero(found.to_numpy(zero_copy_only=False))
        return rows

    def build(self, scratch: Path) -> None:
        folder = self.draft.path
        split = LeaveLastTwo(self._left(merged(self.parent.path, context=self.context)))
        train = write_train(folder, split.train(), self.context)
        for name, rows in (("val", split.validation), ("test", split.test)):
            write_parquet(folder / f"{name}.parquet", as_table(rows, self.context))
        per_second = clock_of(self.parent.info)
        write_columns(folder, self.n["user"], self.n["item"], scratch, per_second)
        attributes = described_attributes(self.parent)
        stand_in = {side: self._write_side(side, attributes[side]) for side in SIDES}
        _write_json(folder / "attributes.json", attributes)
        self._write_dense()
        if self.context:
            shutil.copyfile(self.parent.path / CONTEXT_FILE, folder / CONTEXT_FILE)
        self._save(stand_in)
        if self.config.living:
            self._give_up_rows("user")
            self._give_up_rows("item")
        self._tell(split, train)

    def _give_up_rows(self, side: Side) -> None:
        """Write the map of a side's ids, in which the forgotten have nothing any more."""
        ids, n = one_array(self.every[side][f"{side}_id"])[: self.n[side]], self.n[side]
        living = living_of(self.config, self.parent, side, ids)
        gone = self.gone[side][self.gone[side] < n]
        living.forget(gone, self.request.ids[side])
        living.save(self.draft.path, side)
        counts = {"rows": n, "evicted": 0, "admitted": 0, "waiting": 0, "bytes": living.nbytes}
        self.draft.info.setdefault("ids", {})[side] = counts

    def _left(self, blocks: Iterator[Rows]) -> Iterator[Rows]:
        """The rows of users and items that stay."""
        stays = {}
        for side in SIDES:
            stays[side] = np.ones(self.n[side], bool)
            stays[side][self.gone[side][self.gone[side] < self.n[side]]] = False
        for rows in blocks:
            yield rows.take(stays["user"][rows.user] & stays["item"][rows.item])

    def _write_side(self, side: str, described: list[dict[str, Any]]) -> pa.Array:
        """Write one side's table without what it said of the forgotten; their stand-in ids."""
        table, gone = self.every[side], self.gone[side]
        is_gone = np.zeros(len(table), bool)
        is_gone[gone] = True
        mask, key = pa.array(is_gone), f"{side}_id"
        ids = one_array(table[key])
        stand_in = stand_ins(ids, gone)
        columns = {key: pc.replace_with_mask(ids, mask, stand_in)}
        by_name = {entry["name"]: entry for entry in described}
        for name in table.column_names:
            if name == key:
                continue
            column = one_array(table[name])
            entry = by_name.get(name)
            if entry is None:  # a title
                empty: Any = None
            elif entry["kind"] == "multi":
                empty = []
            else:
                empty = 0
            columns[name] = pc.if_else(mask, pa.scalar(empty, column.type), column)
            if entry is not None:
                self._blank_values(side, entry, column.filter(mask), columns[name])
        rows = pa.table(columns).cast(table.schema)
        # Of items that nobody took there need be no row, for they are numbered anew each day.
        kept = ~is_gone | (np.arange(len(table)) < self.n[side])
        write_parquet(self.draft.path / f"{side}s.parquet", rows.filter(pa.array(kept)))
        return stand_in

    def _blank_values(
        self, side: str, entry: dict[str, Any], theirs: pa.Array, others: pa.Array
    ) -> None:
        """Take values that nobody else has out of an attribute's vocabulary; in place."""
        if entry["kind"] not in ("categorical", "multi"):
            return
        had, have = (set(_flat(column).to_pylist()) for column in (theirs, others))
        only = sorted(code for code in had - have if code)
        vocabulary = list(entry["vocabulary"])
        for code in only:
            value = vocabulary[code - 1]
            if isinstance(value, str):
                vocabulary[code - 1] = f"forgotten:{code}"
            elif isinstance(value, int) and not isinstance(value, bool):
                vocabulary[code - 1] = -(2**53) + code
        entry["vocabulary"] = vocabulary
        if only:
            self.values[side][entry["name"]] = only

    def _write_dense(self) -> None:
        """Vectors and numbers, with rows of zeros for the forgotten."""
        described = described_dense(self.parent.path)
        for side, entries in described.items():
            gone = self.gone[side]
            kept = np.ones(len(self.every[side]), bool)
            kept[gone[gone >= self.n[side]]] = False
            for entry in entries:
                name = f"{side}_{entry['name']}.npy"
                old = np.load(self.parent.path / FOLDER / name, mmap_mode="r")
                half = entry["precision"] == "float16"
                file = self.draft.path / FOLDER / name
                table = open_table(file, int(kept.sum()), entry["table_width"], half)
                table[:] = old[kept] if not kept.all() else old
                table[gone[gone < self.n[side]]] = 0
                assert isinstance(table, np.memmap)
                table.flush()
                count = f"{side}s_without_vector"
                if count in entry:
                    entry[count] = int((~table.any(1)).sum())
        if described:
            _write_json(self.draft.path / DESCRIBED, described)

    def _save(self, stand_in: Mapping[str, pa.Array]) -> None:
        """Remember who was forgotten, here and before, and that nobody has the stand-in ids."""
        before, rows, hashes, values = Forgotten.open(self.parent.path), {}, {}, {}
        for side in SIDES:
            gone = self.gone[side][self.gone[side] < self.n[side]]
            rows[side] = np.union1d(before.rows[side], gone)
            new = [
                *hashes_of(side, self.request.ids[side], self.request.key),
                *hashes_of(side, stand_in[side], self.request.key),
            ]
            hashes[side] = before.hashes[side] | set(new)
            values[side] = {**before.values[side]}
            for name, codes in self.values[side].items():
                values[side][name] = sorted({*values[side].get(name, []), *codes})
        Forgotten(rows, hashes, values, check_of(self.request.key)).save(self.draft.path)

    def _tell(self, split: LeaveLastTwo, train: int) -> None:
        old = self.parent.info
        had = sum(int(old[part]) for part in ("train", "val", "test"))
        kept = ["duplicates_dropped", "removed_by_k_core", "has_time", "timestamp_kind"]
        kept += ["time_unit", "order", "attribute_types"]
        self.draft.rows = had
        self.draft.info.update(
            {name: old[name] for name in kept if name in old},
            users=self.n["user"],
            items=self.n["item"],
            train=train,
            val=len(split.validation),
            test=len(split.test),
            users_train_only=self.n["user"] - len(split.test),
            update={
                "interactions": 0,
                "new_users": 0,
                "new_items": 0,
                "forgotten_users": len(self.gone["user"]),
                "forgotten_items": len(self.gone["item"]),
                "forgotten_interactions": had - split.distinct,
                "forgotten_unknown": sum(self.unknown.values()),
            },
        )
        if "untaken_items" in old:
            untaken = int((self.gone["item"] >= self.n["item"]).sum())
            self.draft.info["untaken_items"] = int(old["untaken_items"]) - untaken


def _flat(column: pa.Array) -> pa.Array:
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    return column.flatten() if is_list else column


def _write_json(file: Path, value: Any) -> None:
    file.write_text(strict_json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
