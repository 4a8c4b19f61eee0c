"""Searches settings on validation, within a fixed budget, and keeps the record.

    python -m benchmarks.tune configs/best/ml-1m-10pct.toml configs/best/space.toml --trials 30

The space is a TOML file: a setting's dotted name, and either a list of choices or a table with
``low``, ``high`` and, for a logarithmic scale, ``log = true``. Each trial trains one experiment up
to its train stage: test items are never ranked. Trials are written to ``WORKDIR/trials.jsonl`` as
they end, and a search that is started again goes on after them. The order of trials depends on
the seed alone, by Optuna's TPE sampler.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from cadc_rec.config.file import load_experiment, read_toml
from cadc_rec.errors import CadcError
from cadc_rec.log import set_up_logging
from cadc_rec.pipeline.pipeline import Pipeline

METRIC = "ndcg@10"


def read_space(path: Path) -> dict[str, BaseDistribution]:
    """The settings to search, by dotted name.

    Raises:
        CadcError: an entry is neither a list nor a range.
    """
    space: dict[str, BaseDistribution] = {}
    for name, entry in read_toml(path).items():
        if isinstance(entry, list) and entry:
            space[name] = CategoricalDistribution([json.dumps(choice) for choice in entry])
        elif isinstance(entry, Mapping) and {"low", "high"} <= set(entry) <= {"low", "high", "log"}:
            space[name] = FloatDistribution(
                entry["low"], entry["high"], log=entry.get("log", False)
            )
        else:
            raise CadcError(
                f'{path}: "{name}" must be a list of choices, or a table with low and high (and '
                "log), such as { low = 0.0003, high = 0.003, log = true }."
            )
    return space


def overrides_of(parameters: Mapping[str, Any]) -> list[str]:
    """A trial's parameters as ``section.key=value``; choices are JSON, which here is TOML too."""
    return [
        f"{name}={value if isinstance(value, str) else repr(value)}"
        for name, value in parameters.items()
    ]


def measure(config: Path, overrides: list[str], workdir: Path) -> dict[str, Any]:
    """Train one experiment; what validation said, and the seconds it took."""
    experiment = load_experiment(config, overrides=overrides)
    made = Pipeline(experiment, workdir).run(until="train")
    info = made["train"].info
    best = max(info["history"], key=lambda entry: entry.get(METRIC, -math.inf))
    work = sum(made[s].seconds for s in ("pretrain", "transitions", "select") if s in made)
    return {
        **{k: v for k, v in best.items() if "@" in k or k == "epoch"},
        "seconds": work + info["training_seconds"],
    }


def search(
    config: Path, space: dict[str, BaseDistribution], trials: int, workdir: Path, seed: int
) -> list[dict[str, Any]]:
    """Go on until the record holds `trials` trials; returns it."""
    workdir.mkdir(parents=True, exist_ok=True)
    record = workdir / "trials.jsonl"
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    sampler = optuna.samplers.TPESampler(seed=seed + len(done))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in done:
        study.add_trial(
            optuna.trial.create_trial(
                params=trial["parameters"], distributions=space, value=trial[METRIC]
            )
        )
    while len(done) < trials:
        trial = study.ask(space)
        started = time.perf_counter()
        result = measure(config, overrides_of(trial.params), workdir)
        study.tell(trial, result[METRIC])
        done.append({"parameters": trial.params, **result})
        with record.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        spent = time.perf_counter() - started
        print(f"{len(done)}/{trials}: {result} in {spent:.0f} s, {trial.params}", file=sys.stderr)
    return done


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path)
    parser.add_argument("space", type=Path)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--workdir", type=Path, default=Path("work/tune"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    set_up_logging()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        space = read_space(arguments.space)
        done = search(arguments.config, space, arguments.trials, arguments.workdir, arguments.seed)
    except CadcError as error:
        sys.exit(str(error))
    for trial in sorted(done, key=lambda t: -float(t[METRIC]))[:5]:
        print(json.dumps(trial))


if __name__ == "__main__":
    main()
