"""Saves a training while it runs, and resumes a saved one.

In: the trainer's state, after every step and epoch. Out: checkpoints, when they are due; before the
first step, the state that the newest good one holds. On SIGTERM it saves once more, and ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cadc_rec.config.experiment import CheckpointConfig
from cadc_rec.data.load.position import taken
from cadc_rec.distributed.launch import restarted
from cadc_rec.distributed.peers import loss_in
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.state import LocalTensor
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.checkpoints.cadence import Cadence
from cadc_rec.store.checkpoints.files import load_tensors, saved_sizes
from cadc_rec.store.checkpoints.parts import Parts
from cadc_rec.store.checkpoints.saver import Saver
from cadc_rec.store.checkpoints.store import (
    Checkpoint,
    CheckpointStore,
    newest_whole,
    open_checkpoint,
)
from cadc_rec.store.costs import Costs, Meter, of_ranks, of_stages
from cadc_rec.store.remote.lease import patience
from cadc_rec.training.preemption import EXIT_CODE, sigterm_noticed
from cadc_rec.training.training_state import Load, Progress

_END_SECONDS = 10.0  # that an interrupted training waits for a checkpoint in writing


@dataclass(frozen=True)
class Training:
    """Identifies a training, so that its checkpoints can be found.

    Attributes:
        key: its name, which does not depend on the number of processes and the sharding.
        identity: the settings and inputs that the key is a digest of.
        sizes: rows of the user and the item tables.
    """

    key: str
    identity: Mapping[str, Any]
    sizes: Mapping[str, int]


class SavedState(Protocol):
    """What is saved and restored: a `TrainingState`, or that of a factorization."""

    progress: Progress
    locals: list[LocalTensor]
    """The weights, by the names they are saved under."""

    def tensors(self) -> dict[str, Parts]:
        """What this rank holds of everything that is to be saved."""

    def described(self) -> dict[str, Any]:
        """What a manifest holds beside the tensors."""

    def optimizers(self) -> dict[str, str]:
        """Which optimizer moves each tensor; a checkpoint of others is not taken."""

    def restore(
        self, manifest: Mapping[str, Any], sizes: Mapping[str, Sequence[int]], load: Load
    ) -> list[str]:
        """Continue from what was saved."""


class Checkpoints(Protocol):
    """What the trainer calls before its first step, and after steps and epochs."""

    def resume(self, state: SavedState) -> None:
        """Before the first step: restore `state` from a saved training, if there is one."""

    def after_step(self, state: SavedState, per_epoch: int) -> None:
        """After each step, except an epoch's last."""

    def after_epoch(self, state: SavedState, per_epoch: int) -> None:
        """After each epoch and its validation, except the last epoch."""


class NoCheckpoints:
    """Saves nothing; training starts at the beginning."""

    def resume(self, state: SavedState) -> None:
        """Leave `state` as it is."""

    def after_step(self, state: SavedState, per_epoch: int) -> None:
        """Save nothing."""

    def after_epoch(self, state: SavedState, per_epoch: int) -> None:
        """Save nothing."""


class SavedTraining:
    """Checkpoints of one training in a work folder.

    Args:
        workdir: the work folder.
        training: which training.
        config: how often, and what is kept.
        processes: the ranks.
        timeout_seconds: how long a rank waits for the others in writing.
        named: the checkpoint to resume from; None looks for the newest good one.
        anew: remove existing checkpoints, and start at the beginning unless one is named.
    """

    def __init__(
        self,
        workdir: Path,
        training: Training,
        config: CheckpointConfig,
        processes: Processes,
        timeout_seconds: float,
        named: Path | None = None,
        anew: bool = False,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.store = CheckpointStore(workdir, training.key)
        self.training, self.config, self.processes = training, config, processes
        self.named, self.anew = named, anew
        self.seconds_before = 0.0
        self.costs_before: list[Costs] = []
        self.resumed: list[dict[str, Any]] = []
        self._meter = Meter()
        self._told: Callable[[], bool] | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[SavedTraining]:
        """Inside this context checkpoints may be written; leaving it waits for the last one."""
        with contextlib.ExitStack() as owned:
            self._own(owned)
            group = self.processes.another_group(self.timeout_seconds)
            config = self.config
            self._saver = Saver(
                self.store,
                group,
                config.background,
                config.keep_last,
                config.keep_best,
                partial(self.processes.together, group=group),
            )
            saves = bool(config.every_seconds or config.every_epochs)
            told = self._is_told if saves else None
            self._cadence = Cadence(config.every_seconds, config.max_share, self.processes, told)
            self._owned = owned
            owned.enter_context(self._meter)
            try:
                yield self
            except BaseException as error:
                # A launcher that lost a rank ends the others: it knows, and waits for them.
                if self._is_told() and isinstance(error, Exception) and loss_in(error):
                    raise SystemExit(EXIT_CODE) from error
                self._saver.wait(_END_SECONDS)
                raise
            self._saver.wait()

    def _is_told(self) -> bool:
        """Whether this rank was told to end."""
        return self._told is not None and self._told()

    def resume(self, state: SavedState) -> None:
        """See `Checkpoints`; from here on SIGTERM waits for the next step.

        Raises:
            CadcError: the named checkpoint is damaged or of another training.
        """
        if self.config.every_seconds or self.config.every_epochs:
            self._told = self._owned.enter_context(sigterm_noticed())
        found = self._found(state)
        if found is None:
            return
        sizes = saved_sizes(found.path)
        self._require_shapes(found, state, sizes)
        begun_anew = state.restore(
            found.manifest,
            sizes,
            lambda tensors: load_tensors(found.path, tensors, self.processes.group),
        )
        self.seconds_before = float(found.manifest["seconds"])
        self.costs_before = [found.manifest.get("costs", {})]
        progress = state.progress
        step = {"epoch": progress.epoch, "step": taken(progress.done)}
        ranks, origin = found.manifest["ranks"], found.manifest["digest"]
        self.resumed = [*found.manifest["resumed"], {**step, "ranks": ranks, "from": origin}]
        if self.processes.rank == 0:
            log.info("resuming from %s: epoch %d, step %d", found.path, step["epoch"], step["step"])
            if begun_anew:
                log.warning(
                    "%s: its optimizer state for %s is not used, because another optimizer trains "
                    "it now; the weights are the checkpoint's",
                    found.path,
                    ", ".join(begun_anew),
                )

    def after_step(self, state: SavedState, per_epoch: int) -> None:
        """See `Checkpoints`."""
        if self._cadence.due(self._saver.busy):
            self._save(state, per_epoch)
        self._end_if_told(state, per_epoch)

    def after_epoch(self, state: SavedState, per_epoch: int) -> None:
        """See `Checkpoints`."""
        every = self.config.every_epochs
        by_epochs = bool(every) and (state.progress.epoch - 1) % every == 0
        if self._cadence.due(self._saver.busy) or by_epochs:
            self._save(state, per_epoch)
        self._end_if_told(state, per_epoch)

    def _end_if_told(self, state: SavedState, per_epoch: int) -> None:
        """End the program where a rank is to end; all have just saved."""
        if not self._cadence.ends:
            return
        self._saver.wait()
        self.processes.barrier()  # a launcher ends all ranks with the first, but rank 0 commits
        if self.processes.rank == 0:
            log.warning(
                "told to end (SIGTERM) at step %d; the same command goes on from the newest "
                "checkpoint",
                state.progress.steps(per_epoch),
            )
        raise SystemExit(EXIT_CODE)

    def _save(self, state: SavedState, per_epoch: int) -> None:
        costs = of_ranks(self.processes.all_gather(self._meter.costs))
        body = {
            "training": self.training.key,
            "identity": self.training.identity,
            "sizes": self.training.sizes,
            "score": state.progress.latest,
            "seconds": self.seconds_before + self._meter.seconds,
            "costs": of_stages([*self.costs_before, costs]),
            "resumed": self.resumed,
            **state.described(),
        }
        step = state.progress.steps(per_epoch)
        self._cadence.saved(self._saver.save(step, state.tensors(), body))

    def _own(self, owned: contextlib.ExitStack) -> None:
        """Rank 0 locks the folder; all ranks raise if it cannot."""

        def own() -> str | None:
            try:
                wait = patience(self.store.workdir, self.timeout_seconds, restarted())
                owned.enter_context(self.store.owned(wait))
                if self.anew and self.named is None:
                    self.store.remove_all()  # or a restart would resume from them
            except CadcError as error:
                return str(error)
            return None

        # A store may take its time, so the others wait for as long as rank 0 works.
        why = self.processes.together(own if self.processes.rank == 0 else None)
        why = self.processes.broadcast(why)
        if why is not None:
            raise CadcError(why)

    def _found(self, state: SavedState) -> Checkpoint | None:
        """The checkpoint to resume from; None starts at the beginning."""
        if self.named is not None:
            named = open_checkpoint(self.named, self.processes)
            differs = difference(named.manifest, self.training)
            if differs is not None:
                raise CadcError(f"{self.named}: this training cannot resume from it: {differs}.")
            return self._newest_from(named) or named
        if self.anew or self.config.resume == "never":
            return None
        optimizers = merged(self.processes.all_gather(state.optimizers()))

        def refuses(manifest: Mapping[str, Any]) -> str | None:
            if manifest["optimizers"] == optimizers:
                return None
            return (
                "trained its tables with another optimizer than sharding.trainable gives here; "
                "--resume uses it nevertheless"
            )

        return newest_whole(self.store, self.processes, refuses)

    def _newest_from(self, named: Checkpoint) -> Checkpoint | None:
        """The newest checkpoint here of a training that resumed from `named`.

        So the same command, started again by a person or a launcher, continues where it ended.
        """
        origin = named.manifest["digest"]

        def refuses(manifest: Mapping[str, Any]) -> str | None:
            descends = any(step["from"] == origin for step in manifest["resumed"])
            return None if descends else "does not continue it"

        return newest_whole(self.store, self.processes, refuses, tell=log.debug)

    def _require_shapes(
        self, found: Checkpoint, state: SavedState, sizes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Raise on all ranks if the checkpoint is of a model of another shape."""
        why = None
        for local in state.locals:
            saved = sizes.get(f"weights/{local.name}")
            if saved != local.shape:
                there = "missing" if saved is None else f"of size {list(saved)}"
                why = f"{local.name} is {there} there and of size {list(local.shape)} here"
                break
        why = next((each for each in self.processes.all_gather(why) if each is not None), None)
        if why is not None:
            raise CadcError(f"{found.path}: is a checkpoint of another model: {why}.")


def merged(of_ranks: list[dict[str, str]]) -> dict[str, str]:
    """The entries of all ranks in one dictionary."""
    return {name: value for mine in of_ranks for name, value in sorted(mine.items())}


def difference(manifest: Mapping[str, Any], training: Training) -> str | None:
    """How a checkpoint's training differs from this one, as the end of a sentence."""
    for side, rows in training.sizes.items():
        if manifest["sizes"][side] != rows:
            return f"its table has {manifest['sizes'][side]:,} {side}, but this one has {rows:,}"
    there, here = flat(manifest["identity"]), flat(training.identity)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) == here.get(name):
            continue
        if name == "settings.code":
            return "another version of cadc-rec wrote it"
        kind, _, rest = name.partition(".")
        if kind == "inputs":
            return f"it was trained on another {rest}"
        return f"{rest} is {there.get(name)!r} there and {here.get(name)!r} here"
    return None


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found
