"""What a stage is, and what one is given when it is carried out.

A `Stage` is a row of the table (`cadc_rec.pipeline.table`): it says what enters the key of its
artifact, which artifacts it reads and which function fills its folder. A `Job` is one stage of one
experiment with its inputs, about to be made or found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cadc_rec.config.experiment import Experiment
from cadc_rec.store.artifact import Artifact, Draft, artifact_key

if TYPE_CHECKING:
    from cadc_rec.data.dataset import Dataset
    from cadc_rec.distributed.processes import Processes
    from cadc_rec.pretrain.id_tables import Pretrained
    from cadc_rec.pretrain.prior_fit import FittedPrior

T = TypeVar("T")
Alone = Callable[[Draft], None]
Together = Callable[["Processes", Draft], None]
OnEpoch = Callable[[dict[str, float]], object]


class Input(Protocol):
    """An artifact, or raw files: whatever has a digest of its contents."""

    @property
    def fingerprint(self) -> str:
        """Digest of the contents."""


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    `alone` or `together` is set. It imports what the stage needs, which takes seconds that are not
    the stage's, and returns the function that fills the draft. With both, `together` is for a job
    of several ranks; a process by itself then needs no torch.

    Attributes:
        name: the stage's, and its artifacts' folder.
        makes: what other stages call its artifact.
        version: raised when the stage's code comes to compute something else, so that no artifact
            of the old code is taken for one of the new.
        reads: names of its inputs; those that the experiment does not have are left out.
        settings: what decides its result beside the inputs, as JSON values.
        line: one line for people on what came of it, from the artifact's ``info``.
        alone: one rank carries it out, and the others wait.
        together: all ranks carry it out.
        wanted: whether an experiment has the stage.
        workers: it runs in the local worker processes of ``compute.processes``.
        tidy: called once its artifact is there.
    """

    name: str
    makes: str
    version: int
    reads: Callable[[Experiment], Sequence[str]]
    settings: Callable[[Job], dict[str, Any]]
    line: Callable[[Mapping[str, Any]], str]
    alone: Callable[[Job], Alone] | None = None
    together: Callable[[Job], Together] | None = None
    wanted: Callable[[Experiment], bool] = lambda _: True
    workers: bool = False
    tidy: Callable[[Job, Artifact], None] = lambda job, artifact: None


class Opened:
    """Datasets, vectors and the like of one run, each opened once however many stages read it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Any] = {}

    def once(self, key: tuple[str, ...], make: Callable[[], T]) -> T:
        """What was made under this key, made now if there is nothing."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def dataset(self, artifact: Artifact) -> Dataset:
        """A prepare stage's artifact, opened."""
        from cadc_rec.data.dataset import Dataset

        return self.once(("dataset", str(artifact.path)), lambda: Dataset.open(artifact))

    def pretrained(self, tables: Artifact | None, transitions: Artifact | None) -> Pretrained:
        """Pre-trained vectors; empty for methods without."""
        from cadc_rec.data import transition_lists
        from cadc_rec.pretrain.id_tables import IdTables, Pretrained, TransitionTables

        def opened() -> Pretrained:
            ids = None if tables is None else IdTables.open(tables)
            if transitions is None:
                return Pretrained(ids)
            lists = transitions.path / transition_lists.FILE
            if lists.exists():
                return Pretrained(ids, lists=transition_lists.TransitionLists.open(lists))
            return Pretrained(ids, TransitionTables.open(transitions))

        paths = ("" if made is None else str(made.path) for made in (tables, transitions))
        return self.once(("pretrained", *paths), opened)


@dataclass(frozen=True)
class Job:
    """One stage of one experiment.

    Attributes:
        stage: the row.
        experiment: all the settings; a stage hands its functions the sections they use.
        inputs: by the names in `Stage.reads`.
        workdir: where artifacts live.
        ranks: processes that carry the stage out together.
        readers: processes that train, and so read D_sel.
        anew: make it even when it is there.
        profile: record where the training's time goes.
        resume: a checkpoint for a training to go on with; None looks for the newest.
        update: number of the update that makes it; 0 is the full run.
        opened: what the run's stages have opened.
        on_epoch: called after every epoch of a training in this process; what it raises ends it.
    """

    stage: Stage
    experiment: Experiment
    inputs: Mapping[str, Input]
    workdir: Path
    ranks: int
    readers: int
    opened: Opened
    anew: bool = False
    profile: bool = False
    resume: Path | None = None
    update: int = 0
    on_epoch: OnEpoch = lambda _: None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the artifact beside its inputs, the version of the code included."""
        return {"code": self.stage.version, **self.stage.settings(self)}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the inputs, by name."""
        return {name: given.fingerprint for name, given in self.inputs.items()}

    @property
    def key(self) -> str:
        """Names the artifact's folder."""
        return artifact_key(self.stage.name, self.settings, self.fingerprints)

    def artifact(self, name: str) -> Artifact:
        """An input that another stage made."""
        given = self.inputs[name]
        assert isinstance(given, Artifact)
        return given

    def open_dataset(self, name: str = "dataset") -> Dataset:
        """The prepared data, opened."""
        return self.opened.dataset(self.artifact(name))

    def open_pretrained(self) -> Pretrained:
        """The pre-trained vectors among the inputs, opened; empty where there are none."""
        tables, transitions = (
            self.artifact(name) if name in self.inputs else None
            for name in ("tables", "transitions")
        )
        return self.opened.pretrained(tables, transitions)

    def open_fitted(self) -> FittedPrior | None:
        """What was chosen of the prior; None where its settings stand."""
        if "prior" not in self.inputs:
            return None
        from cadc_rec.pretrain.prior_fit import FittedPrior

        return FittedPrior.open(self.artifact("prior").path)
