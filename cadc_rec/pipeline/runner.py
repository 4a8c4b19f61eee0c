"""Carries one stage out, on one process or on all, or finds that it has been.

In: a `Job`. Out: its artifact.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.launch import restarted
from cadc_rec.pipeline.stage import Alone, Job, Together
from cadc_rec.store.artifact import (
    Artifact,
    Draft,
    Group,
    SoloGroup,
    pruned_artifact,
    run_stage,
    stage_exists,
)
from cadc_rec.store.costs import Meter
from cadc_rec.store.remote.lease import patience
from cadc_rec.versions import require_trio

if TYPE_CHECKING:
    from cadc_rec.distributed.processes import Processes


@dataclass(frozen=True)
class StageRunner:
    """Makes artifacts in a work folder; every rank makes the same calls.

    Attributes:
        workdir: where artifacts live.
        compute: device and threads of a stage that this process carries out by itself.
        processes: the ranks of a launched job; None when this process is alone.
        wait: for another job that makes the same artifact; False refuses. A job of several ranks
            always refuses: ranks that wait for one of them take it for lost after a while. One that
            was restarted waits half of that time: a file server may hold the lock of a machine that
            was lost for minutes. In a store every one waits until a killed job's lease runs out.
    """

    workdir: Path
    compute: ComputeConfig
    processes: Processes | None = None
    wait: bool = True

    @property
    def group(self) -> Group:
        """The ranks, or this process by itself."""
        return self.processes or SoloGroup()

    def make(self, job: Job) -> Artifact:
        """The job's artifact, made now if it is not there.

        Raises:
            CadcError: from the stage, or as `run_stage`.
        """
        with _span(job, self.group.rank):
            together, alone = job.stage.together, job.stage.alone
            if together is not None and (alone is None or self.processes is not None):
                return self._together(job, together)
            assert alone is not None
            return self._alone(job, alone)

    def make_several(
        self, jobs: Sequence[Job], load: Callable[[], Callable[[Mapping[int, Draft]], None]]
    ) -> list[Artifact]:
        """The artifacts of several jobs of one stage; what is missing is made in one go.

        Args:
            jobs: of a stage that one rank carries out; two may ask for the same.
            load: imports and returns the function that makes those that are missing, given their
                drafts by place in `jobs`. Each artifact's seconds and costs are those of the whole.
        """
        places = {job.key: place for place, job in reversed(list(enumerate(jobs)))}
        drafts: dict[int, Draft] = {}
        made: dict[str, Artifact] = {}

        def work() -> None:
            build = load()
            with Meter() as meter:
                build(dict(sorted(drafts.items())))
            for draft in drafts.values():
                draft.meter = meter

        def make(left: Sequence[int]) -> None:
            """All that are left, each within the draft of the one before it."""
            if not left:
                if drafts:
                    self._by_chief(work)
                return
            place, *others = left
            job = jobs[place]

            def fill(draft: Draft) -> None:
                drafts[place] = draft
                make(others)

            made[job.key] = self._run(job, fill, lambda: None)
            if place not in drafts:  # it was there
                make(others)

        # In the order of their keys: two jobs that each wait for the other's draft would for ever.
        make([place for _, place in sorted(places.items())])
        return [made[job.key] for job in jobs]

    def exists(self, job: Job) -> bool:
        """Whether the artifact is there."""
        return stage_exists(self.workdir, job.stage.name, job.settings, job.fingerprints)

    def pruned(self, job: Job) -> Artifact | None:
        """The artifact without its files, if these were removed."""
        return pruned_artifact(self.workdir, job.stage.name, job.settings, job.fingerprints)

    def made_by_others(self, job: Job) -> Artifact:
        """The artifact that worker processes have just committed."""

        def refuse(_: Draft) -> None:
            raise AssertionError("the workers ended well without committing the stage")

        made = run_stage(self.workdir, job.stage.name, job.settings, job.fingerprints, refuse)
        return Artifact(made.path, made.manifest, cached=False)

    def _alone(self, job: Job, alone: Callable[[Job], Alone]) -> Artifact:
        """Rank 0 works, the others wait."""
        load = cache(lambda: alone(job))
        return self._run(job, lambda draft: self._by_chief(lambda: load()(draft)), load)

    def _by_chief(self, work: Callable[[], object]) -> None:
        if self.processes is None:
            work()
        else:
            self.processes.by_chief(work)

    def _together(self, job: Job, together: Callable[[Job], Together]) -> Artifact:
        """All ranks work."""

        @cache
        def load() -> Together:
            require_trio()  # before torch is imported, which a mismatch would break obscurely
            with _interruptible_later():
                return together(job)

        def build(draft: Draft) -> None:
            fill = load()
            draft.meter.restart()  # ranks other than 0 have imported only now
            with self._joined() as processes:
                fill(processes, draft)

        return self._run(job, build, load)

    def _run(
        self, job: Job, build: Callable[[Draft], None], warm_up: Callable[[], object]
    ) -> Artifact:
        several = self.processes is not None and self.processes.world_size > 1
        return run_stage(
            self.workdir,
            job.stage.name,
            job.settings,
            job.fingerprints,
            build,
            force=job.anew,
            group=self.processes,
            wait=self._patience() if several else self.wait,
            warm_up=warm_up,
        )

    def _patience(self) -> float:
        """Seconds for which one of several ranks waits for a lock."""
        return patience(self.workdir, self.compute.timeout_seconds, restarted())

    @contextlib.contextmanager
    def _joined(self) -> Iterator[Processes]:
        """The launched ranks, or a group of this process alone."""
        if self.processes is not None:
            yield self.processes
            return
        from cadc_rec.distributed.processes import processes

        with processes(self.compute) as alone:
            yield alone


@contextlib.contextmanager
def _span(job: Job, rank: int) -> Iterator[None]:
    """A span of OpenTelemetry around a stage, where that is installed.

    Where spans go is what ``opentelemetry-instrument`` was told (OTEL_EXPORTER_OTLP_ENDPOINT).
    """
    try:
        from opentelemetry import trace
    except ImportError:  # also where a namespace of that name is all there is
        yield
        return

    described = {"cadc_rec.stage": job.stage.name, "cadc_rec.rank": rank}
    with trace.get_tracer("cadc_rec").start_as_current_span(job.stage.name, attributes=described):
        yield


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
