"""Carries an experiment on by a day: every stage from the one before, then the measure of drift.

In: an experiment, a work folder, a folder of new tables. Out: one artifact a stage, like those of
`cadc-rec run`, and the record that makes them an update. The record is written last, so an update
that was killed is none, the artifacts before it stand as they were, and the same command goes on
from the stages that were finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.select.build import build_selection
from cadc_rec.data.select.settings import selected_rows, selection_settings
from cadc_rec.distributed.processes import Processes, processes
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.pipeline.pipeline import Pipeline, launched
from cadc_rec.pretrain.settings import pretrain_settings
from cadc_rec.store.artifact import Artifact, Draft, run_stage
from cadc_rec.store.atomic import empty_folder
from cadc_rec.updates import chain
from cadc_rec.updates.changes import Changes
from cadc_rec.updates.dataset import (
    NothingNew,
    build_updated_dataset,
    updated_dataset_settings,
)
from cadc_rec.updates.day import Day, find_day, require_folder, require_updatable
from cadc_rec.updates.measure import State, update_report
from cadc_rec.updates.sample import refreshed_sample, sampled_rows
from cadc_rec.updates.tables import (
    build_updated_tables,
    build_updated_transitions,
    divisors,
)
from cadc_rec.updates.towers import build_updated_towers, towers_experiment

_CODE = 1  # raised when an update comes to compute something else
REPORT = "update.json"


@dataclass(frozen=True)
class Outcome:
    """What came of the command.

    Attributes:
        update: the update; None where the day holds nothing new.
        counts: what became of the day's rows.
        kept: whether it had been carried out before.
    """

    update: chain.Update | None
    counts: Mapping[str, int]
    kept: bool = False


def carry_on(
    experiment: Experiment, workdir: Path, folder: Path, data_dir: Path | None = None
) -> Outcome:
    """Update the latest state of `experiment` in `workdir` by the tables in `folder`.

    What the full run lacks is made first. A day that was carried out before is not again.

    Raises:
        CadcError: settings or tables that cannot be carried on, or another update of the same
            experiment is at work in the same folder.
    """
    if launched():
        raise CadcError("an update runs in one process; start cadc-rec without a launcher.")
    require_updatable(experiment.data)
    require_folder(folder)  # before the hours that a run may take
    base = Pipeline(experiment, workdir, data_dir).run()
    alone = experiment.compute.model_copy(update={"processes": 1})
    experiment = experiment.model_copy(update={"compute": alone})
    line = chain.line_of(base)
    with empty_folder(workdir, chain.STAGE, f"line-{line}"):  # holds its lock; stays empty
        done = chain.updates_of(workdir, line)
        latest = chain.artifacts_of(workdir, done[-1]) if done else base
        day = find_day(experiment.data, folder, latest["prepare"])
        for update in done:
            if update.day == day.fingerprint:
                log.info("%s: was carried out before, as update %d", folder, update.number)
                return Outcome(update, update.report["day"], kept=True)
        work = _Update(experiment, workdir, base, done, latest, day)
        try:
            return Outcome(work.run(), work.made["prepare"].info["update"])
        except NothingNew as nothing:
            return Outcome(None, nothing.counts)


class _Update:
    """One update at work."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        base: Mapping[str, Artifact],
        done: list[chain.Update],
        latest: Mapping[str, Artifact],
        day: Day,
    ) -> None:
        self.experiment, self.workdir, self.base, self.done = experiment, workdir, base, done
        self.latest, self.day = latest, day
        self.number = len(done) + 1
        self.made: dict[str, Artifact] = {}
        self.rebuilt = ""

    def run(self) -> chain.Update:
        """Make every stage and the record."""
        self.made["prepare"] = self._prepare()
        self.rebuilt = self._cannot_carry_on()
        if not self.rebuilt:
            for stage in ("pretrain", "transitions", "select", "train"):
                if stage in self.latest:
                    made = getattr(self, f"_{stage}")()
                    if made is not None:
                        self.made[stage] = made
        else:
            log.info("%s, so all stages are made anew", self.rebuilt)
        self.made = self._pipeline().run()
        return self._record()

    def _pipeline(self) -> Pipeline:
        """Makes what has no warm start of its own, by the ordinary stages."""
        return Pipeline(self.experiment, self.workdir, given=dict(self.made))

    def _cannot_carry_on(self) -> str:
        """Why the vectors have no warm start; empty where they have one."""
        pretrain = self.experiment.pretrain
        if pretrain.model == "mlp":
            return "pretrain.model = 'mlp' moves all vectors at once"
        factorized = ["pretrain"] if pretrain.model in ("mf", "als") else []
        for stage in (*factorized, "transitions"):
            if stage in self.latest and divisors(self.latest[stage], pretrain.scale) is None:
                return (
                    f"the vectors of {stage} were brought to pretrain.scale = {pretrain.scale!r} "
                    "in a way that cannot be undone"
                )
        return ""

    def _stage(
        self,
        stage: str,
        settings: dict[str, Any],
        inputs: dict[str, Artifact | str],
        build: Callable[[Draft], None],
    ) -> Artifact:
        told = {"update_code": _CODE, **settings}
        made = run_stage(self.workdir, stage, told, inputs, build)
        how = "kept" if made.cached else f"made in {made.seconds:,.1f} s"
        log.info("%s: %s, %s", stage, how, made.path)
        return made

    def _torch_stage(
        self,
        stage: str,
        settings: dict[str, Any],
        inputs: dict[str, Artifact | str],
        build: Callable[[Processes, Draft], None],
    ) -> Artifact:
        def on_device(draft: Draft) -> None:
            with processes(self.experiment.compute) as alone:
                build(alone, draft)

        return self._stage(stage, settings, inputs, on_device)

    @cached_property
    def before(self) -> Dataset:
        """The dataset before."""
        return Dataset.open(self.latest["prepare"])

    @cached_property
    def after(self) -> Dataset:
        """The next one."""
        return Dataset.open(self.made["prepare"])

    @cached_property
    def changes(self) -> Changes:
        """Between the two."""
        return Changes.between(self.before, self.after)

    def _prepare(self) -> Artifact:
        config, parent = self.experiment.data, self.latest["prepare"]
        return self._stage(
            "prepare",
            updated_dataset_settings(config, self.day),
            {"before": parent, "day": self.day.fingerprint},
            lambda draft: build_updated_dataset(config, parent, self.day, draft),
        )

    def _datasets(self) -> dict[str, Artifact | str]:
        return {"dataset": self.made["prepare"], "dataset_before": self.latest["prepare"]}

    def _pretrain(self) -> Artifact | None:
        e, before = self.experiment, self.latest["pretrain"]
        if e.pretrain.model not in ("mf", "als"):  # counting starts afresh
            return None
        told = e.update.model_dump(mode="json", include={"epochs", "sweeps", "polish"})
        return self._torch_stage(
            "pretrain",
            {**pretrain_settings(e.pretrain, e.seed), "update": told},
            {**self._datasets(), "tables_before": before},
            lambda alone, draft: build_updated_tables(
                e, before, self.after, self.changes, alone, draft
            ),
        )

    def _transitions(self) -> Artifact:
        e, before = self.experiment, self.latest["transitions"]
        settings = {
            "transitions": e.transitions.model_dump(mode="json"),
            "scale": e.pretrain.scale,
            "update": {"sweeps": e.update.sweeps},
        }
        return self._torch_stage(
            "transitions",
            settings,
            {"dataset": self.made["prepare"], "transitions_before": before},
            lambda alone, draft: build_updated_transitions(e, before, self.after, alone, draft),
        )

    def _select(self) -> Artifact | None:
        e, before, dataset = self.experiment, self.latest["select"], self.made["prepare"]
        if e.select.kind != "uniform":  # what it takes depends on all rows
            return None

        def build(draft: Draft) -> None:
            wanted = selected_rows(len(self.after.train_item), e.select.ratio)
            # Not by a fingerprint: that of the dataset tells of what is held out.
            key = (e.seed, self.number)
            rows = refreshed_sample(sampled_rows(before.path), self.changes, wanted, key)
            build_selection(e.select, e.seed, dataset, draft, e.history.length, rows=rows)

        return self._stage(
            "select",
            {**selection_settings(e.select, e.seed, e.history.length), "update": self.number},
            {**self._datasets(), "selection_before": before},
            build,
        )

    def _train(self) -> Artifact:
        e, before = self.experiment, self.latest["train"]
        warm, pipeline = towers_experiment(e), self._pipeline()
        selection, pretrained = pipeline.artifact("select"), pipeline.pretrained
        tables = {s: a for s, a in self.made.items() if s in ("pretrain", "transitions")}
        included = {"seed", "model", "train", "sharding", "history", "prior"}
        return self._torch_stage(
            "train",
            {**warm.model_dump(mode="json", include=included), "towers": e.update.towers},
            {
                "dataset": self.made["prepare"],
                "selection": selection,
                "checkpoint_before": before,
                **tables,
            },
            lambda alone, draft: build_updated_towers(
                warm, self.after, selection, pretrained, before, alone, draft
            ),
        )

    def _record(self) -> chain.Update:
        """Measure the drift and write what makes all this an update."""
        line = chain.line_of(self.base)
        places = {s: f"{a.path.parent.name}/{a.path.name}" for s, a in self.made.items()}

        def build(draft: Draft) -> None:
            report = self._report()
            text = json.dumps(report, indent=2) + "\n"
            (draft.path / REPORT).write_text(text, "utf-8")
            draft.info = {
                "line": line,
                "number": self.number,
                "day": self.day.fingerprint,
                "artifacts": places,
                "report": report,
            }

        limits = {"advise_new_share", "advise_cosine"}
        record = self._stage(
            chain.STAGE,
            {
                "line": line,
                "number": self.number,
                "update": self.experiment.update.model_dump(mode="json", include=limits),
            },
            {**self.made, "day": self.day.fingerprint},
            build,
        )
        told = record.info
        return chain.Update(
            self.number, record.path, told["day"], told["artifacts"], told["report"]
        )

    def _report(self) -> dict[str, Any]:
        full, since = self._last_full_build()
        return update_report(
            self.experiment,
            self.number,
            State(self.latest, self.before),
            State(self.made, self.after),
            self.changes,
            full,
            since,
            self.rebuilt,
        )

    def _last_full_build(self) -> tuple[Mapping[str, Artifact], int]:
        """The artifacts of the last full build, and the interactions of the updates since."""
        since = 0
        for update in reversed(self.done):
            if update.report["rebuilt"]:
                return chain.artifacts_of(self.workdir, update), since
            since += int(update.report["day"]["interactions"])
        return self.base, since
