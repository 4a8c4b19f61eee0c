"""The select stage: which interactions of D_full the two towers see (D_sel).

In: the prepare stage's artifact. Out: ``shard-00000-of-00008.parquet`` and on, with user, item,
timestamp and ``row``, the interaction's position in D_full. Every user and item keeps its id.
Selections of several ratios are written in one pass over D_full, each as if alone.

`uniform` draws an exact number of rows without replacement. D_full is taken in logical blocks of
2**20 rows: a sequential hypergeometric draw fixes how many rows each block gives, a choice without
replacement which ones. The result is uniform over all samples of that size, needs one block in
memory, and depends on the seed and the rows alone, not on files, shards or processes.

With a history, a row carries the items its user took before it, the latest first, as a list
column. Its own item is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data.columns import train_files
from cadc_rec.data.dataset import NO_ITEM, Dataset
from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.randomness import Purpose, bit_generator, hypergeometric
from cadc_rec.data.select import balanced, choices
from cadc_rec.data.select.sizes import shard_sizes, wanted_rows
from cadc_rec.data.select.strata import Strata, StratifiedChoice
from cadc_rec.data.streams import ROW_GROUP_ROWS, ShardWriter, read_groups, rechunk
from cadc_rec.errors import CadcError
from cadc_rec.log import track
from cadc_rec.store.artifact import Artifact, Draft

BLOCK_ROWS = ROW_GROUP_ROWS
_COUNTS, _ROWS = 0, 1  # kinds of draws: how many rows a block gives, and which
_BALANCED = {
    "over-sampling": balanced.over_sampling_counts,
    "under-sampling": balanced.under_sampling_counts,
}
_BY_USER = ("recent", "recency-weighted", "user-stratified")
SELECTED = INTERACTIONS.append(pa.field("row", pa.int64()))
HISTORY = pa.field("history", pa.list_(pa.int32()))
Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]
Choice = Callable[[pa.Table], NDArray[np.int64]]
"""Given D_full's blocks in order: the ascending positions of the rows chosen in each."""


def build_selection(
    select: SelectConfig,
    seed: int,
    dataset: Artifact,
    draft: Draft,
    history: int = 0,
    vectors: Callable[[], Vectors] | None = None,
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Fill the draft of the select stage; see `build_selections`."""
    build_selections([(select, draft)], seed, dataset, history, vectors, rows)


def build_selections(
    asked: Sequence[tuple[SelectConfig, Draft]],
    seed: int,
    dataset: Artifact,
    history: int = 0,
    vectors: Callable[[], Vectors] | None = None,
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Fill the drafts of several selections in one pass. Only the rank that writes may call it.

    Args:
        asked: kind, filtering ratio and number of shards of each, and where it goes. A draft's
            ``info`` receives shards (rows of each), selected, of and share, touched (the distinct
            interactions that rows and histories refer to) and the bytes of D_sel and D_full as
            Parquet; ``rows`` the rows of D_full.
        seed: of the draws; none depends on what else is asked for.
        dataset: the prepare stage's artifact.
        history: items that go with each row at most; 0 writes none.
        vectors: user and item vectors for selections by score.
        rows: the ascending rows of D_full to take, where they were chosen elsewhere.

    Raises:
        CadcError: D_full has no time to part it by.
    """
    full = _Full(dataset, seed, vectors)
    targets = [_Target(select, draft, full, history, rows) for select, draft in asked]
    with track("select", full.total, "rows") as ticker, ExitStack() as open_shards:
        for target in targets:
            open_shards.enter_context(target.shards)
        for start, block in _numbered(full.blocks(INTERACTIONS.names)):
            for target in targets:
                target.take(block, start)
            ticker.advance(block.num_rows)
    bytes_of = _bytes(train_files(dataset.path))
    for target in targets:
        target.record(bytes_of)


@dataclass
class _Full:
    """D_full, and the parts of it that selections look at: each is read when first needed."""

    dataset: Artifact
    seed: int
    vectors: Callable[[], Vectors] | None
    _by_time: dict[int, tuple[Strata, NDArray[np.int64]]] = field(default_factory=dict, init=False)

    @property
    def total(self) -> int:
        """Rows."""
        return int(self.dataset.info["train"])

    def blocks(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """D_full in blocks of ``BLOCK_ROWS``."""
        return rechunk(read_groups(train_files(self.dataset.path), columns), BLOCK_ROWS)

    @cached_property
    def whole(self) -> Dataset:
        """All of it in memory, for histories and scores."""
        return Dataset.open(self.dataset)

    @cached_property
    def user_indptr(self) -> NDArray[np.int64]:
        """``[n_users + 1]``: where each user's rows begin and end."""
        counts = np.zeros(int(self.dataset.info["users"]), np.int64)
        for block in self.blocks(["user"]):
            counts += np.bincount(block["user"].to_numpy(), minlength=len(counts))
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def item(self) -> NDArray[np.int32]:
        """Every row's item."""
        return np.concatenate([block["item"].to_numpy() for block in self.blocks(["item"])])

    def choice(self, select: SelectConfig) -> Choice:
        """How `select` chooses rows."""
        wanted = wanted_rows(select, self.total)
        if select.kind == "item-stratified":
            return StratifiedChoice(*self.item_strata, wanted, self.seed)
        if select.kind == "time-stratified":
            return StratifiedChoice(*self.time_strata(select.periods), wanted, self.seed)
        if select.kind in _BY_USER or select.kind in _BALANCED or select.kind == "hard":
            chosen = _in_blocks(self._rows(select, wanted), self.total)
        else:
            chosen = choose_uniform(self.total, wanted, self.seed)
        return lambda _: next(chosen)

    @cached_property
    def item_strata(self) -> tuple[Strata, NDArray[np.int64]]:
        """One stratum an item, and how many rows each has."""
        strata = Strata.items(int(self.dataset.info["items"]))
        return strata, strata.counts(self.blocks([strata.column]))

    def time_strata(self, periods: int) -> tuple[Strata, NDArray[np.int64]]:
        """One stratum a period, and how many rows each has.

        Raises:
            CadcError: the source has no time.
        """
        if periods not in self._by_time:
            strata = Strata.periods(*self._first_and_last(), periods)
            self._by_time[periods] = strata, strata.counts(self.blocks([strata.column]))
        return self._by_time[periods]

    def _first_and_last(self) -> tuple[int, int]:
        if not self.dataset.info.get("has_time", True):
            raise CadcError(
                "select.kind = 'time-stratified' parts the interactions by their time, and this "
                "source has none; choose another select.kind, such as 'user-stratified'."
            )
        ends = [pc.min_max(b["timestamp"]).as_py() for b in self.blocks(["timestamp"])]
        return min(end["min"] for end in ends), max(end["max"] for end in ends)

    def _rows(self, select: SelectConfig, wanted: int) -> NDArray[np.int64]:
        """Ascending rows of a selection that ranks or sorts them."""
        draw = choices.generator(self.seed)
        if select.kind in _BALANCED:
            frequency = np.bincount(self.item, minlength=int(self.dataset.info["items"]))
            counts = _BALANCED[select.kind](
                frequency.astype(np.int64), wanted, balanced.generator(self.seed)
            )
            return balanced.choose_rows(self.item, counts, self.seed)
        if select.kind == "recent":
            return choices.recent_rows(self.user_indptr, wanted, draw)
        if select.kind == "user-stratified":
            return choices.stratified_rows(self.user_indptr, wanted, draw)
        if select.kind == "recency-weighted":
            return choices.recency_weighted_rows(self.user_indptr, wanted, select.half_life, draw)
        assert self.vectors is not None
        whole = self.whole
        return choices.hard_rows(whole.train_user, whole.train_item, *self.vectors(), wanted)


@dataclass
class _Target:
    """One selection on its way to its shards."""

    select: SelectConfig
    draft: Draft
    full: _Full
    history: int
    rows: NDArray[np.int64] | None = None
    shards: ShardWriter = field(init=False)

    def __post_init__(self) -> None:
        total = self.full.total
        if self.rows is None:
            self.wanted = wanted_rows(self.select, total)
            self.choose = self.full.choice(self.select)
        else:
            given = _in_blocks(self.rows, total)
            self.wanted, self.choose = len(self.rows), lambda _: next(given)
        self.sizes = shard_sizes(self.wanted, self.select.shards)
        schema = SELECTED.append(HISTORY) if self.history else SELECTED
        self.shards = ShardWriter(self.draft.path, self.sizes, schema)
        self.touched, self._end = 0, 0  # distinct rows referred to, all of them before this one

    def take(self, block: pa.Table, start: int) -> None:
        """Write what is chosen of the next block, whose first row is `start`."""
        positions = self.choose(block)
        rows = _take(block, start, positions)
        if self.history:
            rows, begins = _with_history(rows, start + positions, self.full.whole, self.history)
            self._touch(begins, start + positions + 1)
        self.shards.add(rows)

    def _touch(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Count the rows of spans that no span before them has; both ends ascend."""
        if len(ends):
            before = np.concatenate([[self._end], ends[:-1]])
            self.touched += int((ends - np.maximum(begins, before)).sum())
            self._end = int(ends[-1])

    def record(self, bytes_of: int) -> None:
        """Write the numbers of the selection into the manifest."""
        total = self.full.total
        self.draft.rows = total
        self.draft.info.update(
            shards=self.sizes,
            selected=self.wanted,
            of=total,
            share=self.wanted / total,
            touched=self.touched if self.history else None,
            bytes=_bytes(self.draft.path.glob("shard-*.parquet")),
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


def _in_blocks(rows: NDArray[np.int64], total: int) -> Iterator[NDArray[np.int64]]:
    """Ascending rows of `total`, block by block, as positions in their block."""
    for start in range(0, total, BLOCK_ROWS):
        first, last = np.searchsorted(rows, [start, start + BLOCK_ROWS])
        yield rows[first:last] - start


def choose_uniform(total: int, wanted: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """A uniform sample without replacement of `wanted` of `total` rows, block by block.

    Yields:
        For each block of ``BLOCK_ROWS`` rows, the ascending positions chosen in that block, int64.
    """
    counts = _generator(seed, _COUNTS)
    for block in range(-(-total // BLOCK_ROWS)):
        rows = min(BLOCK_ROWS, total - block * BLOCK_ROWS)
        after = total - block * BLOCK_ROWS - rows
        count = rows if wanted == rows + after else hypergeometric(counts, rows, after, wanted)
        if count == rows:
            yield np.arange(rows, dtype=np.int64)
        else:
            draw = _generator(seed, _ROWS, block)
            yield np.sort(draw.choice(rows, count, replace=False, shuffle=False))
        wanted -= count


def _generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.Generator(bit_generator((seed, Purpose.SELECTION, *place)))


def _numbered(blocks: Iterator[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Each block with the position of its first row."""
    start = 0
    for block in blocks:
        yield start, block
        start += block.num_rows


def _take(block: pa.Table, start: int, positions: NDArray[np.int64]) -> pa.Table:
    """The rows at `positions`, with their position in D_full."""
    whole = len(positions) == block.num_rows and bool((np.diff(positions) == 1).all())
    rows = block if whole else block.take(pa.array(positions))
    row = pc.add(pa.array(positions), pa.scalar(start, pa.int64()))
    return rows.append_column(SELECTED.field("row"), row)
