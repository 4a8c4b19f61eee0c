"""What each stage of an experiment takes of a processor, before it has run.

In: an experiment, and the size of its dataset. Out: for each stage its seconds of one core, and a
digest of what decides its result: a stage that several cells share has one digest.

Seconds are counts of the work (rows, steps, pairs that are scored) times rates of one core. The
rates were chosen on cells of MovieLens 1M, Globo.com, Beauty, Epinions and Online Retail, and may
be wrong by a factor of two on another machine. `Corrections` scales them by what finished cells
took: by cells of the same dataset where there are some, else by those of other datasets. So the
counts alone say how time grows with the rows.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cadc_rec import strict_json
from cadc_rec.config.experiment import Experiment
from cadc_rec.pipeline.table import PRIOR, TRANSITIONS

START_SECONDS = 5.0
"""Of a cell: its process imports the libraries."""

# Seconds of one core, each of one unit of the work that is named.
_PREPARED_ROW = 1.2e-6
_GENERATED_ROW = 5e-6
_MF_ROW, _MF_ENTRY = 1.5e-7, 8e-8  # a row once; a positive or negative of an epoch
_ALS_ROW, _ALS_SOLVED = 4.4e-8, 3.2e-6  # a row of a half-sweep; a user or item of a sweep
_MLP_ROW = 3.6e-6
_TRANSITION = 1e-7  # a row and a place of the window
_FIT, _FIT_PAIR = 7.0, 2e-7  # the fit of the prior; each user and item of it
_FIT_RECENT, _FIT_RECENT_ROW = 10.0, 2.5e-5
_FIT_USERS = 4000
_SELECTED_ROW, _SCORED_ROW, _CENTRE_PAIR = 1e-7, 1e-6, 4e-8
_STEP = 3e-3
_STEP_POSITIVE, _STEP_ITEM, _STEP_LEARNED_ROW = 3.2e-6, 2.6e-6, 2.5e-7
_STEP_PRIOR_POSITIVE, _STEP_PRIOR_ITEM = 1.3e-4, 4e-6
_RANKED = 8e-9  # a user and an item
_RANKED_USER, _RANKED_BY_PRIOR = 1.5e-4, 2.7e-8  # a user with a history; it and an item
_SMALL = 0.3  # of any stage: opening and writing files

_ENDED_EARLY = 2 / 3  # of the epochs, where patience ends training


@dataclass(frozen=True)
class Size:
    """Of a prepared dataset.

    Attributes:
        users: of D_full.
        items: likewise.
        rows: interactions that are trained on.
    """

    users: int
    items: int
    rows: int


@dataclass(frozen=True)
class Estimated:
    """One stage of one cell.

    Attributes:
        stage: its name.
        digest: equal for all cells that share its result.
        seconds: of one core.
        kind: what is done in the stage: only the same kind tells how fast it is.
    """

    stage: str
    digest: str
    seconds: float
    kind: str


def estimated_stages(e: Experiment, size: Size) -> list[Estimated]:
    """Every stage of an experiment, in the order in which they are made."""
    made: dict[str, Estimated] = {}

    def add(stage: str, reads: Iterable[str], decides: Any, seconds: float, kind: str) -> None:
        inputs = [made[name].digest for name in reads if name in made]
        text = strict_json.dumps([stage, inputs, decides], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        made[stage] = Estimated(stage, digest, _SMALL + seconds, kind)

    towers = e.model.kind == "two_tower"
    tables = ("pretrain", "transitions", "prior")
    add("prepare", (), _dataset(e), _prepare(e, size), e.data.source)
    model = e.pretrain.model
    if model != "none":
        decides = [e.pretrain.decisive(), 0 if model == "popularity" else e.seed]
        add("pretrain", ["prepare"], decides, _pretrain(e, size), model)
    if TRANSITIONS.wanted(e):
        decides = [e.transitions.decisive(), e.pretrain.scale, e.seed]
        seconds = _TRANSITION * size.rows * e.transitions.window
        add("transitions", ["prepare"], decides, seconds, e.transitions.form)
    if PRIOR.wanted(e):
        decides = [e.prior.decisive(), e.history.length, e.seed]
        add("prior", ["prepare", *tables[:2]], decides, _fit(e, size), _recent(e))
    if towers:
        chosen = _selection(e)
        inputs = ["prepare", *(["pretrain"] if e.select.reads_tables else [])]
        decides = [chosen, e.history.length, e.seed if chosen["kind"] != "everything" else 0]
        add("select", inputs, decides, _select(e, size), e.select.kind)
        trained = (e.model, e.train, e.sharding, e.history, e.prior, e.negatives, e.context)
        decides = [*(section.decisive() for section in trained), e.evaluate.users, e.seed]
        add("train", ["select", *tables], decides, _train(e, size), _use(e))
    ranked = (e.model, e.evaluate, e.history, e.prior)
    decides = [*(section.decisive() for section in ranked), e.evaluate.users]
    validated = min(size.users, e.evaluate.users or size.users)
    seconds = (size.users + validated) * _ranking(e, size)
    add("evaluate", ["prepare", *tables, "train"], decides, seconds, _use(e))
    return list(made.values())


def _dataset(e: Experiment) -> dict[str, Any]:
    """What decides the dataset, the files that tables come from among it."""
    unused = {"engine", "memory", "spill", "spark"}
    if e.data.source != "generated":
        unused.add("generated")
    return e.data.model_dump(mode="json", exclude=unused)


def _selection(e: Experiment) -> dict[str, Any]:
    """What decides D_sel; a uniform sample of everything is everything, to the byte."""
    whole = e.select.kind == "uniform" and e.select.ratio == 1
    select = e.select.model_copy(update={"kind": "everything"}) if whole else e.select
    return select.decisive()


def _recent(e: Experiment) -> str:
    return "recent" if e.prior.recent else "plain"


def _use(e: Experiment) -> str:
    """How items are scored, on which the time of a step and of a rank depends."""
    if e.prior.use:
        return f"prior-{_recent(e)}"
    return e.model.kind if e.model.kind == "tables" else e.model.id_embedding


def _prepare(e: Experiment, size: Size) -> float:
    rate = _GENERATED_ROW if e.data.source == "generated" else _PREPARED_ROW
    return 1 + rate * size.rows


def _pretrain(e: Experiment, size: Size) -> float:
    p = e.pretrain
    if p.model == "mf":
        entries = size.rows * (1 + p.negatives)
        return _MF_ROW * size.rows + p.epochs * entries * _MF_ENTRY
    if p.model == "als":
        solved = size.users + size.items
        return p.als.iterations * (2 * size.rows * _ALS_ROW + solved * _ALS_SOLVED)
    if p.model == "mlp":
        return p.mlp.epochs * size.rows * _MLP_ROW
    return 0.0


def _fit(e: Experiment, size: Size) -> float:
    seconds = _FIT + _FIT_PAIR * min(size.users, _FIT_USERS) * size.items
    return seconds + (_FIT_RECENT + _FIT_RECENT_ROW * size.rows if e.prior.recent else 0)


def _selected(e: Experiment, size: Size) -> int:
    everything = e.select.kind == "everything"
    return size.rows if everything else max(1, round(size.rows / e.select.ratio))


def _select(e: Experiment, size: Size) -> float:
    seconds = _SELECTED_ROW * size.rows
    if e.select.kind in ("hard", "gradient-norm"):
        seconds += _SCORED_ROW * size.rows
    if e.select.kind == "k-centres":
        pool = min(size.rows, e.select.centres * e.select.ratio)
        seconds += _CENTRE_PAIR * _selected(e, size) * pool
    return seconds


def _train(e: Experiment, size: Size) -> float:
    rows = _selected(e, size)
    train = e.train.sized(rows)
    epochs = train.epochs * (_ENDED_EARLY if train.patience else 1.0)
    batch = min(rows, train.batch_size)
    steps = epochs * math.ceil(rows / train.batch_size)
    validated = min(size.users, e.evaluate.users or size.users)
    validations = epochs / train.evaluate_every
    return steps * _step(e, size, batch) + validations * validated * _ranking(e, size)


def _step(e: Experiment, size: Size, batch: int) -> float:
    if e.prior.use:
        return _STEP + _STEP_PRIOR_POSITIVE * batch + _STEP_PRIOR_ITEM * size.items
    items = min(size.items, batch * (1 + e.train.negatives))
    learned = e.model.id_embedding in ("trainable", "init", "hybrid")
    rows = size.users + size.items if learned else 0  # Adam moves all of them
    return _STEP + _STEP_POSITIVE * batch + _STEP_ITEM * items + _STEP_LEARNED_ROW * rows


def _ranking(e: Experiment, size: Size) -> float:
    """Seconds for each user."""
    if e.prior.use:
        return _RANKED_USER + _RANKED_BY_PRIOR * size.items
    return _RANKED * size.items


class Corrections:
    """How much longer stages took than was estimated.

    Args:
        records: of cells, as ``cells/ID.json`` holds them. Those that are not done, or that this
            version cannot read, tell nothing.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._logs: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for record in records:
            self._learn(record, measured_seconds(record))

    def _learn(self, record: Mapping[str, Any], measured: Mapping[str, float]) -> None:
        if not measured:
            return
        try:
            e = Experiment.model_validate_json(strict_json.dumps(record["config"]))
            size = Size(record["users"], record["items"], record["rows"]["train"])
            method = str(record["method"])
        except (KeyError, TypeError, ValidationError):
            return
        for stage in estimated_stages(e, size):
            seconds = measured.get(stage.stage, 0.0)
            if seconds > 0:
                ratio = math.log(seconds / stage.seconds)
                for level in _levels(stage, str(record.get("dataset")), method):
                    self._logs[level].append(ratio)

    def factor(self, stage: Estimated, dataset: str, method: str) -> float:
        """By what the estimate is to be multiplied: the median of the cells most like it."""
        for level in _levels(stage, dataset, method):
            if self._logs.get(level):
                return math.exp(statistics.median(self._logs[level]))
        return 1.0


def _levels(stage: Estimated, dataset: str, method: str) -> list[tuple[str, ...]]:
    """The groups of cells that tell of a stage's speed, the most alike first."""
    of_kind = (stage.stage, stage.kind)
    return [(*of_kind, dataset, method), (*of_kind, dataset), of_kind]


def measured_seconds(record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a core that each stage of a finished cell took; empty of another cell.

    Where the record has no processor time, they are those of the clock, by the cell's threads.
    """
    if record.get("status") != "done":
        return {}
    threads = float((record.get("machine") or {}).get("threads") or 1)
    costs, artifacts = record.get("costs") or {}, record.get("artifacts") or {}
    return {
        stage: float(costs.get(stage, {}).get("cpu_seconds", (seconds or 0.0) * threads))
        for stage, seconds in (record.get("seconds") or {}).items()
        if stage in artifacts
    }
