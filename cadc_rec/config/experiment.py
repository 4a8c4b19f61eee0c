"""One TOML file is one experiment: its validated model, and the rules between its sections.

`cadc_rec.config.file` reads a file into an `Experiment`.
"""

from __future__ import annotations

from collections.abc import Iterator

from cadc_rec.config.context import ContextConfig as ContextConfig
from cadc_rec.config.context import broken_features
from cadc_rec.config.data import DataConfig as DataConfig
from cadc_rec.config.data import GeneratedConfig as GeneratedConfig
from cadc_rec.config.data import is_only_an_order
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
    """One experiment; `cadc-rec run CONFIG` runs it."""

    seed: Seed = 0
    """Seed of initialization, negatives, selection and order. It never changes the split
    (`data.split_seed` does)."""
    method: MethodName = "cadc"
    """The row of settings that is laid over this file; `--method` overrides it."""
    data: DataConfig = DataConfig()
    pretrain: PretrainConfig = PretrainConfig()
    transitions: TransitionsConfig = TransitionsConfig()
    history: HistoryConfig = HistoryConfig()
    prior: PriorConfig = PriorConfig()
    context: ContextConfig = ContextConfig()
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
        for rule in (_weights, _vectors, _context, _selection_by_tables, _devices):
            yield from rule(self)
        yield from broken_features(self.context, self.data)
        if self.model.kind == "two_tower":
            for rule in (_ids, _reading, _negatives, _shards):
                yield from rule(self)

    @property
    def by_example(self) -> bool:
        """Whether two examples of one user differ for its tower: by history, or by context."""
        return bool(self.history.length or self.context.features)

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
    """Weights need a pre-trained model that uses them."""
    if e.pretrain.model not in ("mf", "mlp"):
        return
    weight = e.data.source == "tables" and e.data.tables.interactions.weight
    key = "data.tables.interactions.weight" if weight else "data.duplicates = 'sum'"
    if weight or e.data.duplicates == "sum":
        yield (
            f"{key} gives interactions weights, and pretrain.model = {e.pretrain.model!r} "
            "ignores them; set pretrain.model = 'als', or leave the weights out."
        )


def _vectors(e: Experiment) -> Iterator[str]:
    """Each use of pre-trained vectors needs vectors that fit it."""
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
            "model.id_embedding = 'residual' adds the score of matrix factorization, which "
            f"pretrain.model = {pretraining!r} does not learn; set pretrain.model = 'mf'."
        )
    elif use == "residual" and e.pretrain.scale != "none":
        yield (
            "model.id_embedding = 'residual' adds the score of the vectors as they were "
            "learned; set pretrain.scale = 'none'."
        )


def _context(e: Experiment) -> Iterator[str]:
    """Histories, transitions and the prior need tables to look items up in."""
    use = e.model.id_embedding
    whole = use in ("init_frozen", "linear", "mlp", "residual")
    if e.history.length and e.model.kind == "two_tower" and not whole:
        yield (
            f"history.length = {e.history.length} needs a frozen table of whole vectors, and "
            f"model.id_embedding = {e.model.id_embedding!r} has none; set model.id_embedding = "
            "'init_frozen', or history.length = 0."
        )
    if e.prior.use and not (e.history.length and e.pretrain.model == "als"):
        yield (
            "prior.use = true needs histories and the vectors of ALS, but history.length = "
            f"{e.history.length} and pretrain.model = {e.pretrain.model!r}; set "
            "history.length above 0 and pretrain.model = 'als', or prior.use = false."
        )
    if e.transitions.window and not e.history.length:
        yield (
            f"transitions.window = {e.transitions.window} learns what follows a user's last "
            "items, and history.length = 0 keeps no last items; set history.length above 0, or "
            "transitions.window = 0."
        )
    if e.prior.fit == "validation" and not e.prior.use:
        yield (
            "prior.fit = 'validation' chooses the factors of a prior, and prior.use is false; set "
            "prior.use = true (methods `prior` and `recipe`), or prior.fit = 'none'."
        )
    towers = e.model.kind == "two_tower"
    if e.model.keep == "better" and towers and not (e.prior.use or use == "residual"):
        yield (
            "model.keep = 'better' needs a score of the tables that towers add to; set prior.use "
            "= true (method `recipe`) or model.id_embedding = 'residual' (method "
            "`cadc-residual`), or model.keep = 'towers'."
        )
    if e.transitions.window and e.transitions.form == "lists" and not e.prior.use:
        yield (
            "transitions.form = 'lists' keeps scores that the prior adds, and prior.use is false; "
            "set prior.use = true (method `prior` or `recipe`), or transitions.form = 'factors'."
        )


_TAKES = {
    "hard": "takes the rows that pre-trained vectors score lowest",
    "gradient-norm": "takes the rows whose scores by pre-trained vectors have the longest gradient",
}


def _selection_by_tables(e: Experiment) -> Iterator[str]:
    """A selection by scores or distances needs pre-trained vectors that give them."""
    kind, model, scale = e.select.kind, e.pretrain.model, e.pretrain.scale
    if kind == "k-centres" and model in ("none", "popularity"):
        yield (
            "select.kind = 'k-centres' takes rows whose pre-trained vectors lie apart, and "
            f"pretrain.model = {model!r} gives no vectors; set pretrain.model = 'mf', 'als' or "
            "'mlp'."
        )
    if kind not in _TAKES:
        return
    keeps_order = {"mf": ("none",), "als": ("none", "unit")}.get(model)
    if not keeps_order:
        yield (
            f"select.kind = {kind!r} {_TAKES[kind]}, and pretrain.model = {model!r} gives no such "
            "vectors; set pretrain.model = 'mf' or 'als'."
        )
    elif scale not in keeps_order:
        yield (
            f"select.kind = {kind!r} scores rows by the pre-trained vectors, and pretrain.scale = "
            f"{scale!r} changes the order of the scores; set pretrain.scale = 'none'."
        )
    elif kind == "gradient-norm" and model == "mf" and e.pretrain.loss != "binary":
        yield (
            "select.kind = 'gradient-norm' needs a loss of each row alone, and pretrain.loss = "
            f"{e.pretrain.loss!r} compares a row with all items; set pretrain.loss = 'binary', or "
            "select.kind = 'hard'."
        )


def _devices(e: Experiment) -> Iterator[str]:
    """Settings that need CUDA."""
    if e.compute.device == "cpu":
        yield from e.needs_cuda()


def _ids(e: Experiment) -> Iterator[str]:
    """The towers' id embedding must fit what is pre-trained."""
    pretraining, use = e.pretrain.model, e.model.id_embedding
    if use != "trainable" and pretraining == "none":
        yield (
            f"model.id_embedding = {use!r} needs pre-trained vectors, "
            "and pretrain.model is 'none'; set pretrain.model = 'mf'."
        )
    if use == "trainable" and pretraining != "none":
        yield (
            "model.id_embedding = 'trainable' does not use the vectors of "
            f"pretrain.model = {pretraining!r}; set model.id_embedding = 'init_frozen', or "
            "pretrain.model = 'none'."
        )
    if pretraining != "none" and e.pretrain.factors + 1 != e.model.id_dim:
        yield (
            f"model.id_dim = {e.model.id_dim} must be pretrain.factors + 1 "
            f"(factors and bias) = {e.pretrain.factors + 1}; change one of them."
        )


def _reading(e: Experiment) -> Iterator[str]:
    """The loader must fit what the towers read."""
    if e.loader.kind == "stream" and e.history.length:
        yield (
            "loader.kind = 'stream' cannot read histories, and history.length = "
            f"{e.history.length}; set loader.kind = 'memory'."
        )
    if e.loader.kind == "stream" and e.context.features:
        yield (
            "loader.kind = 'stream' cannot read the context of an interaction, and "
            f"context.features = {list(e.context.features)}; set loader.kind = 'memory'."
        )


def _negatives(e: Experiment) -> Iterator[str]:
    """Negatives must fit the loss, and those of a time the data."""
    chosen, loss = e.negatives.distribution, e.train.loss
    setting = f"negatives.distribution = {chosen!r}"
    if chosen != "uniform" and loss in ("softmax", "in-batch-softmax"):
        yield (
            f"{setting} needs a loss that draws negatives, and train.loss = {loss!r} draws none; "
            "set train.loss = 'binary' or 'sampled-softmax', or negatives.distribution = 'uniform'."
        )
    elif chosen in ("mixed", "alive") and loss == "binary":
        yield (
            f"{setting} needs negatives that a step shares, and train.loss = 'binary' gives each "
            "positive its own; set train.loss = 'sampled-softmax', or negatives.distribution = "
            "'uniform'."
        )
    if chosen == "mixed" and e.train.logq:
        yield (
            f"{setting} has a LogQ correction of its own, and train.logq = true would add "
            "another; set train.logq = false, or negatives.distribution = 'uniform'."
        )
    if chosen == "alive":
        yield from _times_of_negatives(e, setting)


def _times_of_negatives(e: Experiment, setting: str) -> Iterator[str]:
    """What is alive at a time needs times, of a clock, beside each example."""
    if not e.data.has_time:
        yield (
            f"{setting} needs times, and the source has none; set negatives.distribution = "
            "'uniform'."
        )
    elif e.data.tables.interactions.timestamp_kind == "order":
        why = "data.tables.interactions.timestamp_kind says so"
        yield is_only_an_order(setting, why, own_tables=True)
    if e.loader.kind == "stream":
        yield (
            f"loader.kind = 'stream' cannot read the times of examples, and {setting}; set "
            "loader.kind = 'memory'."
        )


def _shards(e: Experiment) -> Iterator[str]:
    """Each process reads whole shards, so it needs one at least."""
    if 0 < e.select.shards < e.compute.processes:
        yield (
            f"compute.processes = {e.compute.processes} cannot share select.shards = "
            f"{e.select.shards}; set select.shards to at least {e.compute.processes}."
        )
