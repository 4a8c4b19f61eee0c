"""EASE in closed form, and its quality after so many CPU seconds.

Embarrassingly shallow autoencoders (Steck 2019): the item-item matrix B with an empty diagonal that
minimizes ``|X - X B|^2 + l2 |B|^2``, which is ``B_ij = -P_ij / P_jj`` with ``P = (X'X + l2 I)^-1``.
X is all of D_full as zeros and ones. A user's scores are ``x B``: at the test item, x has the
validation item too.

Settings: `l2` is tried in a fixed order, the paper's 500 first; a point of the curve is the best by
validation of those tried so far, after the CPU seconds of all of them. P is formed in float64 by
Cholesky, by one thread; B is kept in float32.

In: a prepared dataset. Out: points of its curve, one for each l2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.time_to_quality.contenders import Reached
from benchmarks.time_to_quality.ranked import Scores, Watch, best_so_far, interactions, metrics
from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError
from cadc_rec.machine import memory_bytes

_BYTES = 24  # of an element: X'X, and two more of float64 while it is inverted


@dataclass(frozen=True)
class Settings:
    """Penalties, in the order in which they are tried."""

    l2: tuple[float, ...] = (500.0, 100.0, 2000.0)


def bytes_needed(n_items: int) -> int:
    """Bytes of the largest arrays that are held at once."""
    return _BYTES * n_items**2


def require_memory(n_items: int, most: int) -> None:
    """Refuse what cannot be inverted here.

    Args:
        n_items: of the catalogue.
        most: bytes that there are.

    Raises:
        CadcError: the dense matrices are larger.
    """
    needed = bytes_needed(n_items)
    if needed > most:
        raise CadcError(
            f"EASE needs {needed / 2**30:,.1f} GiB for the dense matrices of {n_items:,} items "
            f"({_BYTES} bytes a pair), and there are {most / 2**30:,.1f} GiB."
        )


def gram(taken: sparse.csr_matrix) -> torch.Tensor:
    """``X'X`` in float64, ``[n_items, n_items]``."""
    exact = taken.astype(np.float64)
    return torch.from_numpy((exact.T @ exact).toarray())


def item_weights(together: torch.Tensor, l2: float) -> torch.Tensor:
    """B in float32, ``[n_items, n_items]``.

    Args:
        together: ``X'X``, float64; is left as it was.
        l2: penalty of B's squared elements.
    """
    factor = together.clone()
    factor.diagonal().add_(l2)
    torch.linalg.cholesky(factor, out=factor)
    inverse = torch.cholesky_inverse(factor)
    del factor
    own = inverse.diagonal().clone()
    inverse.div_(-own)
    inverse.diagonal().zero_()
    return inverse.float().contiguous()  # SciPy would copy it for each block of users


def scores(
    dataset: Dataset, weights: NDArray[np.float32]
) -> Callable[[bool, NDArray[np.int64]], Scores]:
    """What `ranked.metrics` asks for."""

    def of(with_validation: bool, users: NDArray[np.int64]) -> Scores:
        taken = interactions(dataset, with_validation)[users]

        def rows(some: NDArray[np.int64]) -> sparse.csr_array:
            return _full(taken[some] @ weights)

        return Scores.of_rows(rows, len(users), dataset.n_items)

    return of


def _full(dense: NDArray[np.float32]) -> sparse.csr_array:
    """A sparse matrix with an entry everywhere: SciPy would look for zeros first."""
    n, columns = dense.shape
    indices = np.tile(np.arange(columns, dtype=np.int32), n)
    indptr = np.arange(n + 1, dtype=np.int32) * np.int32(columns)
    return sparse.csr_array((dense.ravel(), indices, indptr), shape=dense.shape)


def curve(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Reached]:
    """A point after each l2; ``epochs`` counts them.

    Args:
        dataset: whose D_full is all of X.
        settings: the penalties.
        seed: nothing is drawn.
        checkpoints: no l2 is begun after the last, in CPU seconds of this process.
        sample: see `ranked.metrics`.
        clock: of these seconds.

    Raises:
        CadcError: there is not the memory for so many items.
    """
    require_memory(dataset.n_items, memory_bytes())
    torch.set_num_threads(1)
    taken = interactions(dataset)

    def points() -> Iterator[Reached]:
        watch = Watch(clock)
        with watch:
            together = gram(taken)
        for tried, l2 in enumerate(settings.l2, 1):
            with watch:
                weights = item_weights(together, l2).numpy()
            yield Reached(watch.seconds, tried, *metrics(dataset, sample, scores(dataset, weights)))
            del weights  # or they would lie beside the next ones while those are computed
            if watch.seconds >= checkpoints[-1]:
                return

    yield from best_so_far(points())
