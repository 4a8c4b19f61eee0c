"""Whether `advise` says what larger shares reach: coverage and width of its intervals.

    python -m benchmarks.advice configs/study/figure1.toml --workdir work             # of cells
    python -m benchmarks.advice configs/study/figure1.toml --workdir work --advise    # the command
    python -m benchmarks.advice --curves benchmarks/recorded/curves.json              # of a file
    python -m benchmarks.advice --learn benchmarks/recorded/curves.json               # `USUAL`

In: studies that were run (``cadc-rec study``). Out: a line for each set, method and larger share:
what was predicted from small shares alone, its 90% interval, and the truth, the mean over the
study's seeds; then, how often the truth lies in the interval and how wide that is. What is usual
for curves (`cadc_rec.study.usual.USUAL`) is learned anew for each set, from the other sets' curves.

- *Of cells*: the law gets the cells of one seed at the smallest shares that together cost at most
  5% of training on everything, and the base. Validation and test are checked apart, each from runs
  measured on the same. Nothing is run. Cells of fewer than 200 steps are left out: `advise` would
  have given them a smaller batch.
- *--advise*: the command itself, on validation: it chooses and makes its own runs, in the study's
  work folder.

Runs and truth rank the same users, so which users were drawn is no error of a prediction here.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from benchmarks.recorded.docs import Measured
from cadc_rec import strict_json
from cadc_rec.config.experiment import Experiment
from cadc_rec.errors import CadcError
from cadc_rec.study.law import Curve, Point, fit, learn
from cadc_rec.study.report.study_data import Cell, load_studies
from cadc_rec.study.run.advise import BUDGET, Advice, advise
from cadc_rec.study.run.cheap_runs import LEAST_STEPS
from cadc_rec.study.run.grid import Study, read_study
from cadc_rec.study.usual import BROAD, Around, Kind, Usual, kind_of

Split = Literal["validation", "test"]
METRIC = "hr@10"
_LEAST_POINTS = 2


@dataclass(frozen=True)
class Recorded:
    """A curve that was measured: HR@10 of one method on one set, fractions.

    Attributes:
        base: of the base, by seed.
        values: by filtering ratio, by seed.
        users: ranked.
        seeds: that a single value is the mean of, where seeds were not told apart; else 1.
        source: the command that measured it.
    """

    set: str
    method: str
    kind: Kind
    split: Split
    users: int
    base: Mapping[str, float]
    values: Mapping[str, Mapping[str, float]]
    seeds: int = 1
    source: str = ""

    def curve(self, ratios: Iterable[float] | None = None, seed: str | None = None) -> Curve:
        """Its points at these ratios (None: all), of one seed or the mean of all."""
        wanted = self.ratios() if ratios is None else ratios
        values = ((ratio, self.values[f"{ratio:g}"]) for ratio in wanted)
        points = [self._point(1 / ratio, of, seed) for ratio, of in values]
        return Curve(self.kind, self._point(1.0, self.base, seed), tuple(points))

    def ratios(self) -> list[float]:
        """Ascending."""
        return sorted(map(float, self.values))

    def truth(self, ratio: float) -> Point:
        """The mean over all seeds."""
        return self._point(1 / ratio, self.values[f"{ratio:g}"], None)

    def _point(self, share: float, by_seed: Mapping[str, float], seed: str | None) -> Point:
        values = list(by_seed.values()) if seed is None else [by_seed[seed]]
        value = max(float(np.mean(values)), 0.5 / self.users)
        return Point(share, value, self.users, len(values) * self.seeds)


@dataclass(frozen=True)
class Checked:
    """One prediction and its truth; values are fractions.

    Attributes:
        cost: of the runs it was made from, tables included, over training on everything.
        truth_seeds: whose mean the truth is.
    """

    set: str
    method: str
    split: Split
    ratio: float
    seed: str
    cost: float | None
    predicted: float
    low: float
    high: float
    truth: float
    truth_seeds: int

    @property
    def inside(self) -> bool:
        """Whether the truth lies in the interval."""
        return self.low <= self.truth <= self.high

    @property
    def half_width(self) -> float:
        """Of the interval, over the prediction."""
        return (self.high - self.low) / 2 / self.predicted


def cheap_ratios(ratios: Sequence[float], budget: float = BUDGET) -> list[float]:
    """The smallest shares whose sum is within the budget."""
    found: list[float] = []
    for ratio in sorted(ratios, reverse=True):
        if sum(1 / r for r in (*found, ratio)) > budget:
            break
        found.append(ratio)
    return found


def curves_of(folder: Path) -> list[Recorded]:
    """The curves of the studies in a folder: methods that ran at several ratios, and their base."""
    found = []
    for study in load_studies(folder):
        done = [cell for cell in study.cells if cell.status == "done" and not cell.variant]
        grouped = defaultdict(list)
        for cell in done:
            grouped[cell.dataset, cell.method, cell.integration].append(cell)
        for (dataset, method, _), cells in grouped.items():
            kind, base_method = kind_of(Experiment.model_validate(cells[0].config))
            cells = [cell for cell in cells if kind == "added" or _steps(cell) >= LEAST_STEPS]
            if len({cell.ratio for cell in cells}) < 2:
                continue
            base = [c for c in done if (c.dataset, c.method) == (dataset, base_method)]
            if base:
                source = f"study {study.name}, {cells[0].finished[:10]}"
                found += [_recorded(dataset, method, kind, s, cells, base, source) for s in SPLITS]
    return found


def _steps(cell: Cell) -> int:
    """That a cell took; `advise` gives a sample with few of them a smaller batch."""
    train, rows = Experiment.model_validate(cell.config).train, cell.rows
    assert rows is not None  # the cell is done
    return train.epochs * math.ceil(rows.selected / train.sized(rows.selected).batch_size)


SPLITS: tuple[Split, ...] = ("validation", "test")


def _recorded(
    dataset: str,
    method: str,
    kind: Kind,
    split: Split,
    cells: Sequence[Cell],
    base: Sequence[Cell],
    source: str,
) -> Recorded:
    sample = cells[0].validation_sample
    users = sample.users if split == "validation" and sample else cells[0].users or 0
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for cell in cells:
        values[f"{cell.ratio:g}"][str(cell.seed)] = _metric(cell, split)
    of_base = {str(cell.seed): _metric(cell, split) for cell in base}
    return Recorded(dataset, method, kind, split, users, of_base, dict(values), 1, source)


def _metric(cell: Cell, split: Split) -> float:
    metrics = cell.validation if split == "validation" else cell.metrics
    assert metrics is not None  # the cell is done
    return metrics[METRIC]


def costs_of(folder: Path) -> dict[tuple[str, str, str, float], tuple[float, float]]:
    """Seconds, as the study counts them: of tables, and of selection and training.

    By set, method, seed and ratio.
    """
    found = {}
    for study in load_studies(folder):
        for cell in study.cells:
            if cell.seconds is not None and not cell.variant:
                s = cell.timed
                tables = s.pretrain + s.transitions + s.prior
                key = cell.dataset, cell.method, str(cell.seed), cell.ratio
                found[key] = tables, s.select + s.train - _validation_of(cell)
    return found


def _validation_of(cell: Cell) -> float:
    """Validation seconds of training; those of pre-training are not told apart, and are few."""
    return min(cell.timed.validation, cell.timed.train)


def usual_without(curves: Sequence[Recorded], one: Recorded) -> Usual:
    """What is usual for its kind, from the curves of other sets."""
    same = [c for c in curves if (c.kind, c.split) == (one.kind, one.split)]
    others = [c.curve() for c in same if _log(c.set) != _log(one.set)]
    return learn(others, BROAD[one.kind])


def _log(name: str) -> str:
    """The log that a set is of: another core or another split of it is no other set."""
    return re.sub(r"-(by-time|new|\d+core)$", "", name)


def check_cells(
    curves: Sequence[Recorded],
    costs: Mapping[tuple[str, str, str, float], tuple[float, float]],
    known: Sequence[Recorded] = (),
) -> Iterator[Checked]:
    """Predict the larger shares of every curve from one seed's cells at small ones.

    Args:
        curves: to check.
        costs: see `costs_of`.
        known: further curves to learn what is usual from.
    """
    for one in curves:
        cheap = cheap_ratios(one.ratios())
        if len(cheap) < _LEAST_POINTS:
            continue
        usual = usual_without([*curves, *known], one)
        larger = [ratio for ratio in one.ratios() if ratio not in cheap]
        for seed in one.base:
            if any(seed not in one.values[f"{ratio:g}"] for ratio in cheap):
                continue
            law = fit(one.curve(cheap, seed), usual)
            cost = _cost(one, costs, cheap, seed)
            for ratio in larger:
                truth = one.truth(ratio)
                band = law.band(truth.share, truth.seeds)
                ends = float(band.value[0]), float(band.low[0]), float(band.high[0])
                place = one.set, one.method, one.split, ratio, seed, cost
                yield Checked(*place, *ends, truth.value, truth.seeds)


def _cost(
    one: Recorded,
    costs: Mapping[tuple[str, str, str, float], tuple[float, float]],
    cheap: Sequence[float],
    seed: str,
) -> float | None:
    """Of the cheap cells and the tables over the steps of everything; None if that was not run."""
    everything = costs.get((one.set, one.method, seed, 1.0))
    spent = [costs.get((one.set, one.method, seed, ratio)) for ratio in cheap]
    if everything is None or None in spent:
        return None
    runs = [each for each in spent if each is not None]
    return (runs[0][0] + sum(seconds for _, seconds in runs)) / everything[1]


def check_advise(
    study: Study, folder: Path, workdir: Path, data_dir: Path | None
) -> Iterator[Checked]:
    """Call `advise` for each method, set and seed of a study, and compare with its cells."""
    truths = {(c.set, c.method): c for c in curves_of(folder) if c.split == "validation"}
    asked = set()
    for cell in study.cells:
        one = truths.get((cell.dataset, cell.method))
        key = cell.dataset, cell.method, cell.experiment.seed
        if one is None or key in asked or cell.variant:
            continue
        asked.add(key)
        sets = [s for s in cell.sets if not s.startswith(("seed=", "select.ratio="))]
        found = advise(
            cell.config,
            0.05,
            workdir,
            data_dir,
            method=cell.method,
            sets=sets,
            seeds=(cell.experiment.seed,),
            ratios=one.ratios(),
        )
        yield from _of_advice(found, one, str(cell.experiment.seed))


def _of_advice(found: Advice, one: Recorded, seed: str) -> Iterator[Checked]:
    largest_run = found.tried[0].ratio
    for predicted in found.predicted:
        if predicted.ratio >= largest_run:
            continue  # that share was run, or a larger one
        truth = one.truth(predicted.ratio)
        band = found.law.band(truth.share, truth.seeds)
        ends = float(band.value[0]), float(band.low[0]), float(band.high[0])
        place = one.set, one.method, one.split, predicted.ratio, seed, found.cost.share
        yield Checked(*place, *ends, truth.value, truth.seeds)


def summary(checked: Sequence[Checked]) -> list[dict[str, Any]]:
    """By split and method: predictions, pairs of set and ratio, coverage, half-widths, cost."""
    grouped = defaultdict(list)
    for one in checked:
        grouped[one.split, one.method].append(one)
    return [
        {
            "split": split,
            "method": method,
            "pairs": len({(one.set, one.ratio) for one in group}),
            "predictions": len(group),
            "inside": sum(one.inside for one in group),
            "coverage": float(np.mean([one.inside for one in group])),
            "half_width_median": float(np.median([one.half_width for one in group])),
            "half_width_largest": max(one.half_width for one in group),
            "error_median": float(np.median([abs(o.predicted / o.truth - 1) for o in group])),
            "cost_largest": max((o.cost for o in group if o.cost is not None), default=None),
        }
        for (split, method), group in sorted(grouped.items())
    ]


def shown(checked: Sequence[Checked], listed: Sequence[Checked] | None = None) -> str:
    """Tables in Markdown: each prediction that is `listed`, or all; then the summary of all."""
    each = ("set", "method", "split", "seed", "keep", "HR@10 %, predicted", "90%", "half-width")
    lines = _head(*each, "truth", "inside", "cost of the runs")
    lines += [
        _row(
            one.set,
            one.method,
            one.split,
            one.seed,
            f"1/{one.ratio:g}",
            f"{100 * one.predicted:.2f}",
            f"{100 * one.low:.2f} to {100 * one.high:.2f}",
            _percent(one.half_width),
            f"{100 * one.truth:.2f}",
            "yes" if one.inside else "no",
            _percent(one.cost),
        )
        for one in (checked if listed is None else listed)
    ]
    counted = ("split", "method", "pairs of set and share", "predictions", "truth inside")
    lines += ["", *_head(*counted, "half-width, median and largest", "largest cost")]
    lines += [
        _row(
            row["split"],
            row["method"],
            row["pairs"],
            row["predictions"],
            f"{row['inside']} ({_percent(row['coverage'])})",
            f"{_percent(row['half_width_median'])}, {_percent(row['half_width_largest'])}",
            _percent(row["cost_largest"]),
        )
        for row in summary(checked)
    ]
    return "\n".join(lines)


def _head(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*values: object) -> str:
    return f"| {' | '.join(map(str, values))} |"


def _percent(fraction: float | None) -> str:
    return "not known" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.1f}%"


def recorded_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The tables of docs/advice.md, of what ``--out`` wrote: methods with tables one by one.

    Where validation was checked, on which `advise` itself goes by, the predictions of test are in
    the summary alone.
    """
    names = [field.name for field in fields(Checked)]
    checked = [Checked(**{name: one[name] for name in names}) for one in content["predictions"]]
    with_tables = [one for one in checked if one.method != "random"]
    validated = [one for one in with_tables if one.split == "validation"]
    return {"advice": shown(checked, validated or with_tables)}


DOCS = Measured(file="advice", marks={"advice": "docs/advice.md"}, tables=recorded_tables)
"""What is recorded, into the page."""


def read_curves(path: Path) -> list[Recorded]:
    """Recorded curves from a file.

    Raises:
        CadcError: it is not one.
    """
    try:
        return [Recorded(**one) for one in json.loads(path.read_text("utf-8"))["curves"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CadcError(f"{path}: holds no recorded curves ({error}).") from error


def learned(curves: Sequence[Recorded]) -> dict[Kind, Usual]:
    """What is usual, by kind, to three digits, as it is shipped.

    Each set and method has one curve in it, that on validation where it was measured on both.
    """
    chosen = {(c.set, c.method): c for c in sorted(curves, key=lambda c: c.split == "validation")}
    found: dict[Kind, Usual] = {}
    for kind in BROAD:
        of_kind = [c.curve() for c in chosen.values() if c.kind == kind]
        usual = learn(of_kind, BROAD[kind]) if of_kind else BROAD[kind]
        normals = {k: v for k, v in vars(usual).items() if isinstance(v, Around)}
        rounded = {
            k: Around(round(v.mean, 3) + 0.0, round(v.deviation, 3)) for k, v in normals.items()
        }
        found[kind] = Usual(misfit=usual.misfit, **rounded)
    return found


def as_code(usual: Mapping[Kind, Usual]) -> str:
    """The entries of `cadc_rec.study.usual.USUAL`."""
    lines = []
    for kind, one in usual.items():
        lines.append(f'    "{kind}": Usual(')
        for name, value in vars(one).items():
            of = f"Around({value.mean}, {value.deviation})" if name != "misfit" else value
            lines.append(f"        {name}={of},")
        lines.append("    ),")
    return "\n".join(lines)


def main(
    studies: Annotated[list[Path] | None, typer.Argument(help="Files of studies.")] = None,
    workdir: Annotated[Path, typer.Option(help="Where they were run.")] = Path("work"),
    data_dir: Annotated[Path | None, typer.Option()] = None,
    run_advise: Annotated[
        bool, typer.Option("--advise", help="Check the command, which makes runs.")
    ] = False,
    curves: Annotated[
        Path | None,
        typer.Option(help="More curves to learn what is usual from; without studies, to check."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write the studies' curves into this file.")
    ] = None,
    learn_from: Annotated[
        Path | None, typer.Option("--learn", help="Print what is usual, from this file of curves.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
) -> None:
    """Check predictions against studies, or learn what is usual from their curves."""
    if learn_from is not None:
        print(as_code(learned(read_curves(learn_from))))
        return
    found: list[Checked] = []
    mine: list[Recorded] = []
    costs: dict[tuple[str, str, str, float], tuple[float, float]] = {}
    for file in studies or ():
        folder = workdir / "studies" / file.stem
        if run_advise:
            found += check_advise(read_study(file), folder, workdir, data_dir)
        mine += curves_of(folder)
        costs |= costs_of(folder)
    known = read_curves(curves) if curves else []
    if record is not None:
        record.write_text(strict_json.dumps({"curves": [asdict(c) for c in mine]}, indent=1) + "\n")
    if not run_advise:
        found += check_cells(mine or known, costs, known if mine else ())
    print(shown(found))
    if out is not None:
        document = {
            "command": "advise" if run_advise else "cells",
            "level": 0.9,
            "summary": summary(found),
            "predictions": [
                {**asdict(one), "inside": one.inside, "half_width": one.half_width} for one in found
            ],
        }
        out.write_text(strict_json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
