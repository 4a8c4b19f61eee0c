"""The select stage: which interactions of D_full the two towers see (D_sel).

In: the prepare stage's artifact. Out: ``shard-00000-of-00008.parquet`` and on, with user, item,
timestamp and ``row``, the interaction's position in D_full. Every user and item keeps its id.

`uniform` draws an exact number of rows without replacement. D_full is taken in logical blocks of
2**20 rows: a sequential hypergeometric draw fixes how many rows each block gives, a choice without
replacement which ones. The result is uniform over all samples of that size, needs one block in
memory, and depends on the seed and the rows alone, not on files, shards or processes.

With a history, a row carries the items its user took before it, the latest first, as a list
column. Its own item is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cadc_rec.artifacts import Artifact, Draft
from cadc_rec.config import SelectConfig
from cadc_rec.data import balanced, choices
from cadc_rec.data.dataset import NO_ITEM, Dataset, train_files
from cadc_rec.data.parquet import ROW_GROUP_ROWS, parquet_writer, read_groups, rechunk
from cadc_rec.data.prepare import INTERACTIONS
from cadc_rec.data.randomness import Purpose, bit_generator
from cadc_rec.errors import CadcError
from cadc_rec.progress import track

BLOCK_ROWS = ROW_GROUP_ROWS
SHARD_GROUP_ROWS = 2**18
_COUNTS, _ROWS = 0, 1  # of the selection's draws: rows a block gives, and which
_MAX_ROWS = 10**9  # numpy.random.Generator.hypergeometric takes no larger population
_BALANCED = {
    "over-sampling": balanced.over_sampling_counts,
    "under-sampling": balanced.under_sampling_counts,
}
_INFORMED = ("recent", "recency-weighted", "user-stratified", "hard")
SELECTED = INTERACTIONS.append(pa.field("row", pa.int64()))
HISTORY = pa.field("history", pa.list_(pa.int32()))
Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]


def selection_settings(select: SelectConfig, seed: int, history: int = 0) -> dict[str, Any]:
    """The settings that decide what `build_selection` writes."""
    told = {"history": history} if history else {}
    if select.kind == "everything":  # neither ratio nor seed has a say
        return {"kind": select.kind, "shards": select.shards, **told}
    unused = set() if select.kind == "recency-weighted" else {"half_life"}
    return {**select.model_dump(mode="json", exclude=unused), "seed": seed, **told}


def needs_vectors(select: SelectConfig) -> bool:
    """Whether the selection depends on pre-trained vectors."""
    return select.kind == "hard"


def build_selection(
    select: SelectConfig,
    seed: int,
    dataset: Artifact,
    draft: Draft,
    history: int = 0,
    vectors: Callable[[], Vectors] | None = None,
) -> None:
    """Fill the draft of the select stage. Only the rank that writes may call it.

    Args:
        select: kind, filtering ratio and number of shards.
        seed: of the draw.
        dataset: the prepare stage's artifact.
        draft: its ``info`` receives shards (rows of each), selected, of and share, touched (the
            distinct interactions that rows and histories refer to) and the bytes of D_sel and
            D_full as Parquet; ``rows`` the rows of D_full.
        history: items that go with each row at most; 0 writes none.
        vectors: user and item vectors for selections by score.

    Raises:
        CadcError: D_full is larger than the draw can take.
    """
    total = int(dataset.info["train"])
    wanted = total if select.kind == "everything" else selected_rows(total, select.ratio)
    whole = Dataset.open(dataset) if history or select.kind in _INFORMED else None
    if select.kind in _BALANCED:
        chosen = _choose_balanced(select.kind, dataset, wanted, seed)
    elif select.kind in _INFORMED:
        assert whole is not None
        chosen = _in_blocks(_choose_informed(select, whole, wanted, seed, vectors), total)
    else:
        chosen = choose_uniform(total, wanted, seed)
    schema = SELECTED.append(HISTORY) if history else SELECTED
    touched = np.zeros(total + 1 if history else 0, np.int32)
    with track("select", total, "rows") as ticker:

        def selected() -> Iterator[pa.Table]:
            groups = read_groups(train_files(dataset.path), columns=INTERACTIONS.names)
            for start, block in _numbered(rechunk(groups, BLOCK_ROWS)):
                positions = next(chosen)
                rows = _take(block, start, positions)
                if whole is not None and history:
                    rows = _with_history(rows, start + positions, whole, history, touched)
                yield rows
                ticker.advance(block.num_rows)

        sizes = shard_sizes(wanted, select.shards)
        _write_shards(draft.path, sizes, rechunk(selected(), SHARD_GROUP_ROWS), schema)
    draft.rows = total
    draft.info.update(
        shards=sizes,
        selected=wanted,
        of=total,
        share=wanted / total,
        touched=int((np.cumsum(touched[:-1]) > 0).sum()) if history else None,
        bytes=_bytes(draft.path.glob("shard-*.parquet")),
        bytes_of=_bytes(train_files(dataset.path)),
    )


def _choose_informed(
    select: SelectConfig,
    whole: Dataset,
    wanted: int,
    seed: int,
    vectors: Callable[[], Vectors] | None,
) -> NDArray[np.int64]:
    """Ascending rows of a selection that looks at them."""
    draw = choices.generator(seed)
    if select.kind == "recent":
        return choices.recent_rows(whole.user_indptr, wanted, draw)
    if select.kind == "user-stratified":
        return choices.stratified_rows(whole.user_indptr, wanted, draw)
    if select.kind == "recency-weighted":
        return choices.recency_weighted_rows(whole.user_indptr, wanted, select.half_life, draw)
    assert vectors is not None
    return choices.hard_rows(whole.train_user, whole.train_item, *vectors(), wanted)


def _with_history(
    rows: pa.Table,
    positions: NDArray[np.int64],
    whole: Dataset,
    length: int,
    touched: NDArray[np.int32],
) -> pa.Table:
    """`rows` with their histories; `touched` has one added where what they refer to begins."""
    items = whole.history_before(positions, length)
    known = items != NO_ITEM
    counts = known.sum(1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(items[known]))
    np.add.at(touched, positions - counts, 1)
    np.add.at(touched, positions + 1, -1)
    return rows.append_column(HISTORY, column)


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _choose_balanced(
    kind: str, dataset: Artifact, wanted: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Positions of a sample balanced over items, block by block, as `choose_uniform` does."""
    groups = read_groups(train_files(dataset.path), columns=["item"])
    item = np.concatenate([group["item"].to_numpy() for group in groups])
    frequency = np.bincount(item, minlength=int(dataset.info["items"])).astype(np.int64)
    counts = _BALANCED[kind](frequency, wanted, balanced.generator(seed))
    yield from _in_blocks(balanced.choose_rows(item, counts, seed), len(item))


def _in_blocks(rows: NDArray[np.int64], total: int) -> Iterator[NDArray[np.int64]]:
    """Ascending rows of `total`, block by block, as positions in their block."""
    for start in range(0, total, BLOCK_ROWS):
        first, last = np.searchsorted(rows, [start, start + BLOCK_ROWS])
        yield rows[first:last] - start


def selected_rows(total: int, ratio: float) -> int:
    """The exact number of rows a filtering ratio keeps: at least one."""
    return max(1, round(total / ratio))


def choose_uniform(total: int, wanted: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """A uniform sample without replacement of `wanted` of `total` rows, block by block.

    Yields:
        For each block of ``BLOCK_ROWS`` rows, the ascending positions chosen in that block, int64.

    Raises:
        CadcError: `total` is more than NumPy's hypergeometric draw takes.
    """
    if wanted < total > _MAX_ROWS:
        raise CadcError(
            f"select.kind = 'uniform' takes at most {_MAX_ROWS:,} training rows, the dataset has "
            f"{total:,}; prepare a part of it."
        )
    counts = _generator(seed, _COUNTS)
    for block in range(-(-total // BLOCK_ROWS)):
        rows = min(BLOCK_ROWS, total - block * BLOCK_ROWS)
        after = total - block * BLOCK_ROWS - rows
        count = rows if wanted == rows + after else int(counts.hypergeometric(rows, after, wanted))
        if count == rows:
            yield np.arange(rows, dtype=np.int64)
        else:
            draw = _generator(seed, _ROWS, block)
            yield np.sort(draw.choice(rows, count, replace=False, shuffle=False))
        wanted -= count


def shard_sizes(rows: int, shards: int) -> list[int]:
    """Rows of each shard: sizes differ by at most one, the larger ones first."""
    return [rows // shards + (shard < rows % shards) for shard in range(shards)]


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


def _write_shards(
    folder: Path, sizes: list[int], tables: Iterator[pa.Table], schema: pa.Schema
) -> None:
    """Deal a stream of rows out to shards: contiguous runs of the given sizes."""
    table = schema.empty_table()
    for shard, size in enumerate(sizes):
        name = f"shard-{shard:05d}-of-{len(sizes):05d}.parquet"
        with parquet_writer(folder / name, schema) as writer:
            missing = size
            while missing:
                if table.num_rows == 0:
                    table = next(tables)
                head = table.slice(0, missing)
                writer.write_table(head.cast(schema), row_group_size=SHARD_GROUP_ROWS)
                missing -= head.num_rows
                table = table.slice(head.num_rows)
