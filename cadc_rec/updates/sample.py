"""D_sel after a day: a uniform sample carried on, and the part of a sample that the day brought.

In: a sample of the old D_full, what changed of it. Out: a sample that is still uniform over the new
D_full and has mostly the same rows; rows of a sample that came with the day, and as many others.

Of N' rows, n' are wanted. A of them stood in the old D_full, B = N' - A did not. In a uniform
sample of n' the number a of old rows is hypergeometric(A, B, n'), and given a they are any a of A
alike. The old sample, less the rows that D_full lost, is a uniform sample of the A rows whatever
its size; taking rows away from it at random, or adding some of the others at random, until there
are a, leaves it one. The rest is drawn from the B. So the result is distributed exactly as a fresh
draw of n' from N' would be, and only about sqrt(n') old rows change beside what must.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, bit_generator
from cadc_rec.data.streams import ShardWriter
from cadc_rec.updates.changes import Changes


def sampled_rows(selection: Path) -> NDArray[np.int64]:
    """The rows of D_full that a select artifact holds, ascending."""
    files = sorted(selection.glob("shard-*.parquet"))
    rows = [pq.read_table(file, columns=["row"])["row"].to_numpy() for file in files]
    return np.sort(np.concatenate(rows))


def refreshed_sample(
    sample: NDArray[np.int64], changes: Changes, wanted: int, key: tuple[int, ...]
) -> NDArray[np.int64]:
    """A uniform sample of the new D_full that keeps what it can of the old one.

    Args:
        sample: rows of the old D_full, each once: a uniform sample of it.
        changes: from the old D_full to the new one.
        wanted: rows of the new sample.
        key: (seed, place...) of the draw: another one for every update.

    Returns:
        Ascending rows of the new D_full, int64 ``[wanted]``.
    """
    draw = np.random.Generator(bit_generator((key[0], Purpose.REFRESHED_SELECTION, *key[1:])))
    kept = changes.place[sample]
    kept = kept[kept >= 0]
    old, new = np.flatnonzero(~changes.came), np.flatnonzero(changes.came)
    of_old = wanted if not len(new) else int(draw.hypergeometric(len(old), len(new), wanted))
    if len(kept) >= of_old:
        kept = draw.choice(kept, of_old, replace=False, shuffle=False)
    else:
        taken = np.zeros(len(changes.came), bool)
        taken[kept] = True
        others = old[~taken[old]]
        more = draw.choice(others, of_old - len(kept), replace=False, shuffle=False)
        kept = np.concatenate([kept, more])
    fresh = draw.choice(new, wanted - of_old, replace=False, shuffle=False)
    return np.sort(np.concatenate([kept, fresh]))


def write_rows_of_day(
    selection: Path,
    folder: Path,
    came: NDArray[np.bool_],
    key: tuple[int, ...],
    shards: int = 1,
) -> int:
    """Write a selection of the rows that came with the day, and as many of the others.

    Args:
        selection: a select artifact's folder.
        folder: receives the shards.
        came: ``[rows]``, which rows of D_full came with the day.
        key: (seed, place...) of the draw of the others: another one for every update.
        shards: how many, in the order of the rows.

    Returns:
        How many rows of it came with the day; without any, nothing is written but empty shards.
    """
    before = [pq.read_table(file) for file in sorted(selection.glob("shard-*.parquet"))]
    table = pa.concat_tables(before)
    new = came[table["row"].to_numpy()]
    draw = np.random.Generator(bit_generator((key[0], Purpose.ROWS_OF_DAY, *key[1:])))
    others, count = np.flatnonzero(~new), int(new.sum())
    kept = new.copy()
    kept[draw.choice(others, min(count, len(others)), replace=False, shuffle=False)] = True
    rows = [len(part) for part in np.array_split(np.flatnonzero(kept), shards)]
    with ShardWriter(folder, rows, table.schema) as out:
        out.add(table.filter(pa.array(kept)))
    return count
