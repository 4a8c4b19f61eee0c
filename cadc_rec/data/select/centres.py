"""The k-centres selection: rows whose vectors lie close to every row's (a core-set).

In: users and items of a block's rows, and their pre-trained vectors. Out: which rows of the block
are taken. The vector of a row is its user's beside its item's, as the two towers read them, and the
distance is Euclidean: the core-set of Sener and Savarese (2018, "Active Learning for Convolutional
Neural Networks: A Core-Set Approach"), whose bound is on how far the inputs of a model lie from
those that it is trained on. Their first algorithm is used: every next row is the farthest from all
that were taken (Gonzalez 1985), which leaves at most twice the least possible radius.

Over all rows that takes time in rows times taken rows. So the rows of a block of D_full are parted
at random, and each part gives its share of rows by itself: `centres` of them from `centres` times
the filtering ratio. Time is then linear in the rows and hardly depends on the ratio, a part's
vectors are all that is held, and a block's rows need no other block, so ranks share the blocks. If
all rows lie in one part, this is the algorithm over all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.randomness import Purpose, bit_generator
from cadc_rec.data.select.blocks import Block, Blocks, ByBlock
from cadc_rec.data.select.choices import Ids, Ints, Vectors

Floats = NDArray[np.float32]


def part_rows(centres: int, total: int, wanted: int, block: int) -> int:
    """Rows of a part at most.

    Args:
        centres: that a part gives, about.
        total: rows of D_full.
        wanted: of them.
        block: rows of a block, of which a part is one.
    """
    return min(block, -(-centres * total // max(wanted, 1)))


def k_centres(
    rows_of: Callable[[Block], tuple[Ids, Ids]],
    vectors: Vectors,
    wanted: int,
    centres: int,
    seed: int,
    blocks: Blocks,
) -> ByBlock:
    """The rows that are centres of the random parts of each block.

    Args:
        rows_of: users and items of a block's rows.
        vectors: of users and items.
        wanted: rows in all.
        centres: rows that a part gives, about.
        seed: of the parts and of the first row of each.
        blocks: of D_full.
    """
    total = blocks.total

    def before(row: int) -> int:
        """Rows that are taken of those before `row`, which keeps every share exact."""
        return row * wanted // total

    def of(block: Block) -> Ints:
        user, item = rows_of(block)
        key = (seed, Purpose.CENTRES_SELECTION, block.number)
        shuffled = np.random.Generator(bit_generator(key)).permutation(len(block))
        parts = -(-len(block) // part_rows(centres, total, wanted, len(block)))
        ends = [len(block) * number // parts for number in range(parts + 1)]
        found = [np.empty(0, np.int64)]
        for first, last in pairwise(ends):
            rows = shuffled[first:last]
            count = before(block.start + last) - before(block.start + first)
            found.append(rows[_of_part(user[rows], item[rows], vectors, count)])
        return np.sort(np.concatenate(found))

    counts = [before(block.stop) - before(block.start) for block in blocks]
    return ByBlock(of, counts)


def _of_part(user: Ids, item: Ids, vectors: Vectors, count: int) -> Ints:
    """Positions of a part's centres."""
    if count in (0, len(user)):
        return np.arange(count)
    users, user_at = np.unique(user, return_inverse=True)
    items, item_at = np.unique(item, return_inverse=True)
    return farthest_first(*vectors(users, items), user_at, item_at, count)


def farthest_first(users: Floats, items: Floats, user: Ints, item: Ints, count: int) -> Ints:
    """Positions of rows of which each is the farthest from all before it; the first is row 0.

    A squared distance of two rows is that of their users and that of their items, added up: so it
    is computed once for each user and item, not for each row. Of equally far rows the first is
    taken.

    Args:
        users: float32 ``[users, dim]``, the vector of each.
        items: float32 ``[items, dim]``.
        user: ``[rows]``, the place of each row's user in `users`.
        item: ``[rows]``, likewise.
        count: rows to take, from one up to all.

    Returns:
        int64 ``[count]``, in the order in which they were taken.
    """
    squares = [np.einsum("nd,nd->n", table, table) for table in (users, items)]
    nearest = np.full(len(user), np.inf, np.float32)
    taken = np.zeros(count, np.int64)
    for place in range(1, count):
        last = taken[place - 1]
        of_user = _squared_distances(users, squares[0], user[last])
        of_item = _squared_distances(items, squares[1], item[last])
        np.minimum(nearest, of_user[user] + of_item[item], out=nearest)
        nearest[last] = -np.inf  # never again, even if all others lie where a taken one does
        taken[place] = nearest.argmax()
    return taken


def _squared_distances(table: Floats, squares: Floats, row: int) -> Floats:
    """Of all rows of a table from one of them, float32 ``[rows]``."""
    # One thread, whatever the machine has: every rank gets the same bits, which BLAS's do not.
    products = np.einsum("nd,d->n", table, table[row])
    return squares + (squares[row] - 2 * products)
