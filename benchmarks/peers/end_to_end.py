"""Section ``end-to-end``: seconds of CADC's pre-training, selection and training, and of gold's.

Both train for equally many epochs with the same trainer on all cores. Validation is left out of
both. Every round makes its artifacts anew. Gold's time is extrapolated
from a tenth of its epochs: each epoch costs the same, and a round takes minutes instead of an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from benchmarks.peers.record import Entry, Figures, Section, ratios_of
from benchmarks.peers.session import now
from benchmarks.peers.timing import Contender, Work, alternate
from benchmarks.peers.workload import Workload
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Artifact

_STAGES = ("pretrain", "transitions", "select", "train")
_SHORT = ("train.epochs=10", "pretrain.epochs=5")
_GOLD_PARTS = 10  # gold trains one part of its epochs
_EXTRAS = ("train.evaluate_every=1000000", "tracking.tensorboard=false")


def measure(workload: Workload) -> Section:
    """Let CADC and gold take turns; no warm-up, for a run of minutes needs none."""
    extras = [*_EXTRAS, *(_SHORT if workload.short else ())]
    experiments = {name: workload.experiment(name, extras) for name in ("cadc", "gold")}
    epochs = experiments["cadc"].train.epochs
    part = f"train.epochs={epochs // _GOLD_PARTS}"
    experiments["gold"] = workload.experiment("gold", [*extras, part])
    workload.prepared  # noqa: B018 - made once, before anything is timed

    def turn(name: str) -> Work:
        pipeline = Pipeline(experiments[name], workload.workdir, workload.data_dir, _STAGES)
        artifacts = pipeline.run(until="train")
        parts = _GOLD_PARTS if name == "gold" else 1
        more = (parts - 1) * float(artifacts["train"].info["training_seconds"])
        return Work(1, spent_seconds(artifacts) + more)

    turns = [Contender(name, partial(turn, name)) for name in experiments]
    seconds = alternate(turns, workload.repeats, warm_up=0, neighbour=workload.neighbour)
    what = {
        "cadc": "MF on everything, then the towers on a tenth, ids frozen",
        "gold": "the towers on everything, ids learned; extrapolated from a tenth of the epochs",
    }
    return Section(
        title="CADC and gold, end to end",
        unit="s",
        better="less",
        measured=now(),
        entries={
            name: Entry(what=what[name], figures=Figures.of(v)) for name, v in seconds.items()
        },
        ratios=ratios_of(seconds, [("cadc", "gold")]),
        notes={"epochs of both": epochs, "of which gold trained": epochs // _GOLD_PARTS},
    )


def spent_seconds(artifacts: Mapping[str, Artifact]) -> float:
    """Seconds of what learns, without validation."""
    made = [artifacts[stage] for stage in _STAGES if stage in artifacts]
    total = sum(artifact.seconds for artifact in made)
    return total - sum(float(a.info.get("validation_seconds", 0.0)) for a in made)
