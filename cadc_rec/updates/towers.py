"""The train stage of an update: towers that go on from the checkpoint before."""

from __future__ import annotations

from safetensors.torch import load_file

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.processes import Processes
from cadc_rec.pipeline.stages.train import CHECKPOINT, build_checkpoint
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.store.artifact import Artifact, Draft


def towers_experiment(experiment: Experiment) -> Experiment:
    """The experiment whose ``[train]`` is what an update trains by."""
    update, train = experiment.update, experiment.train
    changed = {
        # No epoch at all: the weights are carried over, to tables that may have come to be larger.
        "epochs": update.train_epochs if update.towers == "train" else 0,
        "learning_rate": update.rate * train.learning_rate,
        "fused_learning_rate": update.rate * train.fused_learning_rate,
    }
    return experiment.model_copy(update={"train": train.model_copy(update=changed)})


def build_updated_towers(
    warm: Experiment,
    dataset: Dataset,
    selection: Artifact,
    pretrained: Pretrained,
    before: Artifact,
    processes: Processes,
    draft: Draft,
) -> None:
    """Fill the draft of the train stage from the checkpoint before.

    Args:
        warm: from `towers_experiment`.
        dataset: the next one.
        selection: its D_sel.
        pretrained: its vectors.
        before: the train artifact to go on from.
        processes: one process.
        draft: receives ``model.safetensors``.
    """
    start = load_file(before.path / CHECKPOINT)
    build_checkpoint(warm, dataset, selection, pretrained, processes, draft, start=start)
