"""The uniform sample, carried on: still uniform over the new D_full, mostly the same rows.

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
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, bit_generator
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
