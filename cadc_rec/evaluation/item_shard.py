"""A shard of the items: how many of them score no lower than each user's target.

In: the items' vectors, and a block of users with their targets' exact scores. Out: counts, which
add up over shards. Scores are formed for a tile of items at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.top_items import Best, TopItems, exact_scores

Added: TypeAlias = "sparse.csr_array | sparse.csc_array"
_ELEMENTS = 1_000_000  # scores held at once on CPU: 4 MB of float32 stay near the core
_ELEMENTS_OF_GPU = 2**28  # 1 GiB of float32
_USERS = 64  # a product for fewer spends its time on reading the items' vectors
_USERS_OF_GPU = 1024
_BYTES = 24  # of a score on a GPU: itself, masks, and all again where many are close
_EXACT_ELEMENTS = 2**22  # of vectors compared in float64 at once


def users_at_once(n_items: int, device: torch.device) -> int:
    """Users of a block for a shard of so many items; it does not depend on the memory left.

    So all ranks that have equal shards take the same blocks.
    """
    most, least = (_ELEMENTS, _USERS) if device.type == "cpu" else (_ELEMENTS_OF_GPU, _USERS_OF_GPU)
    return max(least, most // max(1, n_items))


def _items_at_once(users: int, device: torch.device) -> int:
    """Items of a tile for blocks of so many users."""
    most = _ELEMENTS
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        most = min(_ELEMENTS_OF_GPU, free // _BYTES)
    return max(1, most // users)


@dataclass(frozen=True)
class Block:
    """Users who are ranked together.

    Attributes:
        users: their vectors ``[n, d]``.
        target: the row of each user's target among all items, int64 ``[n]``.
        taken: what each user took, items among all; must not hold the target.
        added: scores to be added to the dot products, float32 ``[n, items of the shard]``; None
            adds nothing.
    """

    users: torch.Tensor
    target: torch.Tensor
    taken: UserItems
    added: sparse.csr_array | None = None


class ItemShard:
    """Items ``first .. first + len(vectors)`` of all.

    Args:
        vectors: ``[items, d]``, float32.
        first: row of the first among all items.
        users: users of a block at most.
    """

    def __init__(self, vectors: torch.Tensor, first: int, users: int) -> None:
        self.vectors, self.first = vectors, first
        tiles = vectors.split(_items_at_once(users, vectors.device)) if len(vectors) else ()
        # cuBLAS reads either way alike; MKL likes this one better.
        on_cpu = vectors.device.type == "cpu"
        self._tiles = [tile.t().contiguous() if on_cpu else tile.t() for tile in tiles]
        norms = [part.double().norm(dim=1).max() for part in vectors.split(_ELEMENTS) if len(part)]
        self._longest = max(norms) if norms else 0.0

    def of_targets(self, block: Block) -> torch.Tensor:
        """What must be known of each user before anything is counted; float64 ``[2, n]``.

        Returns:
            The target's exact score, minus infinity where another shard has it; and the largest
            size that a partial sum of a score can have. The maximum over shards is that of all.
        """
        local = block.target - self.first
        reach = block.users.double().norm(dim=1) * self._longest
        if not len(self.vectors):
            return torch.stack([torch.full_like(reach, -torch.inf), reach])
        here = (local >= 0) & (local < len(self.vectors))
        local = local.clamp(0, len(self.vectors) - 1)
        exact = exact_scores(block.users, self.vectors[local])
        if block.added is not None:
            of_target, largest = _at_and_largest(block.added, local.cpu().numpy())
            exact += torch.from_numpy(of_target).to(exact.device)
            reach += torch.from_numpy(largest).to(exact.device)
        exact[~here] = -torch.inf
        return torch.stack([exact, reach])

    def count(
        self,
        block: Block,
        exact: torch.Tensor,
        doubt: torch.Tensor,
        top: TopItems | None = None,
        enough: int | None = None,
    ) -> tuple[torch.Tensor, Best | None]:
        """How many candidates score no lower than the target, which counts where it is.

        Args:
            block: the users.
            exact: their targets' scores, float64 ``[n]``.
            doubt: how far from its exact value a score in float32 may be; float64 ``[n]``.
            top: asks for the best candidates.
            enough: where surely so many score higher, no close score is looked at again; None looks
                at all.

        Returns:
            int64 ``[n]``, and the best candidates.
        """
        low, high = _next(exact - doubt, -torch.inf), _next(exact + doubt, torch.inf)
        below = _next(low, -torch.inf)
        total = torch.zeros_like(block.target)
        best = None if top is None else top.none_yet(len(total), total.device)
        for tile in self._scored(block):
            surely = _count_above(tile.scores, high)
            local = block.target - self.first - tile.start
            own = (local >= 0) & (local < tile.scores.shape[1])
            # Where the target alone is close to itself, no second look is needed.
            unsure = _count_above(tile.scores, below) - surely > own
            if enough is not None:
                unsure &= total + surely < enough
            total += surely + (own & ~unsure)
            self._look_again(block, tile, unsure.nonzero()[:, 0], exact, (low, high), total)
            if top is not None:
                assert best is not None
                items = self.vectors[tile.start : tile.start + tile.scores.shape[1]]
                found = top.best(tile.scores, block.users, items, doubt, tile.added)
                best = top.better(best, found.moved(self.first + tile.start))
        return total, best

    def _scored(self, block: Block) -> Iterator[_Tile]:
        """The scores of each tile, minus infinity for what is no candidate."""
        taken, added = _own(block.taken, self.first, len(self.vectors)), block.added
        if len(self._tiles) > 1:  # then a tile's entries lie side by side
            taken, added = taken.tocsc(), None if added is None else added.tocsc()
        start = 0
        for tile in self._tiles:
            columns = range(start, start + tile.shape[1])
            scores = block.users @ tile
            more = None if added is None else _dense(added, columns, scores.device)
            if more is not None:
                scores += more
            places, _ = _entries(taken, columns)
            scores.view(-1)[torch.from_numpy(places).to(scores.device)] = -torch.inf
            yield _Tile(start, scores, more)
            start = columns.stop

    def _look_again(
        self,
        block: Block,
        tile: _Tile,
        rows: torch.Tensor,
        exact: torch.Tensor,
        close: tuple[torch.Tensor, torch.Tensor],
        total: torch.Tensor,
    ) -> None:
        """Add to `total` what exact scores say of these users' items within the bounds `close`."""
        low, high = (bound[rows, None] for bound in close)
        scores = tile.scores[rows]
        place, column = ((scores >= low) & (scores <= high)).nonzero(as_tuple=True)
        at_once = max(1, _EXACT_ELEMENTS // max(1, self.vectors.shape[1]))
        for some, columns in zip(rows[place].split(at_once), column.split(at_once), strict=True):
            again = exact_scores(block.users[some], self.vectors[tile.start + columns])
            if tile.added is not None:
                again += tile.added[some, columns].double()
            total.index_add_(0, some, (again >= exact[some]).to(total.dtype))


@dataclass(frozen=True)
class _Tile:
    """Scores ``[n, m]`` of the shard's items from `start` on, and what was added to them."""

    start: int
    scores: torch.Tensor
    added: torch.Tensor | None


def _count_above(scores: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Elements of each row ``[n, m]`` greater than its bound ``[n]``; int64 ``[n]``."""
    if scores.device.type != "cpu":
        return (scores > bound[:, None]).sum(1)
    above = scores.numpy() > bound.numpy()[:, None]  # NumPy compares and counts 7 times as fast
    return torch.tensor([np.count_nonzero(row) for row in above], dtype=torch.int64)


def _next(bound: torch.Tensor, towards: float) -> torch.Tensor:
    """`bound` in float32, rounded to the side of `towards`."""
    single = bound.float()
    return single.nextafter(torch.full_like(single, towards))


def _own(taken: UserItems, first: int, n_items: int) -> sparse.csr_array:
    """What was taken of a shard's items, as a matrix ``[n, n_items]`` whose values say nothing."""
    items = taken.items[taken.indptr[0] : taken.indptr[-1]].astype(np.int64) - first
    row = np.repeat(np.arange(len(taken)), np.diff(taken.indptr))
    inside = (items >= 0) & (items < n_items)
    row, items = row[inside], items[inside]
    ends = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(taken)))])
    shape = (len(taken), n_items)
    return sparse.csr_array((np.ones(len(items), np.int8), items, ends), shape=shape)


def _entries(matrix: Added, columns: range) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Entries of a run of columns: places in an array ``[n, len(columns)]``, and values.

    Args:
        matrix: CSC, or CSR where the columns are all there are.
        columns: the run.
    """
    if matrix.format == "csr":
        row, column = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices
        return row * len(columns) + column, matrix.data
    ends = matrix.indptr[columns.start : columns.stop + 1]
    part = slice(ends[0], ends[-1])
    column = np.repeat(np.arange(len(columns)), np.diff(ends))
    return matrix.indices[part].astype(np.int64) * len(columns) + column, matrix.data[part]


def _dense(matrix: Added, columns: range, device: torch.device) -> torch.Tensor:
    """A run of columns as float32 ``[n, len(columns)]``; a GPU is sent the entries alone."""
    if device.type == "cpu" and matrix.format == "csr":
        return torch.from_numpy(matrix.toarray())
    places, values = (torch.from_numpy(each).to(device) for each in _entries(matrix, columns))
    flat = torch.zeros(matrix.shape[0] * len(columns), device=device)
    return flat.index_add_(0, places, values).view(matrix.shape[0], len(columns))


def _at_and_largest(
    added: sparse.csr_array, column: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each row: the value at its `column`, and the largest absolute value; float64 ``[n]``."""
    row = np.repeat(np.arange(added.shape[0]), np.diff(added.indptr))
    at = added.indices == column[row]
    value = np.bincount(row[at], added.data[at], minlength=added.shape[0])
    filled = np.diff(added.indptr) > 0
    largest = np.zeros(added.shape[0])
    # SciPy's own maximum sorts the entries first.
    largest[filled] = np.maximum.reduceat(abs(added.data), added.indptr[:-1][filled])
    return value.astype(np.float64), largest
