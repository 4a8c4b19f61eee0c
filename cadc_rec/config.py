"""One TOML file is one experiment, read into one validated model.

In: a TOML file, a method name, ``section.key=value`` overrides. Out: a frozen `Experiment`.

Settings are laid over each other in this order, the later winning: the defaults below, the file's
sections, the method's row (`cadc_rec.methods.METHODS`), the file's ``[methods.NAME]`` table,
``--set``. A method is therefore a row of settings and nothing else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cadc_rec.config_errors import explain
from cadc_rec.errors import CadcError
from cadc_rec.methods import METHODS, MethodName

Seed = Annotated[int, Field(ge=0, lt=2**63)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SourceName = Literal["movielens-1m", "movielens-10m", "epinions", "generated"]
Sharding = Literal["auto", "data_parallel", "table_wise", "column_wise", "row_wise"]
# A TOML array is a list; strictness would want a tuple. Its members are as strict as the rest.
PositiveInts = Annotated[tuple[PositiveInt, ...], Field(min_length=1, strict=False)]


class Section(BaseModel):
    """Base of every section: unknown keys and other types are refused, values stay as read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class GeneratedConfig(Section):
    """A latent-factor world, for demonstrations and for sizes no public archive has."""

    users: PositiveInt = 2000
    items: PositiveInt = 1000
    interactions: PositiveInt = 100_000
    """Number of rows wanted; the draw drops repeated (user, item) pairs, so it is met exactly
    only while users * items is well above it."""
    factors: PositiveInt = 8
    """Dimension of the world's hidden taste vectors."""
    popularity_skew: NonNegativeFloat = 0.8
    """Exponent of the items' Zipf popularity; 0 makes every item equally popular."""
    drift: Annotated[float, Field(ge=0, le=1)] = 0.3
    """How far a user's taste moves from the first interaction to the last; 0 stands still."""
    seed: Seed = 0


class DataConfig(Section):
    """Where the interactions come from and how they are split."""

    source: SourceName = "generated"
    k_core: Annotated[int, Field(ge=0)] = 0
    """Keep only users and items with at least this many interactions, repeated until stable;
    0 and 1 keep everything."""
    split_seed: Seed = 0
    """Order of each user's interactions where the source has no time. Apart from `seed`, so that
    every method and seed is judged on the same held-out items."""
    generated: GeneratedConfig = GeneratedConfig()


class PretrainConfig(Section):
    """Matrix factorization over every training interaction."""

    model: Literal["none", "mf"] = "none"
    epochs: PositiveInt = 100
    factors: PositiveInt = 95
    """Factors of a vector; its bias is one element more, so 95 gives the paper's 96."""
    learning_rate: PositiveFloat = 0.02
    l2: NonNegativeFloat = 3.0
    """L2 on a row, added to the gradient summed over the row's interactions."""
    negatives: PositiveInt = 1
    """Fresh uniform negatives for each positive in every half-step."""
    init_std: PositiveFloat = 0.1
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Epochs between measurements of validation HR/NDCG; 0 measures the last epoch only."""


class SelectConfig(Section):
    """Which training interactions the two towers see (D_sel)."""

    kind: Literal["uniform", "everything"] = "uniform"
    ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    """Filtering ratio: one interaction in this many is kept (10 keeps a tenth)."""
    shards: PositiveInt = 8
    """Parquet shards written; a training process reads whole shards, so keep several for each."""


class ModelConfig(Section):
    """The two towers."""

    id_embedding: Literal["trainable", "init_frozen"] = "trainable"
    """How an id becomes a vector: learned here, or pre-trained and frozen (CADC)."""
    id_dim: PositiveInt = 96
    feature_dim: PositiveInt = 16
    """Width of each side feature's embedding."""
    tower: PositiveInts = (128, 64)
    """Widths of each side's MLP; the last is the vector whose dot product is the score."""


class TrainConfig(Section):
    """Training of the two towers on D_sel."""

    epochs: PositiveInt = 40
    batch_size: PositiveInt = 2048
    """Positives a step, over all processes together."""
    negatives: PositiveInt = 4
    """Uniform negatives for each positive, drawn afresh every time."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's, for the MLPs and for every data-parallel table."""
    fused_learning_rate: PositiveFloat = 0.05
    """Row-wise Adagrad's, for trainable tables that are model parallel (fused optimizers on CPU
    are SGD and Adagrad only)."""
    weight_decay: NonNegativeFloat = 0.0
    average_epochs: NonNegativeFloat = 4.0
    """Weights are validated and kept as their moving average over about this many epochs; 0 takes
    them as they are."""
    evaluate_every: PositiveInt = 1
    """Epochs between validations; the best validation NDCG@10 is the checkpoint kept."""


class ShardingConfig(Section):
    """How TorchRec lays the embedding tables over the processes; `auto` asks its planner."""

    trainable: Sharding = "data_parallel"
    frozen: Sharding = "auto"


class EvaluateConfig(Section):
    """Full ranking of the held-out item against every item the user has not taken."""

    k: PositiveInts = (10,)


class ComputeConfig(Section):
    """Where it runs. Does not change what is computed beyond floating-point order."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: PositiveInt = 1
    """Local worker processes of `run`'s training stage; torchx and torchrun set their own."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of each process; 0 is cores / local processes."""
    timeout_seconds: PositiveInt = 1800
    """How long a process waits for its peers before it gives up."""


class Experiment(Section):
    """A whole experiment; what `cadc-rec run CONFIG` carries out."""

    seed: Seed = 0
    """Initialization, negatives, selection and order; never the split (`data.split_seed`)."""
    method: MethodName = "cadc"
    data: DataConfig = DataConfig()
    pretrain: PretrainConfig = PretrainConfig()
    select: SelectConfig = SelectConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    sharding: ShardingConfig = ShardingConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compute: ComputeConfig = ComputeConfig()


def load_experiment(
    path: Path, *, method: str | None = None, overrides: Sequence[str] = ()
) -> Experiment:
    """Read `path`, lay the method's row and the overrides over it, validate.

    Args:
        path: a TOML file.
        method: a name of `METHODS`; default: the file's ``method``.
        overrides: ``section.key=value``; the value is TOML, or a bare string.

    Raises:
        CadcError: the file cannot be read, or a key or value is not allowed; the message names
            the file, the key, the value and what is allowed.
    """
    raw = _read_toml(path)
    where = " --set ".join([str(path), *overrides])
    per_method = raw.pop("methods", {})
    sets = [_parse_override(o) for o in overrides]
    chosen = method or next((v for k, v in reversed(sets) if k == "method"), raw.get("method"))
    chosen = chosen or Experiment.model_fields["method"].default
    if not isinstance(chosen, str) or chosen not in METHODS:
        raise CadcError(f"method: {chosen!r} is unknown; choose one of {', '.join(METHODS)}.")
    _check_methods_table(per_method, path)

    row = METHODS[chosen]
    for key, value in row.items():
        written = _get(raw, key)
        if written is not None and written != value:
            raise CadcError(
                f"{path}: {key} = {written!r} cannot stand there, since the method decides it "
                f"({chosen} sets {value!r}); put it under [methods.{chosen}] to change that method."
            )
    for key, value in (*row.items(), *per_method.get(chosen, {}).items(), *sets):
        _put(raw, key, value)
    raw["method"] = chosen
    try:
        experiment = Experiment.model_validate(raw)
    except ValidationError as error:
        raise CadcError(explain(error, Experiment, where)) from None
    _check_together(experiment, where)
    return experiment


def _check_together(e: Experiment, where: str) -> None:
    """Refuse values that are each allowed and cannot stand together."""
    if e.model.id_embedding != "trainable" and e.pretrain.model == "none":
        raise CadcError(
            f"{where}: model.id_embedding = {e.model.id_embedding!r} needs pre-trained vectors, "
            "and pretrain.model is 'none'; set pretrain.model = 'mf'."
        )
    if e.pretrain.model == "mf" and e.pretrain.factors + 1 != e.model.id_dim:
        raise CadcError(
            f"{where}: model.id_dim = {e.model.id_dim} must be pretrain.factors + 1 "
            f"(factors and bias) = {e.pretrain.factors + 1}; change one of them."
        )
    if e.compute.processes > e.select.shards:
        raise CadcError(
            f"{where}: compute.processes = {e.compute.processes} cannot share select.shards = "
            f"{e.select.shards}; set select.shards to at least {e.compute.processes}."
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise CadcError(f"{path}: no such config file; check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CadcError(f"{path}: not valid TOML: {error}.") from None
    except OSError as error:
        raise CadcError(f"{path}: cannot be read ({error.strerror}); name a TOML file.") from None


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise CadcError(f"--set {text}: write it as section.key=value.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()  # a bare word is a string: no shell quoting needed


def _check_methods_table(table: Any, path: Path) -> None:
    if not isinstance(table, Mapping) or not all(isinstance(v, Mapping) for v in table.values()):
        raise CadcError(f'{path}: [methods.NAME] holds lines such as "train.epochs" = 20.')
    for name in table:
        if name not in METHODS:
            raise CadcError(
                f"{path}: [methods.{name}] is unknown; the methods are {', '.join(METHODS)}."
            )


def _get(tree: Mapping[str, Any], dotted: str) -> Any:
    node: Any = tree
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `dotted` in nested tables; merges a table over a table, so both spellings work."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _put(tree, f"{dotted}.{key}", inner)
        return
    *parents, last = dotted.split(".")
    node = tree
    for part in parents:
        below = node.setdefault(part, {})
        if not isinstance(below, dict):
            raise CadcError(f"{dotted}: {part} is a value, not a section; check the key.")
        node = below
    node[last] = value
