"""The command ``cadc-rec advise``: reads its options, asks for advice, prints it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from rich.console import Console
from rich.table import Table

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import launched
from cadc_rec.study.run.advise import Advice, Reference, Trial, advise
from cadc_rec.study.run.short_runs import Measured
from cadc_rec.updates.chain import Wanted

Number = TypeVar("Number", int, float)


def run_advise(
    config: Path,
    tolerance: str,
    workdir: Path,
    data_dir: Path | None,
    *,
    epochs: int | None,
    sets: Sequence[str],
    reference: str,
    budget_minutes: float,
    seeds: str,
    ratios: str,
    update: Wanted = "newest",
    as_json: bool,
) -> None:
    """Find the smallest share within `tolerance` and print it.

    Args:
        config: the experiment's file.
        tolerance: such as ``5%`` or ``0.05``.
        workdir: where artifacts live.
        data_dir: folder with the raw data.
        epochs: of every short run; None is a fifth of the file's.
        sets: overrides, ``section.key=value``.
        reference: ``auto``, ``gold`` or ``cadc``.
        budget_minutes: what gold's short runs may take, where `reference` is ``auto``.
        seeds: such as ``0,1,2``; empty is the file's.
        ratios: such as ``2,5,10``.
        update: which update's data to read.
        as_json: print one JSON object, nothing else.

    Raises:
        CadcError: an option or the experiment is not usable.
    """
    if launched():
        raise CadcError(
            "advise runs in one process; start it without a launcher and set compute.processes."
        )
    if reference not in get_args(Reference):
        choices = ", ".join(get_args(Reference))
        raise CadcError(f"--reference {reference} is unknown; choose one of {choices}.")
    advice = advise(
        config,
        parse_tolerance(tolerance),
        workdir,
        data_dir,
        epochs=epochs,
        sets=sets,
        reference=cast(Reference, reference),
        budget_seconds=60.0 * budget_minutes,
        seeds=_numbers("--seeds", seeds, int, 0, "0,1,2") if seeds else (),
        ratios=_numbers("--ratios", ratios, float, 1, "2,5,10"),
        update=update,
    )
    if as_json:
        print(strict_json.dumps(advice_as_json(advice)))
        return
    console = Console()
    console.print(advice_table(advice))
    for line in (f"Reference: {advice.reason}.", *cautions(advice), sentence(advice)):
        console.print(line, highlight=False, soft_wrap=True)


def parse_tolerance(text: str) -> float:
    """``5%`` or ``0.05`` as a fraction.

    Raises:
        CadcError: it is neither, or not from 0 to below 1.
    """
    try:
        number = float(text.strip().removesuffix("%"))
    except ValueError:
        number = math.nan
    value = number / 100.0 if text.strip().endswith("%") else number
    if not 0.0 <= value < 1.0:  # false for NaN too
        raise CadcError(
            f"--tolerance {text}: must be a share from 0% to below 100%; write 5% or 0.05."
        )
    return value


def _numbers(
    option: str, text: str, kind: type[Number], least: int, example: str
) -> tuple[Number, ...]:
    """Numbers separated by commas or spaces, each once."""
    try:
        numbers = tuple(dict.fromkeys(kind(part) for part in text.replace(",", " ").split()))
    except ValueError:
        numbers = ()
    if not numbers or not all(least <= number < 2**63 for number in numbers):
        raise CadcError(
            f"{option} {text}: must be numbers of at least {least}, separated by commas; write "
            f"{example}."
        )
    return numbers


def advice_as_json(advice: Advice) -> dict[str, Any]:
    """The object that ``--json`` prints; shares and losses are fractions, nothing is rounded."""
    chosen = advice.chosen
    return {
        "metric": advice.metric,
        "split": "validation",
        "tolerance": advice.tolerance,
        "seeds": list(advice.seeds),
        "reference": {**_trial_json(advice, advice.reference), "reason": advice.reason},
        "tried": [_compared_json(advice, trial) for trial in advice.tried],
        "advice": None if chosen is None else _compared_json(advice, chosen),
        "cautions": cautions(advice),
        "sentence": sentence(advice),
    }


def _trial_json(advice: Advice, trial: Trial) -> dict[str, Any]:
    first = _first(trial)
    return {
        "method": trial.method,
        "ratio": trial.ratio,
        "rows": first.rows,
        "of": first.of,
        "share": first.rows / first.of,
        advice.metric: trial.value,
        "epochs": first.epochs,
        "seconds": trial.seconds,
        "full_epochs": first.full_epochs,
        "full_seconds_estimated": trial.full_seconds,
    }


def _compared_json(advice: Advice, trial: Trial) -> dict[str, Any]:
    return {
        **_trial_json(advice, trial),
        "loss": trial.loss,
        "loss_interval": trial.loss_interval,
        "within": trial.standing(advice.tolerance),
        "time_share_estimated": advice.time_share(trial),
    }


def advice_table(advice: Advice) -> Table:
    """A row for the reference and for each ratio that was run."""
    first = _first(advice.reference)
    title = f"CADC against {_name(advice)}: validation, {first.epochs} epochs"
    if len(advice.seeds) > 1:
        title += f", mean of {len(advice.seeds)} seeds"
    table = Table(title=title, title_justify="left")
    for column in ("keep", "rows", f"{advice.metric.upper()} %", "loss", "95%", "within"):
        table.add_column(column, justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("time, est.", justify="right")
    for trial in (advice.reference, *reversed(advice.tried)):
        compared = trial.against is not None
        table.add_row(
            f"1 in {trial.ratio:g}" if compared else _name(advice),
            f"{_first(trial).rows:,}",
            f"{100 * trial.value:.2f}",
            _percent(trial.loss) if compared else "",
            _interval(trial) if compared else "",
            trial.standing(advice.tolerance) if compared else "",
            f"{trial.seconds:,.1f}",
            f"{advice.time_share(trial):.2f}",
        )
    return table


def sentence(advice: Advice) -> str:
    """The advice in one sentence."""
    metric, chosen = advice.metric.upper(), advice.chosen
    tolerance, name = f"{100 * advice.tolerance:g}%", _name(advice)
    if chosen is None:
        best = advice.tried[0] if advice.tried else None
        lost = f" (1 in {best.ratio:g} loses {_expected(best)})" if best else ""
        return (
            f"Advice: no ratio tried stays within {tolerance} of {name}'s {metric}{lost}; use "
            "everything."
        )
    if chosen.ratio == 1.0:
        return (
            f"Advice: use everything; CADC stays within {tolerance} of {name}'s {metric} only with "
            "all rows, which saves nothing."
        )
    first = _first(chosen)
    loses = f"lose {_expected(chosen)}"
    if chosen.loss <= 0:
        loses = f"lose nothing (loss {_percent(chosen.loss)}, 95%: {_interval(chosen)})"
    sure = {
        "surely": f"surely within {tolerance}: the whole interval is",
        "probably": f"probably within {tolerance}: the estimate is, but not the whole interval",
    }[chosen.standing(advice.tolerance)]
    return (
        f"Advice: keep 1 in {chosen.ratio:g} ({first.rows:,} of {first.of:,} labelled examples): "
        f"{metric} is expected to {loses} against {name} ({sure}); training takes about "
        f"{advice.time_share(chosen):.2f} of its time (estimated for {first.full_epochs} epochs)."
    )


def cautions(advice: Advice) -> list[str]:
    """What limits the advice, a sentence each."""
    found = []
    first = _first(advice.reference)
    if first.epochs < first.full_epochs:
        found.append(
            f"Short runs ({first.epochs} epochs instead of {first.full_epochs}) order the ratios, "
            "but give large ratios few steps; only full runs give the final accuracy."
        )
    rising = [t for t in (advice.reference, *advice.tried) if any(r.improving for r in t.runs)]
    if rising:
        names = ", ".join(f"1 in {t.ratio:g}" if t.against else _name(advice) for t in rising)
        found.append(
            f"Still improving in the last epoch: {names}; more --epochs may change their order."
        )
    losses = [trial.loss for trial in advice.tried]
    if losses != sorted(losses):
        found.append(
            "The losses do not always grow with the ratio, so differences between ratios are "
            "within noise; more --seeds separate them better."
        )
    return found


def _first(trial: Trial) -> Measured:
    return trial.runs[0]


def _name(advice: Advice) -> Literal["gold", "CADC on everything"]:
    return "gold" if advice.reference.method == "gold" else "CADC on everything"


def _expected(trial: Trial) -> str:
    return f"{_percent(trial.loss)} (95%: {_interval(trial)})"


def _interval(trial: Trial) -> str:
    if trial.loss_interval is None:
        return "not known"
    low, high = trial.loss_interval
    return f"{_percent(low, '+')} to {_percent(high, '+')}"


def _percent(fraction: float, sign: str = "") -> str:
    value = round(100 * fraction, 1) + 0.0  # no -0.0%
    return f"{value:{sign}.1f}%"
