"""Kills at random moments and damaged files, in streams and updates: it ends as undisturbed."""

from __future__ import annotations

import functools
import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.damage import KINDS
from tests.share import share
from tests.updates.conftest import INTERACTIONS, as_toml, day_rows, settings, write_table
from tests.updates.test_killed_update import bytes_of

pytestmark = pytest.mark.slow

_ATTEMPTS = 8
_PAIRS = 12  # rows of a file; two files are a batch
_BOUND = ("--every-rows", 2 * _PAIRS)


@dataclass
class World:
    """A run, files and messages of one day's rows, and what taking them in comes to undisturbed."""

    root: Path
    base: Path
    config: Path
    spawn: Callable
    number: int = 0

    def __post_init__(self) -> None:
        self.inbox = self.root / "inbox"
        rows = day_rows()
        for place in range(3):
            part = rows[_PAIRS * place : _PAIRS * (place + 1)]
            write_table(self.inbox / f"{place}.parquet", part, INTERACTIONS)
        write_table(self.root / "day" / "interactions.parquet", rows, INTERACTIONS)
        self.whole: dict[str, tuple] = {}

    @functools.cached_property
    def topic(self) -> str:
        """Address of a topic with the same rows; one partition of it has them all."""
        pytest.importorskip("confluent_kafka")
        from tests.updates.follow.test_kafka import Broker

        self.broker = Broker()
        rows = [json.dumps(dict(zip(INTERACTIONS, row, strict=True))) for row in day_rows()]
        self.broker.send("killed", rows)
        return f"kafka://{self.broker.address}/killed"

    def command(self, source: str) -> tuple:
        """How these rows are taken in."""
        if source == "update":
            return ("update", self.config, "--new", self.root / "day")
        named = self.inbox if source == "folder" else self.topic
        return ("follow", self.config, "--from", named, "--once", *_BOUND)

    def fresh(self) -> Path:
        """A work folder with the run."""
        self.number += 1
        return Path(shutil.copytree(self.base, self.root / f"work-{self.number}"))

    def start(self, source: str, workdir: Path):
        return self.spawn(*self.command(source), "--workdir", workdir)

    def refused(self, source: str, workdir: Path) -> str:
        """The one sentence with which it does not go on."""
        process = self.start(source, workdir)
        _, err = process.communicate(timeout=250)
        assert process.returncode == 2, err
        assert "Traceback" not in err
        (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
        return error

    def finish(self, source: str, workdir: Path) -> None:
        """Go on to the end; it is as undisturbed."""
        process = self.start(source, workdir)
        _, err = process.communicate(timeout=250)
        assert process.returncode == 0, err
        expected, _ = self.undisturbed(source)
        assert state_of(workdir) == expected

    def undisturbed(self, source: str) -> tuple[tuple, float]:
        """What taking the rows in comes to, and its seconds."""
        if source not in self.whole:
            workdir, began = self.fresh(), time.monotonic()
            process = self.start(source, workdir)
            _, err = process.communicate(timeout=250)
            assert process.returncode == 0, err
            self.whole[source] = (state_of(workdir), time.monotonic() - began)
        return self.whole[source]

    def killed(self, source: str, draw: random.Random, workdir: Path | None = None) -> Path:
        """A work folder in which it was killed at some moment."""
        _, seconds = self.undisturbed(source)
        for _ in range(_ATTEMPTS):
            mine = workdir or self.fresh()
            process = self.start(source, mine)
            time.sleep(draw.uniform(0, seconds))
            process.kill()
            process.communicate()
            if process.returncode == -9 or workdir is not None:
                return mine
        raise AssertionError(f"never killed before its end in {_ATTEMPTS} attempts")


def state_of(workdir: Path) -> tuple:
    """Every artifact's bytes; of each update what it reports; of each batch what became of it."""
    reports = sorted(
        (info["number"], info["report"]["metrics"], info["report"]["day"])
        for record in workdir.glob("updates/*/manifest.json")
        for info in [json.loads(record.read_text())["info"]]
    )
    batches = [json.loads(file.read_text()) for file in sorted(workdir.glob(f"{_JOURNAL}/0*"))]
    told = [(b["number"], b["name"], b["rows"], b["state"], b["update"]) for b in batches]
    spooled = [path.name for path in workdir.glob("follow/*/spool/*")]
    return bytes_of(workdir), reports, told, spooled


_JOURNAL = "follow/*/batches"


def killed(source: str, times: int, draw: random.Random, world: World) -> None:
    """SIGKILL at random moments, once or several times in a row."""
    workdir = world.killed(source, draw)
    for _ in range(times - 1):
        world.killed(source, draw, workdir)
    world.finish(source, workdir)


def journal(source: str, how: str, draw: random.Random, world: World) -> None:
    """A file of the journal is damaged: refused by name, and mended as the sentence says."""
    workdir = world.fresh()
    world.finish(source, workdir)
    files = sorted(workdir.glob(f"{_JOURNAL}/0*"))
    victim = draw.choice(files)
    last = victim == files[-1]
    KINDS[how](victim, draw)
    if not (last and how == "removed"):  # then it only looks as if the batch were still to come
        error = world.refused(source, workdir)
        assert str(victim) in error
        assert f"delete {victim.name} and the files after it in {victim.parent}" in error
    for file in files[files.index(victim) :]:
        file.unlink(missing_ok=True)
    world.finish(source, workdir)


def spool(source: str, how: str, draw: random.Random, world: World) -> None:
    """The rows of the batch at hand are damaged after a kill: they are taken anew."""
    _, seconds = world.undisturbed(source)
    for _ in range(_ATTEMPTS):
        workdir = world.fresh()
        process = world.start(source, workdir)
        end = time.monotonic() + 10 * seconds
        while process.poll() is None and time.monotonic() < end:
            if list(workdir.glob("follow/*/spool/batch-*/interactions/*")):
                time.sleep(draw.uniform(0, seconds / 4))
                break
            time.sleep(0.005)
        process.kill()
        process.communicate()
        if there := sorted(workdir.glob("follow/*/spool/batch-*/interactions/*")):
            KINDS[how](draw.choice(there), draw)
            world.finish(source, workdir)
            return
    raise AssertionError(f"no batch at hand in {_ATTEMPTS} attempts")


def artifact(stage: str, how: str, draw: random.Random, world: World) -> None:
    """An artifact of the first update is damaged after a kill: named; brought back, it goes on."""
    workdir = world.fresh()
    later = world.inbox / "2.parquet"
    hidden = later.rename(world.root / "hidden")
    try:
        process = world.start("folder", workdir)
        _, err = process.communicate(timeout=250)
        assert process.returncode == 0, err
    finally:
        hidden.rename(later)
    (record,) = workdir.glob("updates/*/manifest.json")
    folder = workdir / json.loads(record.read_text())["info"]["artifacts"][stage]
    victim = draw.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    backup = victim.read_bytes()
    before = len(list(workdir.glob("*/*/manifest.json")))
    # Files may be shared with the artifact before: damage this name alone.
    victim.unlink()
    victim.write_bytes(backup)
    KINDS[how](victim, draw)
    error = world.refused("folder", workdir)
    assert str(folder) in error
    assert len(list(workdir.glob("*/*/manifest.json"))) <= before
    victim.write_bytes(backup)
    world.finish("folder", workdir)


@dataclass(frozen=True)
class Case:
    """One of the forty; its draws are those of its name."""

    group: str
    seed: int
    run: Callable[[random.Random, World], None]

    def __str__(self) -> str:
        return f"{self.group}, {self.seed}"


def _of(group: str, runs: list[Callable]) -> list[Case]:
    return [Case(group, seed, run) for seed, run in enumerate(runs)]


def _each(what: Callable, arguments: list[tuple]) -> list[Callable]:
    return [functools.partial(what, *given) for given in arguments]


CASES = [
    *_of("files killed", _each(killed, [("folder", 1)] * 11)),
    *_of("files killed three times", _each(killed, [("folder", 3)] * 3)),
    *_of("messages killed", _each(killed, [("kafka", 1)] * 6)),
    *_of("messages killed three times", _each(killed, [("kafka", 3)] * 2)),
    *_of("an update killed", _each(killed, [("update", 1)] * 5)),
    *_of("an update killed three times", _each(killed, [("update", 3)] * 1)),
    *_of("journal damaged", _each(journal, [(s, h) for h in KINDS for s in ("folder", "kafka")])),
    *_of("rows damaged", _each(spool, [("folder", how) for how in KINDS])),
    *_of(
        "artifact damaged",
        _each(
            artifact,
            [
                (stage, how)
                for stage, how in zip(("prepare", "pretrain", "evaluate"), KINDS, strict=True)
            ],
        ),
    ),
]
GROUPS = {case.group: [c for c in CASES if c.group == case.group] for case in CASES}
CHOSEN = share("killed streams").cases(GROUPS)


@pytest.fixture(scope="module")
def world(tmp_path_factory, shop, spawn):
    """ALS, the quickest of the methods; `test_killed_update` strikes in every stage of another."""
    root = tmp_path_factory.mktemp("killed")
    config, tree = root / "shop.toml", settings(shop)
    del tree["pretrain"]["model"], tree["model"]["id_embedding"]
    config.write_text(as_toml({"method": "als", **tree}))
    process = spawn("run", config, "--workdir", root / "base")
    assert process.wait(250) == 0, process.said
    return World(root, root / "base", config, spawn)


@pytest.mark.timeout(900)  # the first one waits for what all share
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_killed_or_damaged_it_ends_as_undisturbed(case, world):
    case.run(random.Random(str(case)), world)


def test_there_are_forty_cases():
    assert len(CASES) == 40
