"""Carries one stage out, on one process or on all, or finds that it has been.

In: a stage's settings, its input artifacts and a function that fills its folder. Out: its artifact.
What each stage is fed is `cadc_rec.pipeline.pipeline`'s to say.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.store.artifact import (
    Artifact,
    Draft,
    SoloGroup,
    artifact_key,
    run_stage,
    stage_exists,
)
from cadc_rec.versions import require_trio

if TYPE_CHECKING:
    from cadc_rec.distributed.processes import Processes

# Raised when a stage's code comes to compute something else, so that no artifact of the old code
# is taken for one of the new.
_CODE_VERSION = {
    "prepare": 1,
    "pretrain": 2,
    "transitions": 1,
    "select": 1,
    "train": 2,
    "evaluate": 2,
}


@dataclass(frozen=True)
class StageRunner:
    """Makes artifacts in a work folder.

    Attributes:
        experiment: for the device and threads, and for what a stage's warm-up wants to know.
        workdir: where artifacts live.
        force: stages to make anew even when they are there.
        processes: the ranks of a launched job; None when this process is alone.
    """

    experiment: Experiment
    workdir: Path
    force: tuple[str, ...]
    processes: Processes | None

    def alone(
        self,
        stage: str,
        settings: dict[str, Any],
        inputs: dict[str, Artifact | str],
        build: Callable[[Draft], None],
    ) -> Artifact:
        """A stage that one process carries out while the others wait."""
        group = self.processes or SoloGroup()
        return run_stage(
            self.workdir,
            stage,
            _coded(stage, settings),
            inputs,
            lambda draft: build(draft) if group.rank == 0 else None,
            force=stage in self.force,
            group=group,
        )

    def several_alone(
        self,
        stage: str,
        settings: Sequence[dict[str, Any]],
        inputs: dict[str, Artifact | str],
        build: Callable[[dict[int, Draft]], None],
    ) -> list[Artifact]:
        """Artifacts of one stage that one process makes in one go; the others wait.

        Args:
            stage: the stage's name.
            settings: of each artifact; no two alike.
            inputs: of all.
            build: given the drafts of those that are missing, by their place in `settings`. Each
                artifact's seconds are those of the whole.
        """
        group = self.processes or SoloGroup()
        drafts: dict[int, Draft] = {}
        made: dict[int, Artifact] = {}

        def make(index: int) -> None:
            """All from `index` on, each within the draft of the one before it."""
            if index == len(settings):
                if drafts and group.rank == 0:
                    started = time.perf_counter()
                    build(drafts)
                    for draft in drafts.values():
                        draft.seconds = time.perf_counter() - started
                return

            def fill(draft: Draft) -> None:
                drafts[index] = draft
                make(index + 1)

            made[index] = run_stage(
                self.workdir,
                stage,
                _coded(stage, settings[index]),
                inputs,
                fill,
                force=stage in self.force,
                group=group,
            )
            if index not in drafts:  # it was there
                make(index + 1)

        make(0)
        return [made[index] for index in range(len(settings))]

    def together(
        self,
        stage: str,
        settings: dict[str, Any],
        inputs: dict[str, Artifact],
        build: Callable[[Processes, Draft], None],
        force: bool = False,
    ) -> Artifact:
        """A stage that all processes carry out, with the module of its name."""

        def warm_up() -> None:
            require_trio()  # before torch is imported, which a mismatch would break obscurely
            with _interruptible_later():
                loaded = import_module(
                    f"cadc_rec.pipeline.stages.{stage}"
                )  # takes seconds that are not the stage's
                if hasattr(loaded, "warm_up"):
                    loaded.warm_up(self.experiment, inputs["dataset"])

        def build_on_device(draft: Draft) -> None:
            with self._joined() as processes:
                build(processes, draft)

        return run_stage(
            self.workdir,
            stage,
            _coded(stage, settings),
            inputs,
            build_on_device,
            force=force or stage in self.force,
            group=self.processes,
            warm_up=warm_up,
        )

    def exists(self, stage: str, settings: dict[str, Any], inputs: dict[str, Artifact]) -> bool:
        """Whether the artifact is there."""
        return stage_exists(self.workdir, stage, _coded(stage, settings), inputs)

    def key(self, stage: str, settings: dict[str, Any], inputs: dict[str, Artifact]) -> str:
        """Names the artifact."""
        return artifact_key(stage, _coded(stage, settings), inputs)

    def identity(
        self, stage: str, settings: dict[str, Any], inputs: dict[str, Artifact]
    ) -> dict[str, Any]:
        """What decides the artifact, as JSON values."""
        fingerprints = {name: artifact.fingerprint for name, artifact in inputs.items()}
        return {"settings": _coded(stage, settings), "inputs": fingerprints}

    def made_by_others(
        self, stage: str, settings: dict[str, Any], inputs: dict[str, Artifact]
    ) -> Artifact:
        """The artifact that worker processes have just committed."""
        made = run_stage(self.workdir, stage, _coded(stage, settings), inputs, _refuse)
        return Artifact(made.path, made.manifest, cached=False)

    @contextlib.contextmanager
    def _joined(self) -> Iterator[Processes]:
        """The launched ranks, or a group of this process alone."""
        if self.processes is not None:
            yield self.processes
            return
        from cadc_rec.distributed.processes import processes

        with processes(self.experiment.compute) as alone:
            yield alone


@contextlib.contextmanager
def _interruptible_later() -> Iterator[None]:
    """Keep a Ctrl-C for the end: libraries that catch everything while they load would lose it."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _coded(stage: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"code": _CODE_VERSION[stage], **settings}


def _refuse(_: Draft) -> None:
    raise AssertionError("the workers ended well without committing the stage")
