"""What scores users and items in the end, and its vectors, as the evaluate stage writes them.

In: the model's settings, its artifacts. Out: what is evaluated, and beside it what it was chosen
before; the files that a bundle is made of. A model of whose data nothing was held out has these
files alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.transition_lists import FILE
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.row_files import Target, write_rows
from cadc_rec.evaluation.on_top import LastItems
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.training.choice import TABLES, tables_scoring
from cadc_rec.training.scoring import Scoring, of_towers
from cadc_rec.training.validation import WRITTEN


def build_vectors(
    experiment: Experiment,
    dataset: Dataset,
    checkpoint: Artifact | None,
    pretrained: Pretrained,
    processes: Processes,
    draft: Draft,
    fitted: FittedPrior | None = None,
) -> None:
    """Write what `build_evaluation` writes beside ranks and metrics.

    Args:
        experiment: the model's settings.
        dataset: D_full, which users' vectors read to its end.
        checkpoint: the train stage's artifact; None where the tables are scored directly.
        pretrained: pre-trained vectors where the model has any.
        processes: the ranks.
        draft: receives vectors and ids of both sides, and lists where these were blended.
        fitted: the prior's fit, where it was fitted.
    """
    kept, _ = scorings(experiment, dataset, checkpoint, pretrained, processes, fitted)
    users = kept.users(False, None)
    empty_forgotten(dataset, users, "user", processes)
    draft.info = {"items": dataset.n_items, **said_of(kept, experiment)}
    draft.rows = dataset.n_users
    write_vectors(draft, dataset, users, kept.items, processes)
    if processes.rank == 0:
        write_ids_and_lists(draft.path, dataset, kept, pretrained)


def scorings(
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
            empty_forgotten(dataset, scoring.items, "item", processes)
    return kept, other


def said_of(kept: Scoring, experiment: Experiment) -> dict[str, Any]:
    """What a manifest says of scores that are no dot products of fixed vectors."""
    context = {"context": list(experiment.context.features)} if kept.by_context else {}
    return {**kept.on_top.settings(), **context}


def empty_forgotten(
    dataset: Dataset, vectors: torch.Tensor, side: str, processes: Processes
) -> None:
    """Set this rank's vectors of forgotten users or items to zero, in place."""
    share = processes.share(dataset.n_users if side == "user" else dataset.n_items)
    rows = dataset.forgotten.rows[side]
    mine = rows[(rows >= share.start) & (rows < share.stop)] - share.start
    if len(mine):
        vectors[torch.from_numpy(mine).to(vectors.device)] = 0


def write_vectors(
    draft: Draft, dataset: Dataset, users: torch.Tensor, items: torch.Tensor, processes: Processes
) -> None:
    """Write this rank's share of the vectors of both sides; every rank must call."""
    for side, vectors, rows in (("user", users, dataset.n_users), ("item", items, dataset.n_items)):
        target = Target(draft.path / f"{side}_vectors.safetensors", draft.sliced)
        write_rows(target, "vectors", vectors, rows, processes)


def write_ids_and_lists(
    folder: Path, dataset: Dataset, kept: Scoring, pretrained: Pretrained
) -> None:
    """Write the ids of both sides, and lists that are not those of the transitions alone."""
    for side, ids in (("user", dataset.user_ids()), ("item", dataset.item_ids())):
        file = folder / f"{side}_ids.parquet"
        pq.write_table(pa.table({f"{side}_id": ids}), file, row_group_size=WRITTEN)
    lists = kept.on_top.lists
    if lists is not None and lists.lists is not pretrained.lists:
        lists.lists.save(folder / FILE)
