"""Sections ``factorization`` and ``factorization-quality``: MF and ALS beside `implicit`'s.

The first counts epochs a second: our alternating MF beside LogisticMatrixFactorization with the
same one negative a positive (the same model), our ALS beside AlternatingLeastSquares. The second
asks for seconds to a validation NDCG@10, each library with settings of its own choosing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn

from benchmarks.peers.busy import beside, sides
from benchmarks.peers.ceilings import measure_ceilings
from benchmarks.peers.peers import MissingPeer, peer, quiet, threads_of_its_own
from benchmarks.peers.record import Entry, Figures, Section, rate_figures, ratios_of
from benchmarks.peers.session import now
from benchmarks.peers.timing import Contender, Work, alternate
from benchmarks.peers.workload import Workload
from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes, processes
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.pretrain.als import train_als
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.factor_tables import ReplicatedTable
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.pretrain.kernels import compile_kernels, worth_compiling
from cadc_rec.versions import code_commit

Point = tuple[float, float]
"""Seconds of learning so far, and validation NDCG@10."""
Curves = dict[str, list[list[Point]]]
"""By learner, a curve for each round."""

_EPOCHS = 5  # of a turn, which may be taken several times
_TURN_SECONDS = 0.5
_PEER_EPOCHS = 30  # implicit's default number of epochs for logistic MF


def measure(workload: Workload) -> Section:
    """Epochs a second."""
    experiment, data = workload.experiment("cadc"), workload.dataset
    missing: dict[str, str] = {}
    with processes(experiment.compute) as alone:
        ceilings = measure_ceilings([experiment.model.id_dim, *experiment.model.tower])
        threads = torch.get_num_threads()
        many = experiment.pretrain.model_copy(update={"epochs": 10**9})
        ours = _factorization(experiment.model_copy(update={"pretrain": many}), data, alone)
        turns = [
            Contender("ours-mf", lambda: _advance(ours)),
            Contender("ours-als", lambda: _exhaust(_als_sweeps(experiment, data, alone))),
        ]
        builders: dict[str, Callable[[], Callable[[], object]]] = {
            "implicit-lmf": lambda: _implicit_lmf(experiment, data, threads),
            "implicit-als": lambda: _implicit_als(experiment, data, threads),
        }
        for name, build in builders.items():
            try:
                turns.append(Contender(name, _counted(build())))
            except MissingPeer as error:
                missing[name] = str(error)
        seconds = alternate(
            turns, workload.repeats, at_least=_TURN_SECONDS, neighbour=workload.neighbour
        )
    # Either side reads one row of the other table for each positive and each negative.
    entries = len(data.train_item) * (1 + experiment.pretrain.negatives)
    gigabytes = 2 * entries * (experiment.pretrain.factors + 1) * 4 / 1e9
    what = {
        "ours-mf": "our alternating MF, one negative a positive",
        "ours-als": "our ALS",
        "implicit-lmf": "implicit's LogisticMatrixFactorization, one negative a positive",
        "implicit-als": "implicit's AlternatingLeastSquares",
    }
    shares = {"ours-mf": gigabytes / ceilings["copy GB/s"]}
    return Section(
        title="Factorization",
        unit="epochs/s",
        better="more",
        measured=now(),
        commit=code_commit(),
        entries={
            name: Entry(
                what=what[name],
                figures=(figures := rate_figures(taken)),
                ceiling="copy GB/s" if name in shares else None,
                share=shares[name] * figures.median if name in shares else None,
            )
            for name, taken in seconds.items()
        },
        ratios=ratios_of(seconds, [("ours-mf", "implicit-lmf"), ("ours-als", "implicit-als")]),
        missing=missing,
        notes={"threads": threads, "factors": experiment.pretrain.factors},
        ceilings=ceilings,
    )


def measure_quality(workload: Workload) -> Section:
    """Seconds to a validation NDCG@10 that both reach: the lower of the two best values."""
    experiment, data = workload.experiment("cadc"), workload.dataset
    with processes(experiment.compute) as alone:
        threads = torch.get_num_threads()
        if worth_compiling(len(data.train_item), alone.device):
            compile_kernels()
        learners: dict[str, Callable[[], list[Point]]] = {
            "ours-mf": lambda: _our_curve(experiment, data, alone),
            "implicit-lmf": lambda: _lmf_curve(experiment, data, threads),
        }
        curves, busy, missing = _curves(learners, workload)
    best = {name: min(best_value(curve) for curve in found) for name, found in curves.items()}
    target = min(best.values())
    seconds = _seconds_to_all(curves, target)
    if workload.neighbour is not None:
        workload.neighbour.seconds.update(_seconds_to_all(busy, target))
    notes = {f"best validation NDCG@10 % of {name}": 100 * value for name, value in best.items()}
    return Section(
        title="Factorization: time to quality",
        unit="s",
        better="less",
        measured=now(),
        commit=code_commit(),
        entries={
            name: Entry(what=f"{name} to the target", figures=Figures.of(taken))
            for name, taken in seconds.items()
        },
        ratios=ratios_of(seconds, [("ours-mf", "implicit-lmf")]),
        missing=missing,
        notes={"target validation NDCG@10 %": 100 * target, "threads": threads, **notes},
    )


def _curves(
    learners: Mapping[str, Callable[[], list[Point]]], workload: Workload
) -> tuple[Curves, Curves, dict[str, str]]:
    """Curves of every round, idle and beside a busy core, and who is missing."""
    idle, busy, missing = Curves(), Curves(), dict[str, str]()
    for number in range(workload.repeats):
        for name, learn in learners.items():
            for company in sides(workload.neighbour, number):
                try:
                    with beside(company):
                        curve = learn()
                except MissingPeer as error:
                    missing[name] = str(error)
                    continue
                (idle if company is None else busy).setdefault(name, []).append(curve)
    return idle, busy, missing


def _seconds_to_all(curves: Curves, target: float) -> dict[str, list[float]]:
    return {name: [seconds_to(curve, target) for curve in found] for name, found in curves.items()}


def best_value(curve: Sequence[Point]) -> float:
    """The best validation value of a curve."""
    return max(value for _, value in curve)


def seconds_to(curve: Sequence[Point], target: float) -> float:
    """When a curve first is at `target` or above.

    Raises:
        ValueError: it never is.
    """
    for seconds, value in curve:
        if value >= target:
            return seconds
    raise ValueError(f"the curve never reaches {target}")


def _our_curve(experiment: Experiment, data: Dataset, alone: Processes) -> list[Point]:
    every = max(1, experiment.pretrain.epochs // 20)
    user, item, epochs = _solver(experiment, data, alone)
    curve, spent = [], 0.0
    started = time.perf_counter()
    for number, _ in enumerate(epochs, start=1):
        if number % every:
            continue
        spent += time.perf_counter() - started
        tables = IdTables(user, item).as_dot_products()
        curve.append((spent, _validation_ndcg(data, *tables)))
        started = time.perf_counter()
    return curve


def _lmf_curve(experiment: Experiment, data: Dataset, threads: int) -> list[Point]:
    """With implicit's own learning rate, regularization and number of negatives."""
    model = peer("implicit.cpu.lmf").LogisticMatrixFactorization(
        factors=experiment.pretrain.factors,
        iterations=_PEER_EPOCHS,
        num_threads=threads,
        random_state=experiment.seed,
    )
    curve: list[Point] = []
    state = {"spent": 0.0, "started": time.perf_counter()}

    def after(*_: object) -> None:
        state["spent"] += time.perf_counter() - state["started"]
        vectors = (torch.from_numpy(t) for t in (model.user_factors, model.item_factors))
        curve.append((state["spent"], _validation_ndcg(data, *vectors)))
        state["started"] = time.perf_counter()

    with quiet(), threads_of_its_own():
        model.fit(_matrix(data), show_progress=False, callback=after)
    return curve


def _validation_ndcg(data: Dataset, users: torch.Tensor, items: torch.Tensor) -> float:
    excluded = UserItems(data.user_indptr, data.train_item)
    ranks = held_out_ranks(users, items, data.val_item, excluded)
    return ranking_metrics(ranks[data.val_item >= 0], (10,))["ndcg@10"]


def _solver(
    experiment: Experiment, data: Dataset, alone: Processes
) -> tuple[torch.Tensor, torch.Tensor, Iterator[float]]:
    """Fresh tables, and the epochs that train them."""
    dim = experiment.pretrain.factors + 1
    user, item = torch.empty(data.n_users, dim), torch.empty(data.n_items, dim)
    solver = AlternatingSolver(
        ReplicatedTable(user, alone),
        ReplicatedTable(item, alone),
        nn.Parameter(torch.zeros(())),
        Interactions.of(data),
        experiment.pretrain,
        experiment.seed,
        alone,
    )
    return user, item, solver.epochs()


def _factorization(experiment: Experiment, data: Dataset, alone: Processes) -> Iterator[float]:
    return _solver(experiment, data, alone)[2]


def _als_sweeps(experiment: Experiment, data: Dataset, alone: Processes) -> Iterator[None]:
    dim = experiment.pretrain.factors + 1
    user, item = torch.zeros(data.n_users, dim), torch.zeros(data.n_items, dim)
    config = experiment.pretrain.als.model_copy(update={"iterations": _EPOCHS})
    return train_als(
        ReplicatedTable(user, alone),
        ReplicatedTable(item, alone),
        Interactions.of(data),
        config,
        experiment.seed,
    )


def _advance(epochs: Iterator[float]) -> Work:
    for _ in range(_EPOCHS):
        next(epochs)
    return Work(_EPOCHS)


def _exhaust(sweeps: Iterator[None]) -> Work:
    return Work(sum(1 for _ in sweeps))


def _counted(fit: Callable[[], object]) -> Callable[[], Work]:
    def turn() -> Work:
        with quiet(), threads_of_its_own():
            fit()
        return Work(_EPOCHS)

    return turn


def _implicit_lmf(experiment: Experiment, data: Dataset, threads: int) -> Callable[[], object]:
    library, matrix = peer("implicit.cpu.lmf"), _matrix(data)

    def fit() -> object:
        model = library.LogisticMatrixFactorization(
            factors=experiment.pretrain.factors,
            iterations=_EPOCHS,
            neg_prop=experiment.pretrain.negatives,
            num_threads=threads,
            random_state=experiment.seed,
        )
        return model.fit(matrix, show_progress=False)

    return fit


def _implicit_als(experiment: Experiment, data: Dataset, threads: int) -> Callable[[], object]:
    library, matrix, als = peer("implicit.cpu.als"), _matrix(data), experiment.pretrain.als

    def fit() -> object:
        model = library.AlternatingLeastSquares(
            factors=experiment.pretrain.factors + 1,
            regularization=als.l2,
            alpha=als.alpha,
            iterations=_EPOCHS,
            num_threads=threads,
            random_state=experiment.seed,
        )
        return model.fit(matrix, show_progress=False)

    return fit


def _matrix(data: Dataset) -> Any:
    """D_full as implicit takes it."""
    ones = np.ones(len(data.train_item), np.float32)
    shape = (data.n_users, data.n_items)
    return sparse.csr_matrix((ones, data.train_item, data.user_indptr), shape=shape)
