"""The command ``cadc-rec advise``: reads its options, asks for advice, prints it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import launched
from cadc_rec.study.run.advise import Advice, Predicted, Trial, advise
from cadc_rec.study.run.cheap_runs import LEAST_STEPS, enough_steps_batch
from cadc_rec.updates.chain import Wanted

Number = TypeVar("Number", int, float)
METRIC = "hr@10"
_WIDTH = 112  # of tables in a file, so that they do not wrap


def run_advise(
    config: Path,
    tolerance: str,
    workdir: Path,
    data_dir: Path | None,
    *,
    method: str | None,
    sets: Sequence[str],
    budget: str,
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
        method: None is the file's.
        sets: overrides, ``section.key=value``.
        budget: such as ``5%``: what the runs may cost, of training on everything.
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
    advice = advise(
        config,
        parse_share("--tolerance", tolerance),
        workdir,
        data_dir,
        method=method,
        sets=sets,
        budget=parse_share("--budget", budget),
        seeds=_numbers("--seeds", seeds, int, 0, "0,1,2") if seeds else (),
        ratios=_numbers("--ratios", ratios, float, 1, "2,5,10"),
        update=update,
    )
    if as_json:
        print(strict_json.dumps(advice_as_json(advice)))
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(runs_table(advice))
    console.print(predicted_table(advice))
    for line in (spent(advice), *cautions(advice), sentence(advice)):
        console.print(line, highlight=False, soft_wrap=True)


def parse_share(option: str, text: str) -> float:
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
            f"{option} {text}: must be a share from 0% to below 100%; write 5% or 0.05."
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
    chosen, cost = advice.chosen, advice.cost
    loss, low, high = advice.base_loss
    return {
        "metric": METRIC,
        "split": "validation",
        "method": advice.method,
        "tolerance": advice.tolerance,
        "seeds": list(advice.seeds),
        "base": {
            "method": advice.base_method,
            METRIC: advice.base,
            "loss": loss,
            "loss_interval": [low, high],
        },
        "runs": [_trial_json(trial) for trial in advice.tried],
        "cost": {
            "budget": cost.budget,
            "share": cost.share,
            "tables_seconds": cost.tables,
            "runs_seconds": cost.runs,
            "everything_seconds_estimated": cost.everything,
        },
        "widened": advice.law.widened,
        "predicted": [_predicted_json(advice, one) for one in advice.predicted],
        "advice": None if chosen is None else _predicted_json(advice, chosen),
        "cautions": cautions(advice),
        "sentence": sentence(advice),
    }


def _trial_json(trial: Trial) -> dict[str, Any]:
    first = trial.runs[0]
    return {
        "ratio": trial.ratio,
        "rows": first.rows,
        "of": first.of,
        METRIC: trial.value,
        "by_seed": [run.value for run in trial.runs],
        "users": first.users,
        "seconds": trial.seconds,
    }


def _predicted_json(advice: Advice, one: Predicted) -> dict[str, Any]:
    return {
        "ratio": one.ratio,
        "rows": one.rows,
        METRIC: one.value,
        "interval": list(one.interval),
        "loss": one.loss,
        "loss_interval": list(one.loss_interval),
        "chance_within": one.chance,
        "within": one.standing,
        "time_share_estimated": advice.time_share(one),
    }


def runs_table(advice: Advice) -> Table:
    """What was measured: the tables alone, and the runs."""
    title = f"{advice.method} on small shares: validation"
    if len(advice.seeds) > 1:
        title += f", mean of {len(advice.seeds)} seeds"
    table = Table(title=title, title_justify="left")
    for column in ("keep", "rows", "HR@10 %", "seconds"):
        table.add_column(column, justify="right")
    name = f"none ({advice.base_method})"
    table.add_row(name, "0", f"{100 * advice.base:.2f}", f"{advice.cost.tables:,.1f}")
    for trial in reversed(advice.tried):
        rows = f"{trial.runs[0].rows:,}"
        table.add_row(_keep(trial.ratio), rows, f"{100 * trial.value:.2f}", f"{trial.seconds:,.1f}")
    return table


def predicted_table(advice: Advice) -> Table:
    """What the law says of larger shares."""
    table = Table(title="Predicted from these", title_justify="left")
    for column in ("keep", "rows", "HR@10 %", "90%", "loss", "90%", "within", "time, est."):
        table.add_column(column, justify="right", no_wrap=True)
    loss, low, high = advice.base_loss
    interval = f"{_percent(low, '+')} to {_percent(high, '+')}"
    table.add_row("none", "0", f"{100 * advice.base:.2f}", "", _percent(loss), interval, "", "")
    for one in reversed(advice.predicted):
        low, high = one.interval
        table.add_row(
            _keep(one.ratio),
            f"{one.rows:,}",
            f"{100 * one.value:.2f}",
            f"{100 * low:.2f} to {100 * high:.2f}",
            _percent(one.loss),
            _interval(one),
            one.standing,
            f"{advice.time_share(one):.2f}",
        )
    return table


def spent(advice: Advice) -> str:
    """What the runs cost, in one sentence."""
    cost = advice.cost
    return (
        f"Cost: {cost.runs:,.1f} s of runs and {cost.tables:,.1f} s of tables, which every share "
        f"needs: together {100 * cost.share:.1f}% of the {cost.everything:,.0f} s that training on "
        f"everything is estimated to take (budget {100 * cost.budget:g}%)."
    )


def sentence(advice: Advice) -> str:
    """The advice in one sentence."""
    chosen, tolerance = advice.chosen, f"{100 * advice.tolerance:g}%"
    if chosen is None:
        return (
            f"Advice: no ratio asked for stays within {tolerance} of the HR@10 that everything is "
            "predicted to reach; use everything."
        )
    if chosen.ratio == 1.0:
        return (
            f"Advice: use everything; no smaller share is predicted to stay within {tolerance} of "
            "its HR@10."
        )
    loses = f"lose {_percent(chosen.loss)} of HR@10 (90%: {_interval(chosen)})"
    if chosen.loss <= 0:
        loses = f"lose nothing of HR@10 (loss {_percent(chosen.loss)}, 90%: {_interval(chosen)})"
    of = advice.tried[0].runs[0].of
    return (
        f"Advice: keep {_keep(chosen.ratio)} ({chosen.rows:,} of {of:,} labelled examples): "
        f"{advice.method} is predicted to reach HR@10 {100 * chosen.value:.2f}% and to {loses} "
        f"against everything ({chosen.standing} within {tolerance}: the chance is "
        f"{100 * chosen.chance:.0f}%), in about {advice.time_share(chosen):.2f} of its time. To "
        f"use it: --set select.ratio={chosen.ratio:g}, or select.ratio = {chosen.ratio:g} in the "
        "file."
    )


def cautions(advice: Advice) -> list[str]:
    """What limits the advice, a sentence each."""
    found, cost = [], advice.cost
    if cost.share > cost.budget:
        found.append(
            f"The budget of {100 * cost.budget:g}% was exceeded: on so little data the tables and "
            "what a run takes beside its steps weigh more than the steps."
        )
    batch = _smaller_batch(advice)
    if batch is not None:
        found.append(
            f"At the share advised the config's batch leaves fewer than {LEAST_STEPS} steps, too "
            f"few for what is predicted: set train.batch_size={batch} there, as these runs did."
        )
    if advice.law.widened > 1:
        found.append(
            "The runs do not follow a curve that is usual for the method, so the intervals were "
            "widened; run the share that you choose and a larger one in full."
        )
    loss, _, high = advice.base_loss
    if advice.kind != "alone" and high <= advice.tolerance:
        found.append(
            f"The tables alone (--method {advice.base_method}) lose {_percent(loss)} and no more "
            f"than {_percent(high)}: within the tolerance without any labelled example."
        )
    return found


def _smaller_batch(advice: Advice) -> int | None:
    """The batch with which the share advised has enough steps; None where the config's has."""
    chosen, run = advice.chosen, advice.tried[0].runs[0]
    if chosen is None or advice.kind == "added":
        return None
    few = math.ceil(run.everything_steps / chosen.ratio) < LEAST_STEPS
    return enough_steps_batch(chosen.rows, run.epochs) if few else None


def _keep(ratio: float) -> str:
    return "everything" if ratio == 1.0 else f"1 in {ratio:g}"


def _interval(one: Predicted) -> str:
    low, high = one.loss_interval
    return f"{_percent(low, '+')} to {_percent(high, '+')}"


def _percent(fraction: float, sign: str = "") -> str:
    value = round(100 * fraction, 1) + 0.0  # no -0.0%
    return f"{value:{sign}.1f}%"
