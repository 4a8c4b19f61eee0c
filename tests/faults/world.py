"""What every case of the fault matrix stands on: two small experiments, and their undisturbed runs.

The undisturbed runs are made once, the first by the command as a person types it. A case is run by
forks of a process that has loaded the libraries already (`tests.zygote`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cadc_rec.pipeline.pipeline import STAGES
from cadc_rec.store.artifact import open_artifact
from tests import zygote

# Sized so that pre-training and training last about a second each: there is something to hit.
CADC = """
seed = 0
method = "cadc"

[data.generated]
users = 300
items = 150
interactions = 12_000

[pretrain]
epochs = 150
factors = 31

[select]
ratio = 4.0
shards = 4

[model]
id_dim = 32
feature_dim = 4
tower = [32, 16]

[train]
epochs = 24
batch_size = 512

[checkpoint]
every_seconds = 0
every_epochs = 2
keep_last = 3

[compute]
device = "cpu"
threads = 1
timeout_seconds = 60
"""
RECIPE = CADC.replace('method = "cadc"', 'method = "recipe"').replace("epochs = 150\n", "")
RECIPE = RECIPE.replace("epochs = 24\n", "epochs = 24\npatience = 0\n") + (
    "[history]\nwindows = [1, 3]\n[methods.recipe]\nhistory.length = 4\n"
)
CONFIGS = {"cadc": CADC, "recipe": RECIPE}


class Run:
    """One process, or the ranks of one job, under way."""

    def __init__(self, processes: list[zygote.Process]) -> None:
        self.processes = processes

    @property
    def pids(self) -> list[int]:
        """Of all of them, by rank."""
        return [process.pid for process in self.processes]

    @property
    def codes(self) -> list[int | None]:
        """How each of them has ended; None while it runs."""
        return [process.poll() for process in self.processes]

    @property
    def output(self) -> list[Path]:
        """Folders with what each of them wrote, `stdout` and `stderr`."""
        return [process.folder for process in self.processes]

    def running(self) -> bool:
        """Whether any of them is."""
        return None in self.codes

    def signal(self, number: int, ranks: Iterable[int]) -> None:
        """Send a signal to those of these ranks that still run."""
        for rank in ranks:
            self.processes[rank].send_signal(number)

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Exit codes, once all have ended."""
        end = time.monotonic() + seconds
        while self.running():
            assert time.monotonic() < end, self.err
            time.sleep(0.01)
        return self.codes

    @property
    def err(self) -> str:
        """Standard error of all of them."""
        return "".join(process.said for process in self.processes)


def begin(
    arguments: list[object],
    ranks: int = 1,
    of_rank: Callable[[int], list[object]] = lambda _: [],
    only: tuple[int, ...] | None = None,
) -> Run:
    """Start the command, as one process or as the ranks of one job.

    Args:
        arguments: of the command.
        ranks: of the job. Nobody but the product ends one of them when another fails.
        of_rank: more arguments, of each rank its own.
        only: ranks that are started, where not all are.
    """
    port, started = zygote.free_port(), []
    for rank in range(ranks) if only is None else only:
        told = zygote.of_rank(rank, ranks, port) if ranks > 1 else {}
        started.append(zygote.start([*arguments, *of_rank(rank)], zygote.environment() | told))
    return Run(started)


@dataclass(frozen=True)
class Reference:
    """An undisturbed run; its folder is read only."""

    config: Path
    ranks: int
    workdir: Path
    artifacts: dict[str, Path]
    metrics: dict[str, float]
    seconds: dict[str, float]

    @classmethod
    def read(cls, values: dict[str, Any]) -> Reference:
        """From `asdict`, also once it has been JSON."""
        paths = {stage: Path(path) for stage, path in values["artifacts"].items()}
        config, workdir = Path(values["config"]), Path(values["workdir"])
        return cls(**values | {"config": config, "workdir": workdir, "artifacts": paths})


class World:
    """Configs and references of one session; folders for each case.

    Args:
        folder: of this worker of pytest.
        once: the fixture of this name: what all workers share is made by the first to ask for it.
    """

    def __init__(self, folder: Path, once: Callable[[str, Callable[[Path], Any]], Any]) -> None:
        self.folder, self.once, self._folders = folder, once, 0
        for name, text in CONFIGS.items():
            (folder / f"{name}.toml").write_text(text)

    def config(self, name: str) -> Path:
        """The TOML file of this name."""
        return self.folder / f"{name}.toml"

    def fresh(self) -> Path:
        """A folder of its own."""
        self._folders += 1
        return made(self.folder / f"case-{self._folders}")

    def reference(self, config: str, ranks: int = 1) -> Reference:
        """The undisturbed run."""
        return self.kept(
            f"undisturbed-{config}-{ranks}",
            lambda folder: self._undisturbed(config, ranks, folder / "work"),
        )

    def kept(self, name: str, make: Callable[[Path], Reference]) -> Reference:
        """What `make(folder)` gives, made once for all workers."""
        return Reference.read(self.once(name, lambda folder: asdict(make(folder))))

    def copy(self, workdir: Path) -> Path:
        """A work folder like another one."""
        return Path(shutil.copytree(workdir, self.fresh() / "work"))

    def _undisturbed(self, config: str, ranks: int, workdir: Path) -> Reference:
        arguments = ["run", self.config(config), "--workdir", workdir, "--json"]
        if (config, ranks) == ("cadc", 1):  # as a person types it
            done = subprocess.run(
                [sys.executable, "-m", "cadc_rec", *map(str, arguments)],
                env=zygote.environment(),
                capture_output=True,
                text=True,
                timeout=200,
            )
            assert done.returncode == 0, done.stderr
            result = json.loads(done.stdout)
        else:
            run = begin(arguments, ranks)
            assert run.wait() == [0] * ranks, run.err
            result = json.loads((run.output[0] / "stdout").read_text())
        artifacts = {stage: Path(path) for stage, path in result["artifacts"].items()}
        seconds = {
            stage: json.loads((path / "manifest.json").read_text())["seconds"]
            for stage, path in artifacts.items()
        }
        return Reference(self.config(config), ranks, workdir, artifacts, result["metrics"], seconds)

    def begun(self, reference: Reference, before: str) -> Path:
        """A work folder with the stages that come before one, as the undisturbed run made them."""
        workdir = made(self.fresh() / "work")
        for stage in list(reference.artifacts)[: list(reference.artifacts).index(before)]:
            path = reference.artifacts[stage]
            shutil.copytree(path, workdir / stage / path.name)
        return workdir

    def start(self, reference: Reference, workdir: Path, *more: object) -> Run:
        """The command of the reference, on this work folder."""
        arguments = ["run", reference.config, "--workdir", workdir, "--json", *more]
        return begin(arguments, reference.ranks)

    def finish(self, reference: Reference, workdir: Path, *more: object) -> Run:
        """Run to the end and compare with the undisturbed run."""
        run = self.start(reference, workdir, *more)
        assert run.wait() == [0] * reference.ranks, run.err
        same_as(reference, workdir, json.loads((run.output[0] / "stdout").read_text()))
        return run


def same_as(reference: Reference, workdir: Path, result: dict[str, object]) -> None:
    """The results of the undisturbed run, whole, and nothing beside them."""
    assert result["metrics"] == reference.metrics
    assert {s: Path(p).name for s, p in result["artifacts"].items()} == {
        stage: path.name for stage, path in reference.artifacts.items()
    }
    for stage, file in (("evaluate", "ranks.parquet"), ("train", "model.safetensors")):
        path = reference.artifacts[stage]
        assert (workdir / stage / path.name / file).read_bytes() == (path / file).read_bytes()
    assert whole(workdir) == list(reference.artifacts)
    left = [path.name for path in (workdir / ".tmp").iterdir() if path.suffix != ".lock"]
    assert left == []
    assert list(workdir.glob("checkpoints/*")) == []


def whole(workdir: Path) -> list[str]:
    """The stages whose artifact is there; each is compared with its manifest."""
    return [open_artifact(path).stage for stage in STAGES for path in workdir.glob(f"{stage}/*/")]


def made(folder: Path) -> Path:
    """`folder`, which was not there before."""
    folder.mkdir(parents=True)
    return folder


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        group: what is done to a run, for the table.
        name: tells it apart within its group; holds the seed.
        run: does it; an AssertionError is a fault that was not survived.
    """

    group: str
    name: str
    run: Callable[[World], object]

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.group}: {self.name}"
