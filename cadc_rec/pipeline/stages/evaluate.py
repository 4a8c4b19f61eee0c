"""The evaluate stage: a trained model in, metrics, ranks and vectors out."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from cadc_rec import strict_json
from cadc_rec.config.experiment import EvaluateConfig, Experiment
from cadc_rec.data.cold_items import ColdItems
from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.transition_lists import FILE
from cadc_rec.data.user_items import AndOneEach, Taken, UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.row_files import Target, write_rows
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.metrics import is_of_ranks, list_metrics, needs_lists, ranking_metrics
from cadc_rec.evaluation.on_top import LastItems
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.evaluation.statistics import mean_intervals
from cadc_rec.evaluation.top_items import TopItems
from cadc_rec.evaluation.validation import validation_sample
from cadc_rec.log import Ticker, track
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.training.choice import TABLES, TOWERS, added, tables_scoring
from cadc_rec.training.scoring import Scoring, of_towers
from cadc_rec.training.validation import VALIDATION_RANKS, WRITTEN, kept_ranks, write_ranks


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
    kept, other = _scorings(experiment, dataset, checkpoint, pretrained, processes, fitted)
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
        _empty(dataset, users, "user", processes)
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
        **kept.on_top.settings(),
        **({"context": list(experiment.context.features)} if kept.by_context else {}),
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
    for side, vectors, rows in (
        ("user", users, dataset.n_users),
        ("item", kept.items, dataset.n_items),
    ):
        target = Target(draft.path / f"{side}_vectors.safetensors", draft.sliced)
        write_rows(target, "vectors", vectors, rows, processes)
    if processes.rank == 0:
        (draft.path / "metrics.json").write_text(
            strict_json.dumps(result, indent=2) + "\n", "utf-8"
        )
        _write_ids(draft.path, dataset)
        lists = kept.on_top.lists
        if lists is not None and lists.lists is not pretrained.lists:
            lists.lists.save(draft.path / FILE)
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


def _scorings(
    experiment: Experiment,
    dataset: Dataset,
    checkpoint: Artifact | None,
    pretrained: Pretrained,
    processes: Processes,
    fitted: FittedPrior | None,
) -> tuple[Scoring, Scoring | None]:
    """What is evaluated, and what it was chosen before: towers and tables, where one was chosen.

    Where an update did not choose anew, what was not chosen is not evaluated.
    """
    known = LastItems(dataset, experiment.history.length)
    choice = None if checkpoint is None else checkpoint.info.get("kept")
    chosen_before = checkpoint is not None and "chosen_before" in checkpoint.info
    tables = towers = None
    if checkpoint is None or choice == TABLES or (choice is not None and not chosen_before):
        tables = tables_scoring(experiment, dataset, pretrained, processes, fitted, known)
    if checkpoint is not None and not (chosen_before and choice == TABLES):
        # It takes a third of a second to load, which tables alone need not wait for.
        from cadc_rec.distributed.state import load_state
        from cadc_rec.pipeline.stages.train import CHECKPOINT
        from cadc_rec.training.build import build_model

        model = build_model(experiment, dataset, pretrained, processes, fitted)
        load_state(model.wrapped, load_file(checkpoint.path / CHECKPOINT), model.trains)
        features = experiment.context.features
        context = RequestContext.of(dataset, features) if features else None
        towers = of_towers(model, known, context)
    kept, other = (tables, towers) if towers is None or choice == TABLES else (towers, tables)
    assert kept is not None
    for scoring in (kept, other):
        if scoring is not None:
            _empty(dataset, scoring.items, "item", processes)
    return kept, other


def _empty(dataset: Dataset, vectors: torch.Tensor, side: str, processes: Processes) -> None:
    """Set this rank's vectors of forgotten users or items to zero, in place."""
    share = processes.share(dataset.n_users if side == "user" else dataset.n_items)
    rows = dataset.forgotten.rows[side]
    mine = rows[(rows >= share.start) & (rows < share.stop)] - share.start
    if len(mine):
        vectors[torch.from_numpy(mine).to(vectors.device)] = 0


def _write_ids(folder: Path, dataset: Dataset) -> None:
    for side, ids in (("user", dataset.user_ids()), ("item", dataset.item_ids())):
        file = folder / f"{side}_ids.parquet"
        pq.write_table(pa.table({f"{side}_id": ids}), file, row_group_size=WRITTEN)
