"""One TOML file is one experiment: the validated model of it, and the rules between its sections.

Every section says what it decides; `cadc_rec.config.file` reads a file into an `Experiment`.
"""

from __future__ import annotations

from collections.abc import Iterator

from cadc_rec.config.data import DataConfig as DataConfig
from cadc_rec.config.data import GeneratedConfig as GeneratedConfig
from cadc_rec.config.methods import MethodName
from cadc_rec.config.running import CheckpointConfig as CheckpointConfig
from cadc_rec.config.running import ComputeConfig as ComputeConfig
from cadc_rec.config.running import EvaluateConfig as EvaluateConfig
from cadc_rec.config.running import ShardingConfig as ShardingConfig
from cadc_rec.config.running import TrackingConfig as TrackingConfig
from cadc_rec.config.running import UpdateConfig as UpdateConfig
from cadc_rec.config.towers import LoaderConfig as LoaderConfig
from cadc_rec.config.towers import ModelConfig as ModelConfig
from cadc_rec.config.towers import NegativesConfig as NegativesConfig
from cadc_rec.config.towers import SelectConfig as SelectConfig
from cadc_rec.config.towers import TrainConfig as TrainConfig
from cadc_rec.config.types import CPU_SHARDINGS, Section, Seed, needs_cuda
from cadc_rec.config.vectors import AlsConfig as AlsConfig
from cadc_rec.config.vectors import HistoryConfig as HistoryConfig
from cadc_rec.config.vectors import MlpPretrainConfig as MlpPretrainConfig
from cadc_rec.config.vectors import PretrainConfig as PretrainConfig
from cadc_rec.config.vectors import PriorConfig as PriorConfig
from cadc_rec.config.vectors import TransitionsConfig as TransitionsConfig


class Experiment(Section):
    """A whole experiment; what `cadc-rec run CONFIG` carries out."""

    seed: Seed = 0
    """Initialization, negatives, selection and order; never the split (`data.split_seed`)."""
    method: MethodName = "cadc"
    """Which row of settings is laid over this file; `--method` wins."""
    data: DataConfig = DataConfig()
    pretrain: PretrainConfig = PretrainConfig()
    transitions: TransitionsConfig = TransitionsConfig()
    history: HistoryConfig = HistoryConfig()
    prior: PriorConfig = PriorConfig()
    select: SelectConfig = SelectConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    negatives: NegativesConfig = NegativesConfig()
    loader: LoaderConfig = LoaderConfig()
    sharding: ShardingConfig = ShardingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()
    update: UpdateConfig = UpdateConfig()

    def broken_rules(self) -> Iterator[str]:
        """See `Section`: rules between sections, the most basic first."""
        for rule in (_weights, _vectors, _context, _hard_selection, _devices):
            yield from rule(self)
        if self.model.kind == "two_tower":
            for rule in (_ids, _reading, _shards):
                yield from rule(self)

    def needs_cuda(self) -> Iterator[str]:
        """Why no CPU can train this; a sentence for each setting. Where there is none, one can."""
        for group, table in self.model.id_tables().items():
            kind, kernel = (getattr(self.sharding, f"{group}{of}") for of in ("", "_kernel"))
            if kind not in ("auto", *CPU_SHARDINGS):
                yield needs_cuda(kind, table)
            if kernel.startswith("fused_uvm"):
                yield (
                    f"sharding.{group}_kernel = {kernel!r} needs CUDA, and this runs on cpu; set "
                    "it to 'auto'."
                )
        if self.sharding.communication != "fp32":
            yield (
                f"sharding.communication = {self.sharding.communication!r} needs CUDA, and this "
                "runs on cpu; set it to 'fp32'."
            )


def _weights(e: Experiment) -> Iterator[str]:
    """Weights that a model counting all rows alike would ignore."""
    if e.pretrain.model not in ("mf", "mlp"):
        return
    weight = e.data.source == "tables" and e.data.tables.interactions.weight
    key = "data.tables.interactions.weight" if weight else "data.duplicates = 'sum'"
    if weight or e.data.duplicates == "sum":
        yield (
            f"{key} gives interactions weights, and pretrain.model = "
            f"{e.pretrain.model!r} counts all alike; set pretrain.model = 'als', or leave it out."
        )


def _vectors(e: Experiment) -> Iterator[str]:
    """Uses of pre-trained vectors that have no meaning."""
    pretraining, use = e.pretrain.model, e.model.id_embedding
    if e.model.kind == "tables":
        if pretraining not in ("mf", "als", "popularity"):
            yield (
                "model.kind = 'tables' scores pairs by the dot product of pre-trained "
                f"vectors, which pretrain.model = {pretraining!r} does not give; set "
                "pretrain.model = 'mf', 'als' or 'popularity'."
            )
        if e.pretrain.scale != "none":
            yield (
                "model.kind = 'tables' scores the vectors as they were learned; set "
                "pretrain.scale = 'none'."
            )
    elif pretraining == "popularity":
        yield (
            "pretrain.model = 'popularity' has no vectors for two towers; set "
            "model.kind = 'tables', or pretrain.model = 'mf'."
        )
    elif use == "residual" and pretraining in ("mlp", "als"):
        yield (
            "model.id_embedding = 'residual' adds matrix factorization's score, and the "
            f"vectors of pretrain.model = {pretraining!r} have none; set pretrain.model = 'mf'."
        )
    elif use == "residual" and e.pretrain.scale != "none":
        yield (
            "model.id_embedding = 'residual' adds the score of the vectors as they were "
            "learned; set pretrain.scale = 'none'."
        )


def _context(e: Experiment) -> Iterator[str]:
    """Histories and transitions that nothing can be looked up in."""
    whole = e.model.id_embedding in ("init_frozen", "linear", "mlp", "residual")
    if e.history.length and e.model.kind == "two_tower" and not whole:
        yield (
            f"history.length = {e.history.length} looks items up in a frozen table of "
            f"whole vectors, which model.id_embedding = {e.model.id_embedding!r} has not; set it "
            "to 'init_frozen', or history.length = 0."
        )
    if e.prior.use and not (e.history.length and e.pretrain.model == "als"):
        yield (
            "prior.use = true folds a history into ALS, and history.length = "
            f"{e.history.length} with pretrain.model = {e.pretrain.model!r} has not both; set "
            "history.length and pretrain.model = 'als', or prior.use = false."
        )
    if e.transitions.window and not e.history.length:
        yield (
            f"transitions.window = {e.transitions.window} tells what follows a user's "
            "last items, and history.length = 0 gives none; set one of them to match the other."
        )


def _hard_selection(e: Experiment) -> Iterator[str]:
    """A selection by scores that no vectors give."""
    keeps_order = {"mf": ("none",), "als": ("none", "unit")}.get(e.pretrain.model)
    if e.select.kind != "hard":
        return
    if not keeps_order:
        yield (
            "select.kind = 'hard' takes the rows that pre-trained vectors score lowest; "
            "set pretrain.model = 'mf' or 'als'."
        )
    elif e.pretrain.scale not in keeps_order:
        yield (
            "select.kind = 'hard' scores rows by the pre-trained vectors, whose order "
            f"pretrain.scale = {e.pretrain.scale!r} changes; set pretrain.scale = 'none'."
        )


def _devices(e: Experiment) -> Iterator[str]:
    """What no CPU can do."""
    if e.compute.device == "cpu":
        yield from e.needs_cuda()


def _ids(e: Experiment) -> Iterator[str]:
    """Ids of the towers that do not fit what is pre-trained."""
    pretraining, use = e.pretrain.model, e.model.id_embedding
    if use != "trainable" and pretraining == "none":
        yield (
            f"model.id_embedding = {use!r} needs pre-trained vectors, "
            "and pretrain.model is 'none'; set pretrain.model = 'mf'."
        )
    if use == "trainable" and pretraining != "none":
        yield (
            f"pretrain.model = {pretraining!r} is of no use to "
            "model.id_embedding = 'trainable'; set one of them to match the other."
        )
    if pretraining != "none" and e.pretrain.factors + 1 != e.model.id_dim:
        yield (
            f"model.id_dim = {e.model.id_dim} must be pretrain.factors + 1 "
            f"(factors and bias) = {e.pretrain.factors + 1}; change one of them."
        )


def _reading(e: Experiment) -> Iterator[str]:
    """A loader or negatives that the rest of the training has no use for."""
    if e.loader.kind == "stream" and e.history.length:
        yield (
            "loader.kind = 'stream' carries no histories, and history.length = "
            f"{e.history.length}; set loader.kind = 'memory'."
        )
    if e.negatives.distribution != "uniform" and e.train.loss in ("softmax", "in-batch-softmax"):
        yield (
            f"negatives.distribution = {e.negatives.distribution!r} is about drawn "
            f"negatives, and train.loss = {e.train.loss!r} draws none; set train.loss = 'binary' "
            "or 'sampled-softmax', or negatives.distribution = 'uniform'."
        )


def _shards(e: Experiment) -> Iterator[str]:
    """More processes than shards, of which each process reads whole ones."""
    if 0 < e.select.shards < e.compute.processes:
        yield (
            f"compute.processes = {e.compute.processes} cannot share select.shards = "
            f"{e.select.shards}; set select.shards to at least {e.compute.processes}."
        )
