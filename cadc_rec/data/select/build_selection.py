"""The select stage: which interactions of D_full the two towers see (D_sel).

In: the prepare stage's artifact. Out: ``shard-00000-of-00008.parquet`` and on, with user, item,
timestamp and ``row``, the interaction's position in D_full. Every user and item keeps its id.
Selections of several ratios are written in one pass over D_full, each as if alone.

Where several ranks select, each writes some of the shards, with the bytes that one would write.
Where a kind ranks or sorts all rows (by user, by item, by score), each rank looks at its share of
the blocks, and all find together what decides: a few numbers that tell any block's rows.

With a history, a row carries the items its user took before it, the latest first, as a list
column. Its own item is no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data.columns import has_columns, row_starts, train_files
from cadc_rec.data.dataset import NO_ITEM, Dataset
from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.select import balanced, choices
from cadc_rec.data.select.blocks import (
    HISTORY_ROWS,
    Block,
    Blocks,
    Choice,
    Given,
    OfStrata,
    counted,
    uniform,
)
from cadc_rec.data.select.centres import k_centres
from cadc_rec.data.select.choices import ByUser, PairKeys, Vectors
from cadc_rec.data.select.ranks import Alone, Ranks
from cadc_rec.data.select.sizes import shard_sizes, wanted_rows
from cadc_rec.data.select.strata import Strata, StratifiedChoice
from cadc_rec.data.streams import RowGroups, ShardWriter, read_groups
from cadc_rec.errors import CadcError
from cadc_rec.log import track
from cadc_rec.store.artifact import Artifact, Draft

_BALANCED = {
    "over-sampling": balanced.over_sampling_counts,
    "under-sampling": balanced.under_sampling_counts,
}
SELECTED = INTERACTIONS.append(pa.field("row", pa.int64()))
HISTORY = pa.field("history", pa.list_(pa.int32()))


def build_selection(
    select: SelectConfig,
    seed: int,
    dataset: Artifact,
    draft: Draft,
    history: int = 0,
    vectors: Vectors | None = None,
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Fill the draft of the select stage; see `build_selections`."""
    build_selections([(select, draft)], seed, dataset, history, vectors, rows)


def build_selections(
    asked: Sequence[tuple[SelectConfig, Draft]],
    seed: int,
    dataset: Artifact,
    history: int = 0,
    vectors: Vectors | None = None,
    rows: NDArray[np.int64] | None = None,
    ranks: Ranks | None = None,
    gradients: PairKeys | None = None,
) -> None:
    """Fill the drafts of several selections in one pass. Every one of `ranks` must call.

    Args:
        asked: kind, filtering ratio and number of shards of each, and where it goes. A draft's
            ``info`` receives shards (rows of each), selected, of and share, touched (the distinct
            interactions that rows and histories refer to) and the bytes of D_sel and D_full as
            Parquet; ``rows`` the rows of D_full.
        seed: of the draws; none depends on what else is asked for.
        dataset: the prepare stage's artifact.
        history: items that go with each row at most; 0 writes none.
        vectors: of users and items, for selections by score or distance.
        rows: the ascending rows of D_full to take, where they were chosen elsewhere.
        ranks: that write the shards together; default: this process writes all.
        gradients: the norm of each pair's gradient, for selections by it.

    Raises:
        CadcError: D_full has no time to part it by.
    """
    ranks = ranks or Alone()
    full = _Full(dataset, seed, vectors, gradients, ranks)
    targets = [_Target(select, draft, full, history, ranks, rows) for select, draft in asked]
    ranks.together(lambda: _write(full, targets, visible=ranks.rank == 0))
    bytes_of = _bytes(train_files(dataset.path))
    for target in targets:
        target.record(bytes_of)


def _write(full: _Full, targets: Sequence[_Target], visible: bool) -> None:
    """Go once through D_full."""
    with track("select", full.total, "rows", visible=visible) as ticker, ExitStack() as open_shards:
        for target in targets:
            open_shards.enter_context(target.shards)
        for block in full.blocks:
            for target in targets:
                target.take(block)
            ticker.advance(len(block))


@dataclass
class _Full:
    """D_full, and the parts of it that selections look at: each is read when first needed."""

    dataset: Artifact
    seed: int
    vectors: Vectors | None
    gradients: PairKeys | None
    ranks: Ranks
    _by_time: dict[int, tuple[Strata, NDArray[np.int64]]] = field(default_factory=dict, init=False)

    @property
    def total(self) -> int:
        """Rows."""
        return int(self.dataset.info["train"])

    @cached_property
    def blocks(self) -> Blocks:
        """All of its rows."""
        return Blocks(RowGroups(train_files(self.dataset.path)), self.total)

    def tables(self, column: str) -> Iterator[pa.Table]:
        """One of D_full's columns, a row group at a time."""
        return read_groups(train_files(self.dataset.path), [column])

    @cached_property
    def whole(self) -> Dataset:
        """All of it, mapped, for histories and scores."""
        return Dataset.open(self.dataset)

    @cached_property
    def user_indptr(self) -> NDArray[np.int64]:
        """``[n_users + 1]``: where each user's rows begin and end, mapped."""
        if has_columns(self.dataset.path):
            return row_starts(self.dataset.path, "user")
        return np.concatenate([[0], np.cumsum(self._counted("user"))])

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """``[n_items]``: rows of each item."""
        if has_columns(self.dataset.path):
            return np.diff(row_starts(self.dataset.path, "item"))
        return self._counted("item")

    def _counted(self, side: Literal["user", "item"]) -> NDArray[np.int64]:
        """How many rows each user (or item) has, read from the rows."""
        counts = np.zeros(int(self.dataset.info[f"{side}s"]), np.int64)
        for block in self.tables(side):
            counts += np.bincount(block[side].to_numpy(), minlength=len(counts))
        return counts

    def choice(self, select: SelectConfig) -> Choice:
        """How `select` chooses rows; every rank must call."""
        wanted, seed, ranks = wanted_rows(select, self.total), self.seed, self.ranks
        match select.kind:
            case "item-stratified":
                items = Strata.items(len(self.item_counts))
                return OfStrata(StratifiedChoice(items, self.item_counts, wanted, seed))
            case "time-stratified":
                periods = self.time_strata(select.periods)
                return OfStrata(StratifiedChoice(*periods, wanted, seed))
            case "over-sampling" | "under-sampling" as kind:
                counts = _BALANCED[kind](self.item_counts, wanted, balanced.generator(seed))
                of = balanced.Balanced(self.blocks, self.item_counts, counts, seed, ranks)
                return counted(of, self.blocks, ranks)
            case "recent":
                by_user = ByUser(self.user_indptr, wanted, seed, ranks)
                return counted(by_user.recent, self.blocks, ranks)
            case "user-stratified":
                by_user = ByUser(self.user_indptr, wanted, seed, ranks)
                return counted(by_user.stratified, self.blocks, ranks)
            case "recency-weighted":
                return choices.recency_weighted(
                    self.user_indptr, wanted, select.half_life, seed, self.blocks, ranks
                )
            case "hard":
                assert self.vectors is not None
                return choices.hard(self._ids, self.vectors, wanted, self.blocks, ranks)
            case "gradient-norm":
                assert self.gradients is not None
                return choices.highest(self._ids, self.gradients, wanted, self.blocks, ranks)
            case "k-centres":
                assert self.vectors is not None
                return k_centres(self._ids, self.vectors, wanted, select.centres, seed, self.blocks)
            case "uniform" | "everything":
                return uniform(self.total, wanted, seed)

    def _ids(self, block: Block) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Users and items of a block's rows."""
        rows = slice(block.start, block.stop)
        return self.whole.train_user[rows], self.whole.train_item[rows]

    def time_strata(self, periods: int) -> tuple[Strata, NDArray[np.int64]]:
        """One stratum a period, and how many rows each has.

        Raises:
            CadcError: the source has no time.
        """
        if periods not in self._by_time:
            strata = Strata.periods(*self._first_and_last(), periods)
            self._by_time[periods] = strata, strata.counts(self.tables(strata.column))
        return self._by_time[periods]

    def _first_and_last(self) -> tuple[int, int]:
        if not self.dataset.info.get("has_time", True):
            raise CadcError(
                "select.kind = 'time-stratified' parts the interactions by their time, and this "
                "source has none; choose another select.kind, such as 'user-stratified'."
            )
        ends = [pc.min_max(b["timestamp"]).as_py() for b in self.tables("timestamp")]
        return min(end["min"] for end in ends), max(end["max"] for end in ends)


@dataclass
class _Target:
    """One selection on its way to its shards, those of this rank."""

    select: SelectConfig
    draft: Draft
    full: _Full
    history: int
    ranks: Ranks
    rows: NDArray[np.int64] | None = None
    shards: ShardWriter = field(init=False)

    def __post_init__(self) -> None:
        total, given = self.full.total, self.rows
        self.wanted = wanted_rows(self.select, total) if given is None else len(given)
        self.sizes = shard_sizes(self.wanted, self.select.shards)
        mine = self.ranks.share(len(self.sizes))
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        self._first, self._last = int(ends[mine.start]), int(ends[mine.stop])
        self._choice = self.full.choice(self.select) if given is None else Given(given)
        schema = SELECTED.append(HISTORY) if self.history else SELECTED
        self.shards = ShardWriter(self.draft.path, self.sizes, schema, mine)
        self._seen = 0  # rows chosen so far, whoever writes them
        self.touched, self._end = 0, 0  # distinct rows referred to, all of them before this one

    def take(self, block: Block) -> None:
        """Write what is chosen of the next block and belongs to this rank's shards."""
        choice, before = self._choice, self._seen
        if before >= self._last:
            return
        count = choice.count(block)
        if count is not None and before + count < self._first:
            self._seen += count
            return
        positions = choice.rows(block)
        self._seen += len(positions)
        first, last = (max(0, at - before) for at in (self._first, self._last))
        if first and len(positions):  # the last one of those that another rank writes
            self._end = block.start + int(positions[:first][-1]) + 1
        positions = positions[first:last]
        if not len(positions):
            return
        piece = HISTORY_ROWS if self.history else len(positions)
        for begin in range(0, len(positions), piece):
            self._write(block, positions[begin : begin + piece])

    def _write(self, block: Block, positions: NDArray[np.int64]) -> None:
        rows = _take(block.table, block.start, positions)
        if self.history:
            at = block.start + positions
            rows, begins = _with_history(rows, at, self.full.whole, self.history)
            self._touch(begins, at + 1)
        self.shards.add(rows)

    def _touch(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Count the rows of spans that no span before them has; both ends ascend."""
        if len(ends):
            before = np.concatenate([[self._end], ends[:-1]])
            self.touched += int((ends - np.maximum(begins, before)).sum())
            self._end = int(ends[-1])

    def record(self, bytes_of: int) -> None:
        """Write the numbers of the selection into the manifest; every rank must call."""
        total = self.full.total
        mine = self.touched, _bytes(self.shards.written)
        touched, size = (sum(each) for each in zip(*self.ranks.all_gather(mine), strict=True))
        self.draft.rows = total
        self.draft.info.update(
            shards=self.sizes,
            selected=self.wanted,
            of=total,
            share=self.wanted / total,
            touched=touched if self.history else None,
            bytes=size,
            bytes_of=bytes_of,
        )


def _with_history(
    rows: pa.Table,
    positions: NDArray[np.int64],
    whole: Dataset,
    length: int,
) -> tuple[pa.Table, NDArray[np.int64]]:
    """`rows` with histories, and where in D_full what each refers to begins."""
    items = whole.history_before(positions, length)
    known = items != NO_ITEM
    counts = known.sum(1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(items[known]))
    return rows.append_column(HISTORY, column), positions - counts


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _take(block: pa.Table, start: int, positions: NDArray[np.int64]) -> pa.Table:
    """The rows at `positions`, with their position in D_full."""
    run = bool((np.diff(positions) == 1).all())
    rows = (
        block.slice(int(positions[0]), len(positions)) if run else block.take(pa.array(positions))
    )
    row = pc.add(pa.array(positions), pa.scalar(start, pa.int64()))
    return rows.append_column(SELECTED.field("row"), row)
