"""The evaluate stage: a trained model in, metrics, ranks and vectors out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse

from cadc_rec import strict_json
from cadc_rec.config.experiment import EvaluateConfig, Experiment
from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.recent_popularity import RecentScores
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.rows import write_rows
from cadc_rec.distributed.state import load_state
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.metrics import is_of_ranks, list_metrics, needs_lists, ranking_metrics
from cadc_rec.evaluation.ranking import Listed
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.evaluation.statistics import mean_intervals
from cadc_rec.evaluation.top_items import TopItems
from cadc_rec.evaluation.validation import validation_sample
from cadc_rec.log import Ticker, track
from cadc_rec.pipeline.stages.train import CHECKPOINT
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior
from cadc_rec.pretrain.tables_alone import TablesAlone, tables_alone
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.training.build import build_model
from cadc_rec.training.validation import VALIDATION_RANKS, kept_ranks, write_ranks

UserVectors: TypeAlias = Callable[[bool, np.ndarray | None], torch.Tensor]
"""Given whether the validation item is known by then, and rows of users or None for all: vectors
of this rank's share of these users."""


def build_evaluation(
    experiment: Experiment,
    dataset: Dataset,
    checkpoint: Artifact | None,
    pretrained: Pretrained,
    processes: Processes,
    draft: Draft,
    fitted: FittedPrior | None = None,
) -> None:
    """Rank every held-out item over the full item set and write all that it takes to check it.

    Candidates are all items less the user's training items and, for the test item, less the
    validation item too.

    Args:
        experiment: the model's settings and ``[evaluate]``.
        dataset: the held-out items.
        checkpoint: the train stage's artifact; None where the tables are scored directly.
        pretrained: pre-trained vectors where the model has any.
        processes: the ranks.
        draft: receives ``metrics.json``; ``ranks.parquet`` (user_id, item_id, rank; one row a
            user with a test item) and ``validation_ranks.parquet`` (the same of the validation
            items that are ranked); ``user_vectors.safetensors`` and
            ``item_vectors.safetensors`` (one tensor ``vectors`` each) with ``user_ids.parquet``
            and ``item_ids.parquet`` in the same order, whose dot
            products are the scores that ranked the test items: a user's history, where the model
            has one, ends with the validation item. Where transitions are kept as lists, their
            scores come on top of the dot products.
        fitted: the prior's fit, where it was fitted.
    """
    config, val_item = experiment.evaluate, np.asarray(dataset.val_item)
    test_users, have = (np.flatnonzero(held >= 0) for held in (dataset.test_item, val_item))
    if not len(test_users):
        raise CadcError("no user has a test item (three interactions are needed); use more data.")
    sample = validation_sample(val_item, config.users, experiment.data.split_seed)
    users_knowing, items, more = _vectors(
        experiment, dataset, checkpoint, pretrained, processes, fitted
    )
    train = UserItems(dataset.user_indptr, dataset.train_item)
    # Training has ranked the very model that it kept, but it counts no best items.
    val_ranks = None
    if checkpoint is not None and not needs_lists(config.metrics):
        val_ranks = kept_ranks(checkpoint.path)
    to_rank = [] if val_ranks is not None else [val_item if sample is None else val_item[sample]]
    total = sum(len(processes.share(len(each))) for each in (*to_rank, dataset.test_item))
    with track("evaluate", total, "users", visible=processes.rank == 0) as ticker:
        measure = functools.partial(
            _measured, config, items=items, dataset=dataset, processes=processes, ticker=ticker
        )

        def listed(
            with_validation: bool, sample: np.ndarray | None
        ) -> tuple[Listed | None, np.ndarray | None]:
            if more is None:
                return None, None
            mine = _mine(sample, dataset.n_users, processes)
            return more.of_users(dataset, mine, with_validation)

        if val_ranks is None:
            excluded = train if sample is None else train.some(sample)
            val_ranks, val = measure(
                users_knowing(False, sample), to_rank[0], excluded, *listed(False, sample)
            )
        else:
            val = ranking_metrics(val_ranks, config.k, config.metrics)
        users = users_knowing(True, None)
        test_ranks, test = measure(
            users, dataset.test_item, train.and_one_each(val_item), *listed(True, None)
        )
    result: dict[str, Any] = {
        "test": test,
        "validation": val,
        "users": len(test_users),
        "items": dataset.n_items,
        "split": dataset.order,
        **({} if more is None else more.settings()),
        **({"context": list(experiment.context.features)} if _by_context(experiment) else {}),
    }
    if sample is not None:
        interval = mean_intervals(val_ranks, [name for name in val if is_of_ranks(name)])
        result["validation_sample"] = {"users": len(sample), "of": len(have), "interval": interval}
    draft.info, draft.rows = result, len(test_users)
    file = draft.path / "user_vectors.safetensors"
    write_rows(file, "vectors", users, dataset.n_users, processes)
    if processes.rank == 0:
        (draft.path / "metrics.json").write_text(
            strict_json.dumps(result, indent=2) + "\n", "utf-8"
        )
        _write_ids(draft.path, dataset)
        save_file({"vectors": items.cpu().contiguous()}, draft.path / "item_vectors.safetensors")
        for name, of, held_out, ranks in (
            ("ranks.parquet", test_users, dataset.test_item, test_ranks),
            (VALIDATION_RANKS, have if sample is None else sample, val_item, val_ranks),
        ):
            write_ranks(draft.path / name, dataset, of, held_out[of], ranks)


def _measured(
    config: EvaluateConfig,
    users: torch.Tensor,
    targets: np.ndarray,
    excluded: UserItems,
    listed: Listed | None,
    order: np.ndarray | None,
    *,
    items: torch.Tensor,
    dataset: Dataset,
    processes: Processes,
    ticker: Ticker,
) -> tuple[np.ndarray, dict[str, float]]:
    """Ranks of the targets that there are, and all metrics that are asked for."""
    top = TopItems(config.k, dataset.n_items) if needs_lists(config.metrics) else None
    ranks = ranks_by_share(
        users, items, targets, excluded, processes, ticker.advance, listed, order, top
    )
    ranks = ranks[targets >= 0]
    metrics = ranking_metrics(ranks, config.k, config.metrics)
    if top is not None:
        popularity = np.bincount(dataset.train_item, minlength=dataset.n_items)
        metrics |= list_metrics(top.of_ks(), popularity, config.metrics)
    return ranks, metrics


def _vectors(
    experiment: Experiment,
    dataset: Dataset,
    checkpoint: Artifact | None,
    pretrained: Pretrained,
    processes: Processes,
    fitted: FittedPrior | None,
) -> tuple[UserVectors, torch.Tensor, _More | None]:
    """Vectors of users and of all items, and scores that come on top of their dot products."""
    if checkpoint is None:
        assert pretrained.ids is not None
        tables = tables_alone(experiment.prior, experiment.history, dataset, pretrained)
        if tables is not None:
            if fitted is not None:
                tables = fitted.applied_to(tables, experiment.prior)
            return _of_tables(tables, experiment.history.length, dataset, processes)
        ids = pretrained.ids

        def from_ids(sample: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
            mine = _mine(sample, dataset.n_users, processes)
            return replace(ids, user=ids.user[mine]).as_dot_products()

        items = from_ids(None)[1].to(processes.device)
        return lambda _, sample: from_ids(sample)[0].to(processes.device), items, None
    model = build_model(experiment, dataset, pretrained, processes)
    load_state(model.wrapped, load_file(checkpoint.path / CHECKPOINT), model.trains)
    length, features = experiment.history.length, experiment.context.features
    context = RequestContext.of(dataset, features) if features else None

    def users(with_validation: bool, sample: np.ndarray | None) -> torch.Tensor:
        known = dataset.last_items(length, with_validation) if length else None
        asked = None
        if context is not None:
            asked = context.test if with_validation else context.validation
        return model.user_vectors(known, sample, asked)

    return users, model.item_vectors(), None


def _of_tables(
    tables: TablesAlone, length: int, dataset: Dataset, processes: Processes
) -> tuple[UserVectors, torch.Tensor, _More | None]:
    """The same without towers."""

    def users(with_validation: bool, sample: np.ndarray | None) -> torch.Tensor:
        history = dataset.last_items(length, with_validation)
        mine = history[_mine(sample, dataset.n_users, processes)]
        return tables.user_vectors(mine).to(processes.device)

    more = _More(tables.listed(length), tables.recent())
    return users, tables.item_vectors().to(processes.device), more


@dataclass(frozen=True)
class _More:
    """Scores on top of dot products.

    Attributes:
        lists: of transitions; None without.
        recent: of what had been taken before the held-out item was; None without.
    """

    lists: ListedScores | None
    recent: RecentScores | None

    def of_users(
        self, dataset: Dataset, mine: slice | np.ndarray, with_validation: bool
    ) -> tuple[Listed | None, np.ndarray | None]:
        """Of the users `mine`: the scores of a run of them, and the order in which they stand.

        Recent popularity is counted along time, so the users then stand in the order of theirs.
        """
        if self.lists is None and self.recent is None:
            return None, None
        times, order = np.zeros(0), None
        if self.recent is not None:
            every = dataset.test_timestamp if with_validation else dataset.val_timestamp
            order = np.argsort(every[mine], kind="stable")
            times = every[mine][order]
        history = np.zeros((0, 0), np.int32)
        if self.lists is not None:
            history = dataset.last_items(self.lists.length, with_validation)[mine]
            history = history if order is None else history[order]

        def listed(users: range) -> sparse.csr_array:
            part = slice(users.start, users.stop)
            parts = []
            if self.lists is not None:
                parts.append(self.lists.of(history[part]))
            if self.recent is not None:
                parts.append(self.recent.of(times[part]))
            return sum(parts[1:], parts[0])

        return listed, order

    def settings(self) -> dict[str, Any]:
        """For the manifest, which a bundle is made by."""
        found = {} if self.lists is None else {"lists": self.lists.settings()}
        if self.recent is not None:
            found["recent"] = {"window": self.recent.window, "factor": self.recent.factor}
        return found


def _by_context(e: Experiment) -> bool:
    return bool(e.context.features) and e.model.kind == "two_tower"


def _mine(sample: np.ndarray | None, n_users: int, processes: Processes) -> slice | np.ndarray:
    """This rank's share of the sampled users, or of all."""
    share = processes.share(n_users if sample is None else len(sample))
    mine = slice(share.start, share.stop)
    return mine if sample is None else sample[mine]


def _write_ids(folder: Path, dataset: Dataset) -> None:
    for side, ids in (("user", dataset.user_ids()), ("item", dataset.item_ids())):
        pq.write_table(pa.table({f"{side}_id": ids}), folder / f"{side}_ids.parquet")
