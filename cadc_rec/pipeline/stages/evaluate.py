"""The evaluate stage: a trained model in, metrics, ranks and vectors out."""

from __future__ import annotations

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
from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.recent_popularity import RecentScores
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.rows import write_rows
from cadc_rec.distributed.state import load_state
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import Listed
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.log import track
from cadc_rec.pipeline.stages.train import CHECKPOINT
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior
from cadc_rec.pretrain.tables_alone import TablesAlone, tables_alone
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.training.build import build_model

UsersKnowing: TypeAlias = Callable[[bool], torch.Tensor]
"""Vectors of users, given whether their validation items are known."""


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
            user with a test item) and ``validation_ranks.parquet`` (the same of validation items);
            ``user_vectors.safetensors`` and ``item_vectors.safetensors`` (one tensor ``vectors``
            each) with ``user_ids.parquet`` and ``item_ids.parquet`` in the same order, whose dot
            products are the scores that ranked the test items: a user's history, where the model
            has one, ends with the validation item. Where transitions are kept as lists, their
            scores come on top of the dot products.
        fitted: the prior's fit, where it was fitted.
    """
    users_knowing, items, more = _vectors(
        experiment, dataset, checkpoint, pretrained, processes, fitted
    )
    share = processes.share(dataset.n_users)
    train = UserItems(dataset.user_indptr, dataset.train_item)
    train_and_val = train.and_one_each(dataset.val_item)
    total, chief = 2 * len(share), processes.rank == 0
    with track("evaluate", total, "users", visible=chief) as ticker:

        def ranks(
            users: torch.Tensor, targets: np.ndarray, excluded: UserItems, with_validation: bool
        ) -> np.ndarray:
            listed, order = None, None
            if more is not None:
                listed, order = more.of_users(dataset, share, with_validation)
            return ranks_by_share(
                users, items, targets, excluded, processes, ticker.advance, listed, order
            )

        val_ranks = ranks(users_knowing(False), dataset.val_item, train, False)
        users = users_knowing(True)
        test_ranks = ranks(users, dataset.test_item, train_and_val, True)
    has_val, has_test = dataset.val_item >= 0, dataset.test_item >= 0
    if not has_test.any():
        raise CadcError("no user has a test item (three interactions are needed); use more data.")
    result = {
        "test": ranking_metrics(test_ranks[has_test], experiment.evaluate.k),
        "validation": ranking_metrics(val_ranks[has_val], experiment.evaluate.k),
        "users": int(has_test.sum()),
        "items": dataset.n_items,
        "split": dataset.order,
        **({} if more is None else more.settings()),
    }
    draft.info, draft.rows = result, int(has_test.sum())
    file = draft.path / "user_vectors.safetensors"
    write_rows(file, "vectors", users, dataset.n_users, processes)
    if processes.rank == 0:
        (draft.path / "metrics.json").write_text(
            strict_json.dumps(result, indent=2) + "\n", "utf-8"
        )
        _write_ids(draft.path, dataset)
        save_file({"vectors": items.cpu().contiguous()}, draft.path / "item_vectors.safetensors")
        _write_ranks(draft.path / "ranks.parquet", dataset, dataset.test_item, test_ranks)
        _write_ranks(draft.path / "validation_ranks.parquet", dataset, dataset.val_item, val_ranks)


def _vectors(
    experiment: Experiment,
    dataset: Dataset,
    checkpoint: Artifact | None,
    pretrained: Pretrained,
    processes: Processes,
    fitted: FittedPrior | None,
) -> tuple[UsersKnowing, torch.Tensor, _More | None]:
    """Vectors of users and of all items, and scores that come on top of their dot products.

    Users are those of this rank's share; their vectors depend on whether the validation item is
    known by then.
    """
    if checkpoint is None:
        assert pretrained.ids is not None
        share = processes.share(dataset.n_users)
        tables = tables_alone(experiment.prior, experiment.history, dataset, pretrained)
        if tables is not None:
            if fitted is not None:
                tables = fitted.applied_to(tables, experiment.prior)
            return _of_tables(tables, experiment.history.length, dataset, share, processes.device)
        ids = replace(pretrained.ids, user=pretrained.ids.user[share.start : share.stop])
        users, items = (side.to(processes.device) for side in ids.as_dot_products())
        return lambda with_validation: users, items, None
    model = build_model(experiment, dataset, pretrained, processes)
    load_state(model.wrapped, load_file(checkpoint.path / CHECKPOINT), model.trains)
    length = experiment.history.length
    if not length:
        same = model.user_vectors()
        return lambda with_validation: same, model.item_vectors(), None
    return (
        lambda with_validation: model.user_vectors(dataset.last_items(length, with_validation)),
        model.item_vectors(),
        None,
    )


def _of_tables(
    tables: TablesAlone, length: int, dataset: Dataset, share: range, device: torch.device
) -> tuple[UsersKnowing, torch.Tensor, _More | None]:
    """The same without towers."""

    def users(with_validation: bool) -> torch.Tensor:
        history = dataset.last_items(length, with_validation)
        return tables.user_vectors(history[share.start : share.stop]).to(device)

    more = _More(tables.listed(length), tables.recent())
    return users, tables.item_vectors().to(device), more


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
        self, dataset: Dataset, share: range, with_validation: bool
    ) -> tuple[Listed | None, np.ndarray | None]:
        """Of this rank's users: the scores of a run of them, and the order in which they stand.

        Recent popularity is counted along time, so the users then stand in the order of theirs.
        """
        if self.lists is None and self.recent is None:
            return None, None
        mine, times, order = slice(share.start, share.stop), np.zeros(0), None
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


def _write_ids(folder: Path, dataset: Dataset) -> None:
    for side, ids in (("user", dataset.user_ids()), ("item", dataset.item_ids())):
        pq.write_table(pa.table({f"{side}_id": ids}), folder / f"{side}_ids.parquet")


def _write_ranks(file: Path, dataset: Dataset, held_out: np.ndarray, ranks: np.ndarray) -> None:
    """One row a user with an item in `held_out`, ``[n_users]`` and -1 for none."""
    has = held_out >= 0
    table = pa.table(
        {
            "user_id": dataset.user_ids().take(pa.array(np.flatnonzero(has))),
            "item_id": dataset.item_ids().take(pa.array(held_out[has])),
            "rank": pa.array(ranks[has]),
        }
    )
    pq.write_table(table, file)
