"""The evaluate stage: a trained model in, metrics, ranks and vectors out."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cadc_rec import strict_json
from cadc_rec.config.experiment import EvaluateConfig, Experiment
from cadc_rec.data.cold_items import ColdItems
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import AndOneEach, Taken, UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.metrics import is_of_ranks, list_metrics, needs_lists, ranking_metrics
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.evaluation.statistics import mean_intervals
from cadc_rec.evaluation.top_items import TopItems
from cadc_rec.evaluation.validation import validation_sample
from cadc_rec.log import Ticker, track
from cadc_rec.pipeline.stages.vectors import (
    empty_forgotten,
    said_of,
    scorings,
    write_ids_and_lists,
    write_vectors,
)
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.training.choice import TABLES, TOWERS, added
from cadc_rec.training.scoring import Scoring
from cadc_rec.training.validation import VALIDATION_RANKS, kept_ranks, write_ranks


def build_evaluation(
    experiment: Experiment,
    dataset: Dataset,
    checkpoint: Artifact | None,
    pretrained: Pretrained,
    processes: Processes,
    draft: Draft,
    fitted: FittedPrior | None = None,
    most_tests: int = 0,
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
            scores come on top of the dot products; ``transition_lists.safetensors`` where these
            are not those of the transitions alone. Of a dataset with cold items also
            ``cold_ranks.parquet``.
        fitted: the prior's fit, where it was fitted.
        most_tests: users whose test items are ranked at most: a sample, drawn as that of the
            validation items; 0 ranks all. Only one process may ask for one.
    """
    config, val_item = experiment.evaluate, np.asarray(dataset.val_item)
    test_users, have = (np.flatnonzero(held >= 0) for held in (dataset.test_item, val_item))
    if not len(test_users):
        raise CadcError("no user has a test item (three interactions are needed); use more data.")
    split_seed = experiment.data.split_seed
    sample = validation_sample(val_item, config.users, split_seed)
    tests = validation_sample(dataset.test_item, most_tests, split_seed)
    cold = ColdItems.of(dataset)
    if cold is not None:
        dataset = replace(dataset, item_attributes=dataset.every_item_attributes())
    kept, other = scorings(experiment, dataset, checkpoint, pretrained, processes, fitted)
    train = UserItems(dataset.user_indptr, dataset.train_item)
    # Training has ranked the very model that it kept, but it counts no best items.
    val_ranks = None
    if checkpoint is not None and not needs_lists(config.metrics):
        val_ranks = kept_ranks(checkpoint.path, len(have) if sample is None else len(sample))
    to_rank = [] if val_ranks is not None else [val_item if sample is None else val_item[sample]]
    tested = dataset.test_item if tests is None else dataset.test_item[tests]
    to_rank += [tested] * (1 + (other is not None))
    total = sum(map(len, to_rank))
    with track("evaluate", total, "users", visible=processes.rank == 0) as ticker:
        measure = functools.partial(_measured, config, dataset, processes, ticker)
        if val_ranks is None:
            excluded = train if sample is None else train.some(sample)
            val_ranks, val = measure(kept, kept.users(False, sample), excluded, False, sample)
        else:
            val = ranking_metrics(val_ranks, config.k, config.metrics)
        users, both = kept.users(True, None), AndOneEach(train, val_item)
        empty_forgotten(dataset, users, "user", processes)
        known: Taken = both if tests is None else both.some(tests)
        ranked = users if tests is None else users[torch.from_numpy(tests).to(users.device)]
        test_ranks, test = measure(kept, ranked, known, True, tests)
        comparison: dict[str, Any] = {}
        if checkpoint is not None and "kept" in checkpoint.info:
            comparison["kept"] = checkpoint.info["kept"]
        if other is not None:
            assert checkpoint is not None
            towers = checkpoint.info["kept"] == TOWERS
            ranks, beside = measure(other, other.users(True, tests), known, True, tests)
            comparison |= {
                "beside": {"of": TABLES if towers else TOWERS, "test": beside},
                "added": added(*((test_ranks, ranks) if towers else (ranks, test_ranks))),
            }
    result: dict[str, Any] = {
        "test": test,
        "validation": val,
        "users": len(test_ranks),
        "items": dataset.n_items,
        "split": dataset.order,
        **said_of(kept, experiment),
        **comparison,
    }
    for name, some, of, ranks, metrics in (
        ("validation_sample", sample, have, val_ranks, val),
        ("test_sample", tests, test_users, test_ranks, test),
    ):
        if some is not None:
            interval = mean_intervals(ranks, [name for name in metrics if is_of_ranks(name)])
            result[name] = {"users": len(some), "of": len(of), "interval": interval}
    if cold is not None:
        from cadc_rec.pipeline.stages.cold import measure_cold

        result["cold"] = measure_cold(config.k, dataset, cold, kept, processes, draft.path)
    draft.info, draft.rows = result, result["users"]
    write_vectors(draft, dataset, users, kept.items, processes)
    if processes.rank == 0:
        (draft.path / "metrics.json").write_text(
            strict_json.dumps(result, indent=2) + "\n", "utf-8"
        )
        write_ids_and_lists(draft.path, dataset, kept, pretrained)
        for name, of, held_out, ranks in (
            (
                "ranks.parquet",
                test_users if tests is None else tests,
                dataset.test_item,
                test_ranks,
            ),
            (VALIDATION_RANKS, have if sample is None else sample, val_item, val_ranks),
        ):
            write_ranks(draft.path / name, dataset, of, held_out[of], ranks)


def _measured(
    config: EvaluateConfig,
    dataset: Dataset,
    processes: Processes,
    ticker: Ticker,
    scoring: Scoring,
    users: torch.Tensor,
    excluded: Taken,
    with_validation: bool,
    sample: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, float]]:
    """Ranks of the test items, or else of the validation items, and all metrics asked for."""
    targets = np.asarray(dataset.test_item if with_validation else dataset.val_item)
    targets = targets if sample is None else targets[sample]
    top = TopItems(config.k, dataset.n_items) if needs_lists(config.metrics) else None
    n, items = dataset.n_items, processes.share(dataset.n_items)
    listed, order = scoring.on_top.of_users(dataset, sample, with_validation, items)
    ranks = ranks_by_share(
        users, scoring.items, targets, excluded, processes, n, ticker.advance, listed, order, top
    )
    ranks = ranks[targets >= 0]
    metrics = ranking_metrics(ranks, config.k, config.metrics)
    if top is not None:
        metrics |= list_metrics(top.of_ks(), dataset.item_counts, config.metrics)
    return ranks, metrics
