"""The train stage: D_sel and id tables in, the trained part of a two-tower model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cadc_rec.config.experiment import Experiment, NegativesConfig, SelectConfig, TrainConfig
from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.load.shards import SelectionShards
from cadc_rec.data.select.sizes import wanted_rows
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.distributed.memory import process_memory
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.row_files import Target
from cadc_rec.distributed.state import write_state
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.on_top import LastItems
from cadc_rec.evaluation.validation import validation_sample
from cadc_rec.models.known_scores import compile_known
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.training.build import (
    build_model,
    change_layers,
    frozen_tables_intact,
    load_grown,
)
from cadc_rec.training.checkpoints import SavedTraining
from cadc_rec.training.choice import CHOICE, choose, tables_scoring
from cadc_rec.training.context import Requests
from cadc_rec.training.intervals import Meter, OnInterval, Untold
from cadc_rec.training.kept import Histories, frozen_cache, keep_frozen_rows, known_scores
from cadc_rec.training.losses import logq_offsets, make_objective, mixed_offsets
from cadc_rec.training.reading import compile_loops, open_reading
from cadc_rec.training.repeat import Repeat
from cadc_rec.training.steps.step import has_bfloat16, refuse_precision
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import OnEpoch, Trainer
from cadc_rec.training.validation import VALIDATION_RANKS, Validation, write_ranks

CHECKPOINT = "model.safetensors"
COMPONENTS = "components"
"""What a manifest calls the prior's components, in the order of the checkpoint's factors."""


@dataclass(frozen=True)
class WarmStart:
    """An earlier checkpoint to go on from.

    Attributes:
        state: its tensors; tables may have fewer rows.
        reused: of ``user`` and ``item``, the rows that were another's in it.
        choice: what its manifest says of the choice between towers and tables, to stand as it is.
            Then nothing is validated, and the last epoch's weights are kept.
        kept: what is kept of a layer's weight, given it before and after; None keeps all of it.
        components: what its manifest says of the prior's; None where it says nothing.
    """

    state: Mapping[str, torch.Tensor]
    reused: Mapping[Side, np.ndarray] | None = None
    choice: Mapping[str, Any] | None = None
    kept: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    components: Sequence[str] | None = None


def choice_of(checkpoint: Artifact) -> dict[str, Any]:
    """What a train artifact says of the choice between towers and tables; empty without one."""
    return {name: checkpoint.info[name] for name in CHOICE if name in checkpoint.info}


def warm_up(
    select: SelectConfig,
    train: TrainConfig,
    negatives: NegativesConfig,
    interactions: int,
    processes: int,
    lists: bool,
    recent: bool,
) -> None:
    """Compile the loader's loops, where a rank has rows enough for them, and of known scores."""
    compile_loops(train, negatives, wanted_rows(select, interactions) // processes)
    compile_known(lists, recent)


def build_checkpoint(
    experiment: Experiment,
    dataset: Dataset,
    selection: Artifact,
    pretrained: Pretrained,
    processes: Processes,
    draft: Draft,
    on_epoch: OnEpoch = lambda _: None,
    saved: SavedTraining | None = None,
    start: WarmStart | None = None,
    fitted: FittedPrior | None = None,
    told: OnInterval | None = None,
    repeat: Repeat | None = None,
) -> None:
    """Train the two towers on D_sel; keep the best epoch by validation NDCG@10.

    Args:
        experiment: the seed and, of training, every section that has a say in it.
        dataset: sizes, attributes, and the validation items that choose the epoch.
        selection: D_sel.
        pretrained: pre-trained vectors; empty where ids are learned here.
        processes: the ranks; each reads its own shards of D_sel.
        draft: receives ``model.safetensors``: everything trained, whole tensors, so that any
            number of ranks can read it. Frozen tables stay where they are, in `tables`' artifact.
            ``validation_ranks.parquet``: those of the best epoch.
        on_epoch: called after every epoch, see `Trainer.fit`.
        saved: where the training is saved on its way, and gone on with.
        start: an earlier checkpoint to go on from.
        fitted: the prior's fit, where it was fitted.
        told: of what is measured of steps, interval by interval.
        repeat: the training to repeat; then nothing is validated, and its choices stand.

    Raises:
        CadcError: no user has a validation item, training diverged, or a frozen table changed.
    """
    if repeat is None and not (dataset.val_item >= 0).any():
        raise CadcError(
            "no user has the three interactions that a validation item needs; use more data or a "
            "smaller data.k_core."
        )
    precision, device, sharding = experiment.train.precision, processes.device, experiment.sharding
    refuse_precision(precision, device, has_bfloat16(device))
    started = time.perf_counter()
    shards = SelectionShards.open(selection)
    config, history = experiment.train.sized(sum(shards.rows)), experiment.history.length
    experiment = experiment.model_copy(update={"train": config})
    reading = open_reading(
        config,
        experiment.negatives,
        experiment.loader,
        history,
        experiment.seed,
        dataset,
        shards,
        processes,
        bool(experiment.context.features),
    )
    loader = reading.loader
    model = build_model(experiment, dataset, pretrained, processes, fitted)
    if start is not None:
        load_grown(model, start.state, start.reused, start.components)
    limit = frozen_cache(experiment, processes.broadcast(process_memory(processes, sharding)))
    keep_frozen_rows(model.module.user.ids, reading.users, processes, limit)
    read = None
    if reading.history is not None:
        rows_by_rank = shards.rows_by_rank(processes.world_size)
        places = shards.places(processes.rank, processes.world_size)
        times = dataset.train_timestamp
        known = known_scores(model.tables, reading.history, times, places, device, limit)
        read = Histories(model.module, reading.history, rows_by_rank, processes, limit, known)
    histories: Histories | Requests | None = read
    context = None
    if experiment.context.features:
        context = RequestContext.of(dataset, experiment.context.features)
        codes = context.train[shards.places(processes.rank, processes.world_size)]
        histories = Requests(codes, read, device)
    offsets = None
    if config.logq:
        offsets = _item_offsets(reading.item_counts(), processes)
    elif experiment.negatives.distribution == "mixed":
        of_rank = mixed_offsets(reading.item_counts(), loader.steps, config.shared_negatives)
        offsets = of_rank.to(device)
    absence = model.module.absence
    trainer = Trainer(
        model.wrapped,
        dense_optimizer(model.wrapped, model.module, config),
        loader,
        config,
        processes,
        model.trains,
        make_objective(config, offsets),
        histories,
        experiment.compute.matmul,
        lambda step: None if absence is None else absence.begin(step),
        experiment.compute.graphs,
        model.module.frozen_reads,
        model.ahead(),
        Meter(experiment.tracking.interval_seconds, model.wrapped, processes, told or Untold()),
        repeat,
    )
    setup_seconds = time.perf_counter() - started
    evaluate, val_item = experiment.evaluate, np.asarray(dataset.val_item)
    sample = validation_sample(val_item, evaluate.users, experiment.data.split_seed)
    validation = Validation(model, dataset, history, sample, context, limit)

    def epoch_ended(entry: dict[str, float]) -> None:
        validation.after_epoch(entry)
        on_epoch(entry)

    chosen = None if start is None else start.choice
    if repeat is not None:
        chosen = repeat.choice
    validates = chosen is None
    trained = trainer.fit(
        validation if validates else None, on_epoch=epoch_ended, checkpoints=saved
    )
    if repeat is not None:
        model.module.user.multiply(repeat.weight)
    if start is not None and start.kept is not None:
        change_layers(model, start.state, start.kept)
        validation.changed()
    if not frozen_tables_intact(model, pretrained):
        raise CadcError(
            "a frozen table changed while training; this is a defect of ours: please report it "
            f"with the sharding settings ({model.plan()})."
        )
    choice = None
    if validates and experiment.model.keep == "better":
        items = LastItems(dataset, history)
        alone = tables_scoring(experiment, dataset, pretrained, processes, fitted, items)
        choice = choose(model.module, validation, alone)
    target = Target(draft.path / CHECKPOINT, draft.sliced)
    write_state(target, model.wrapped, processes, model.trains)
    # An update may train no epoch, or choose none.
    ranks = None if choice is None else choice.ranks
    if validates and choice is None and trained.best_epoch:
        ranks = validation.best_ranks()
    if processes.rank == 0 and ranks is not None:
        users = np.flatnonzero(val_item >= 0) if sample is None else sample
        file = draft.path / VALIDATION_RANKS
        write_ranks(file, dataset, users, val_item[users], ranks)
    positives = sum(shards.rows)
    draft.rows = round(positives * trained.passes)
    draft.info = {
        "positives": positives,
        "world_size": processes.world_size,
        "device": processes.device.type,
        "steps_per_epoch": loader.steps,
        "setup_seconds": setup_seconds,
        "plan": model.plan(),
        "plan_in_full": model.plan_in_full(),
        **({} if model.tables is None else {COMPONENTS: model.tables.of_towers()}),
        **trained.as_info(positives),
        **({} if choice is None else choice.as_info()),
        **({} if not chosen else {**chosen, "chosen_before": True}),
        **({} if repeat is None else {"repeats": repeat.as_json()}),
    }
    if saved is not None and saved.resumed:
        draft.info["resumed"] = saved.resumed
        draft.seconds_before = saved.seconds_before
        draft.costs_before = saved.costs_before


def _item_offsets(counts: np.ndarray, processes: Processes) -> torch.Tensor:
    """LogQ's offsets from this rank's counts of items; every rank gets those of all."""
    mine = torch.from_numpy(counts).to(processes.device)
    return logq_offsets(processes.all_reduce_sum(mine))
