"""implicit's ALS, BPR and item-item models, and their quality after so many CPU seconds.

Each has one thread, as all have here, and learns of all of D_full as zeros and ones.

Settings, fixed beforehand: where there are several they are tried in this order, and a point of the
curve is the best by validation of what was reached so far, after the CPU seconds of all of it.

- ALS (Hu, Koren and Volinsky 2008; the library's conjugate gradients): 100 factors and 15 sweeps,
  its defaults; (regularization, alpha) = (0.01, 1), its defaults, then (10, 1) and (10, 20). Users'
  vectors are recalculated before they are ranked, with the validation item when it is known.
- BPR (Rendle et al. 2009): the library's defaults, which are 100 factors, rate 0.01, regularization
  0.01, 100 epochs, drawn items not among those taken. The library cannot recalculate the vector of
  a user of BPR: the test item is ranked without the validation item.
- Item-item: cosine, then BM25 with its defaults, K1 = 1.2 and B = 0.75; each with the 20 (default),
  100 and 500 best neighbours of an item. A user's scores are sums over what was taken, the
  validation item among it when it is known.

In: a prepared dataset. Out: points of a curve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.peers.peers import peer, quiet, threads_of_its_own
from benchmarks.time_to_quality.contenders import Reached
from benchmarks.time_to_quality.ranked import (
    Metrics,
    Scores,
    Watch,
    best_so_far,
    interactions,
    metrics,
)
from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError


@dataclass(frozen=True)
class Settings:
    """Which model, and the library's settings of it.

    Attributes:
        model: ``als``, ``bpr`` or ``item-item``.
        factors: width of the vectors of ALS and BPR.
        sweeps: of ALS, for each try.
        regularization: of ALS, one for each try.
        alpha: of ALS, likewise.
        epochs: of BPR.
        similarity: of item-item models, ``cosine`` or ``bm25``; each with all of `neighbours`.
        neighbours: of an item.
    """

    model: str = "als"
    factors: int = 100
    sweeps: int = 15
    regularization: tuple[float, ...] = (0.01, 10.0, 10.0)
    alpha: tuple[float, ...] = (1.0, 1.0, 20.0)
    epochs: int = 100
    similarity: tuple[str, ...] = ("cosine", "bm25")
    neighbours: tuple[int, ...] = (20, 100, 500)


Ranked: TypeAlias = Callable[[Any], Metrics]


class _EnoughError(Exception):
    """Ends a fit from within."""


@dataclass
class Fits:
    """Fits that follow each other on one clock, seen at checkpoints and at each one's end.

    Attributes:
        watch: what they spent.
        checkpoints: CPU seconds, ascending.
        epochs: of all fits until now.
    """

    watch: Watch
    checkpoints: Sequence[float]
    epochs: int = 0
    _left: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self._left = list(self.checkpoints)

    @property
    def over(self) -> bool:
        """Whether the last checkpoint was passed."""
        return not self._left

    def of(self, model: Any, taken: sparse.csr_matrix, ranked: Ranked) -> list[Reached]:
        """Points of one fit: a checkpoint is seen at the end of the epoch that passes it."""
        found: list[Reached] = []
        done = 0

        def after(*_: object) -> None:
            nonlocal done
            self.watch.pause()
            done += 1
            self.epochs += 1
            passed = self._left and self.watch.seconds >= self._left[0]
            if passed or done == model.iterations:
                self._left = [each for each in self._left if each > self.watch.seconds]
                found.append(Reached(self.watch.seconds, self.epochs, *ranked(model)))
                if self.over:
                    raise _EnoughError
            self.watch.resume()

        with quiet(), threads_of_its_own():
            try:
                with self.watch:
                    model.fit(taken, show_progress=False, callback=after)
            except _EnoughError:
                pass
        return found


def _als(
    dataset: Dataset, settings: Settings, seed: int, fits: Fits, sample: NDArray[np.int64] | None
) -> Iterator[Reached]:
    library, taken = peer("implicit.cpu.als"), interactions(dataset)
    for regularization, alpha in zip(settings.regularization, settings.alpha, strict=True):
        own = {"regularization": regularization, "alpha": alpha, "num_threads": 1}
        with quiet(), threads_of_its_own():
            model = library.AlternatingLeastSquares(
                settings.factors, iterations=settings.sweeps, random_state=seed, **own
            )

        def ranked(model: Any, own: dict[str, Any] = own) -> Metrics:
            # A model of its own: one keeps the product of the items' vectors it first asked for.
            fold = library.AlternatingLeastSquares(settings.factors, **own)
            fold.item_factors = model.item_factors.copy()

            def scores(with_validation: bool, users: NDArray[np.int64]) -> Scores:
                known = interactions(dataset, with_validation)[users]
                vectors = fold.recalculate_user(users, known)
                return Scores(torch.from_numpy(vectors), torch.from_numpy(fold.item_factors))

            return metrics(dataset, sample, scores)

        yield from fits.of(model, taken, ranked)
        if fits.over:
            return


def _bpr(
    dataset: Dataset, settings: Settings, seed: int, fits: Fits, sample: NDArray[np.int64] | None
) -> Iterator[Reached]:
    model = peer("implicit.cpu.bpr").BayesianPersonalizedRanking(
        settings.factors, iterations=settings.epochs, num_threads=1, random_state=seed
    )

    def ranked(model: Any) -> Metrics:
        users, items = map(torch.from_numpy, (model.user_factors, model.item_factors))
        return metrics(dataset, sample, lambda _, rows: Scores(users[rows], items))

    yield from fits.of(model, interactions(dataset), ranked)


def _item_item(
    dataset: Dataset,
    settings: Settings,
    most: float,
    sample: NDArray[np.int64] | None,
    watch: Watch,
) -> Iterator[Reached]:
    library, taken = peer("implicit.nearest_neighbours"), interactions(dataset)
    kinds = {"cosine": library.CosineRecommender, "bm25": library.BM25Recommender}
    tries = list(product(settings.similarity, settings.neighbours))
    for tried, (similarity, neighbours) in enumerate(tries, 1):
        model = kinds[similarity](K=neighbours, num_threads=1)
        with quiet(), threads_of_its_own(), watch:
            model.fit(taken, show_progress=False)
        similar = sparse.csr_array(model.similarity)

        def scores(
            with_validation: bool, users: NDArray[np.int64], similar: sparse.csr_array = similar
        ) -> Scores:
            known = sparse.csr_array(interactions(dataset, with_validation)[users])

            def rows(some: NDArray[np.int64]) -> sparse.csr_array:
                return (known[some] @ similar).astype(np.float32)

            return Scores.of_rows(rows, len(users), dataset.n_items)

        yield Reached(watch.seconds, tried, *metrics(dataset, sample, scores))
        if watch.seconds >= most:
            return


def curve(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Reached]:
    """Points at the checkpoints and wherever a setting's learning ends; not past the last.

    Args:
        dataset: whose D_full is learned.
        settings: which model it is, and its settings.
        seed: of the vectors that ALS and BPR begin with, and of BPR's draws.
        checkpoints: CPU seconds of this process, ascending; seen at the ends of sweeps and epochs.
            Item-item models have a point for each that is tried, which ``epochs`` counts.
        sample: see `ranked.metrics`.
        clock: of these seconds.

    Raises:
        CadcError: implicit is not installed, or has no such model.
    """
    torch.set_num_threads(1)
    watch = Watch(clock)
    if settings.model == "als":
        fits = Fits(watch, checkpoints)
        yield from best_so_far(_als(dataset, settings, seed, fits, sample))
    elif settings.model == "bpr":
        yield from _bpr(dataset, settings, seed, Fits(watch, checkpoints), sample)
    elif settings.model == "item-item":
        yield from best_so_far(_item_item(dataset, settings, checkpoints[-1], sample, watch))
    else:
        raise CadcError(f"no model {settings.model!r}: there are als, bpr and item-item.")
