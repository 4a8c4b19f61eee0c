"""One run's result: the JSON object and the table a person sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from cadc_rec.pipeline.lines import metrics_line
from cadc_rec.pipeline.table import STAGES, TABLE
from cadc_rec.store.artifact import Artifact
from cadc_rec.store.costs import of_stages

OPTIONAL = ("validation_sample", "test_sample", "kept", "beside", "added", "cold")
"""What only some results have; see `run_result`."""


def run_result(method: str, seed: int, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """What ``cadc-rec run --json`` prints; metrics are fractions, nothing is rounded.

    ``validation_sample`` stands there if only a sample of the users was ranked on validation: how
    many, of how many, and the 95% interval of each metric; after an update ``test_sample`` may say
    the same of the test. Where towers were compared with the tables that they add to (``model.keep
    = "better"``), ``kept`` says which of the two the metrics are of, ``beside`` has those of the
    other, and ``added`` what the towers add to the test NDCG@10, with its 95% interval. ``cold`` is
    about cold items, where there are any.

    ``seconds`` and ``costs`` are those of the run that made each artifact; a stage that the method
    does not have took 0 seconds, and has no costs.
    """
    metrics = artifacts["evaluate"].info
    return {
        "method": method,
        "seed": seed,
        "metrics": metrics["test"],
        "validation": metrics["validation"],
        **{name: metrics[name] for name in OPTIONAL if name in metrics},
        "seconds": {
            stage: artifacts[stage].seconds if stage in artifacts else 0.0 for stage in STAGES
        },
        "costs": {stage: dict(artifact.costs) for stage, artifact in artifacts.items()},
        "cached": [stage for stage, artifact in artifacts.items() if artifact.cached],
        "rows": {
            "train": artifacts["prepare"].info["train"],
            "selected": _selected(artifacts),
            **_reach(artifacts),
        },
        "split": artifacts["prepare"].info["order"],
        "artifacts": {stage: str(artifact.path.resolve()) for stage, artifact in artifacts.items()},
        "versions": dict(artifacts["evaluate"].manifest["versions"]),
    }


def run_table(result: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> Table:
    """The same for a person: what it found, what it took."""
    table = Table(title=f"{result['method']}, seed {result['seed']}", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("result")
    for stage, artifact in artifacts.items():
        seconds = f"{artifact.seconds:,.1f}" + (" (kept)" if artifact.cached else "")
        table.add_row(stage, seconds, stage_line(stage, artifact.info))
    table.add_section()
    made = [s for s in artifacts if s not in ("prepare", "evaluate")]
    spent = sum(result["seconds"][stage] for stage in made)
    table.add_row(" + ".join(made), f"{spent:,.1f}", metrics_line(result["metrics"]))
    costs = of_stages(artifacts[stage].costs for stage in made)
    if costs:
        memory = f"{costs['peak_memory_bytes'] / 2**30:.1f} GiB"
        table.caption = f"{costs['cpu_seconds']:,.1f} CPU seconds, at most {memory} of memory"
        table.caption_justify = "left"
    return table


def _selected(artifacts: Mapping[str, Artifact]) -> int:
    """Rows the towers learned from; without towers, those that pre-training read."""
    if "select" in artifacts:
        return int(artifacts["select"].info["selected"])
    return int(artifacts["prepare"].info["train"])


def stage_document(stage: str, artifact: Artifact) -> dict[str, Any]:
    """What a stage's command prints with ``--json``."""
    return {
        "stage": stage,
        "artifact": str(artifact.path.resolve()),
        "cached": artifact.cached,
        "seconds": artifact.seconds,
        "info": dict(artifact.info),
    }


def stage_lines(stage: str, artifact: Artifact) -> str:
    """What it prints for a person: what came of the stage, and where that is."""
    kept = ", kept" if artifact.cached else ""
    line = f"{stage}: {stage_line(stage, artifact.info)} ({artifact.seconds:,.1f} s{kept})"
    return f"{line}\n{artifact.path.resolve()}"


def stage_line(stage: str, info: Mapping[str, Any]) -> str:
    """One line on what a stage did."""
    return TABLE[stage].line(info)


def _reach(artifacts: Mapping[str, Artifact]) -> dict[str, int | None]:
    """What D_sel refers to and takes on disk; nothing where there is none."""
    info = artifacts["select"].info if "select" in artifacts else {}
    return {name: info.get(name) for name in ("touched", "bytes", "bytes_of")}
