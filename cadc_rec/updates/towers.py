"""What an update does to the towers: they go on from the checkpoint before.

In: the checkpoint, the next D_full and D_sel, the new tables. Out: a checkpoint like any other. The
towers learned to read the old tables, and the new ones are in the same space.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from cadc_rec.config.experiment import Experiment, TrainConfig, UpdateConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.forgotten import SIDES, Forgotten
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.distributed.processes import Processes
from cadc_rec.pipeline.stages.train import (
    CHECKPOINT,
    COMPONENTS,
    WarmStart,
    build_checkpoint,
    choice_of,
)
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.updates.rounding import rounded_changes
from cadc_rec.updates.sample import write_rows_of_day


def _without_forgotten(
    state: dict[str, torch.Tensor], forgotten: Forgotten
) -> dict[str, torch.Tensor]:
    """A checkpoint without what was learned of forgotten users and items themselves.

    Their own rows become zeros. The row of an attribute's value that nobody else had becomes that
    of the unknown value.
    """
    for name, weight in state.items():
        side = name.partition(".")[0]
        if ".embedding_bags." not in name or side not in SIDES:
            continue
        if name.startswith(f"{side}.ids."):
            rows = forgotten.rows[side]
            weight[torch.from_numpy(rows[rows < len(weight)])] = 0
        for attribute, codes in forgotten.values.get(side, {}).items():
            if name == f"{side}.features.tables.embedding_bags.{side}_{attribute}.weight":
                weight[[code for code in codes if code < len(weight)]] = weight[0].clone()
    return state


def warm_training(train: TrainConfig, update: UpdateConfig) -> TrainConfig:
    """What an update trains the towers by."""
    # No epoch at all: the weights are carried over, to tables that may have come to be larger.
    epochs = 0 if update.towers == "keep" else update.train_epochs
    changed = {
        "epochs": epochs,
        "learning_rate": update.rate * train.learning_rate,
        "fused_learning_rate": update.rate * train.fused_learning_rate,
    }
    return train.model_copy(update=changed)


def build_updated_towers(
    warm: Experiment,
    dataset: Dataset,
    selection: Artifact,
    pretrained: Pretrained,
    before: Artifact,
    processes: Processes,
    draft: Draft,
    fitted: FittedPrior | None = None,
    reused: Mapping[Side, NDArray[np.int64]] | None = None,
    came: NDArray[np.bool_] | None = None,
    key: tuple[int, ...] = (),
) -> None:
    """Fill the draft of the train stage from the checkpoint before.

    Args:
        warm: the experiment, its ``[train]`` from `warm_training`.
        dataset: the next one.
        selection: its D_sel.
        pretrained: its vectors.
        before: the train artifact to go on from.
        processes: the ranks; each reads its own shards.
        draft: receives ``model.safetensors``.
        fitted: the prior's new fit, where it was fitted.
        reused: rows of ``user`` and ``item`` that were another's before.
        came: ``[rows]``, which of D_full's came with the day; of D_sel these alone are trained on,
            and as many others. None trains on all of D_sel.
        key: (seed, place...) of the draw of the others.
    """
    state = _without_forgotten(load_file(before.path / CHECKPOINT), dataset.forgotten)
    share = warm.update.round_changes
    kept = partial(rounded_changes, share=share) if share else None
    components = before.info.get(COMPONENTS)
    start = WarmStart(state, reused, kept=kept, components=components)
    scratch = draft.path / f".scratch-{processes.rank}"
    if came is not None:
        start = replace(start, choice=choice_of(before))
        train = warm.train.sized(int(selection.info["selected"]))  # batches like the run's
        scratch.mkdir()
        if not write_rows_of_day(selection.path, scratch, came, key, processes.world_size):
            train = train.model_copy(update={"epochs": 0})  # nothing came
        warm = warm.model_copy(update={"train": train})
        selection = Artifact(scratch, selection.manifest)
    build_checkpoint(
        warm,
        dataset,
        selection,
        pretrained,
        processes,
        draft,
        start=start,
        fitted=fitted,
    )
    if came is not None:
        shutil.rmtree(scratch)
        processes.barrier()  # before one of another node sends what is in the draft
