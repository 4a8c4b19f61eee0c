"""Files damaged on disk: in finished artifacts, and in the checkpoints of a killed training."""

from __future__ import annotations

import functools
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.processes import until
from tests.faults.world import Case, Reference, World, begin

Damage = Callable[[Path, random.Random], None]


def truncate(file: Path, draw: random.Random) -> None:
    """Cut a file short."""
    with file.open("r+b") as opened:
        opened.truncate(draw.randrange(file.stat().st_size))


def flip(file: Path, draw: random.Random) -> None:
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def remove(file: Path, _: random.Random) -> None:
    """Remove a file."""
    file.unlink()


KINDS: dict[str, Damage] = {"truncated": truncate, "a bit flipped": flip, "removed": remove}


def artifact(config: str, stage: str, how: str, seed: int, world: World) -> None:
    """A finished stage's file is damaged: it is refused by name, and made anew once deleted."""
    reference, draw = world.reference(config), random.Random(f"{stage}, {how}, {seed}")
    workdir = world.copy(reference.workdir)
    folder = workdir / stage / reference.artifacts[stage].name
    victim = draw.choice(sorted(file for file in folder.iterdir() if file.is_file()))
    KINDS[how](victim, draw)
    run = world.start(reference, workdir)
    assert run.wait() == [2], run.err
    errors = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(folder) in errors[0]
    assert f"delete {folder} and run again." in errors[0]
    assert "Traceback" not in run.err
    _delete(folder)
    world.finish(reference, workdir)


def interrupted(world: World, reference: Reference) -> Path:
    """A work folder with three checkpoints of a killed training; read only."""

    def make(folder: Path) -> Path:
        workdir = shutil.copytree(world.begun(reference, before="train"), folder / "work")
        run = world.start(reference, workdir)
        until(lambda: len(committed(workdir)) >= 3 and run.running())
        time.sleep(0.05)
        run.signal(signal.SIGKILL, [0])
        assert run.wait() == [-signal.SIGKILL]
        return workdir

    return Path(world.once(f"interrupted-{reference.config.stem}", make))


def committed(workdir: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(workdir.glob("checkpoints/[!p]*/[0-9]*-step-*"), reverse=True)


def checkpoint(config: str, which: str, how: str, seed: int, world: World) -> None:
    """Checkpoints are damaged: each is skipped with a warning, the last good one gone on with."""
    reference, draw = world.reference(config), random.Random(f"{which}, {how}, {seed}")
    workdir = world.copy(interrupted(world, reference))
    folders = committed(workdir)
    damaged = {"newest": folders[:1], "two newest": folders[:2], "all": folders}[which]
    for folder in damaged:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if how.startswith("manifest "):
            KINDS[how.removeprefix("manifest ")](folder / "manifest.json", draw)
        else:
            KINDS[how](draw.choice(files), draw)
    run = world.finish(reference, workdir)
    for folder in damaged:
        assert any(
            "checkpoint skipped" in line and str(folder) in line for line in run.err.splitlines()
        )
    good = [folder for folder in folders if folder not in damaged]
    assert ("resuming from" in run.err) == bool(good)
    if good:
        assert f"resuming from {good[0]}:" in run.err


def named(config: str, seed: int, world: World) -> None:
    """A damaged checkpoint asked for by name is an error, and nothing is touched."""
    reference, draw = world.reference(config), random.Random(f"named, {seed}")
    workdir = world.copy(interrupted(world, reference))
    folder = committed(workdir)[0]
    victim = draw.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    flip(victim, draw)
    arguments = ["train", reference.config, "--workdir", workdir, "--resume", folder]
    run = begin(arguments)
    assert run.wait() == [2], run.err
    errors = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(folder) in errors[0]
    assert committed(workdir)[0] == folder
    world.finish(reference, workdir)


def _delete(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _cases() -> list[Case]:
    cases = [
        Case(
            f"a file of a finished artifact {how}",
            f"{config}, {stage}, seed {seed}",
            functools.partial(artifact, config, stage, how, seed),
        )
        for how, seed in zip(KINDS, range(3), strict=True)
        for config, stage in (("cadc", "pretrain"), ("cadc", "train"), ("recipe", "select"))
    ]
    cases += [
        Case(
            f"a file of a checkpoint {how}",
            f"{config}, {which}, seed {seed}",
            functools.partial(checkpoint, config, which, how, seed),
        )
        for seed, (config, which, how) in enumerate(
            (
                ("cadc", "newest", "truncated"),
                ("cadc", "newest", "a bit flipped"),
                ("cadc", "newest", "removed"),
                ("cadc", "newest", "manifest truncated"),
                ("cadc", "two newest", "a bit flipped"),
                ("cadc", "all", "manifest a bit flipped"),
                ("recipe", "newest", "truncated"),
                ("recipe", "two newest", "removed"),
                ("recipe", "all", "a bit flipped"),
            )
        )
    ]
    cases += [
        Case(
            "a checkpoint asked for by name, a bit flipped",
            f"{config}, seed 0",
            functools.partial(named, config, 0),
        )
        for config in ("cadc", "recipe")
    ]
    return cases


CASES = _cases()
