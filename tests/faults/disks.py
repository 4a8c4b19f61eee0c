"""A disk that fills up, and folders that cannot be written: real small disks, mounted as root."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.world import Case, Reference, World

_DISK = "size=64m"
_BLOCK = 4096


@contextlib.contextmanager
def disk(world: World, reference: Reference, before: str) -> Iterator[Path]:
    """A work folder on a disk of its own, with the stages before one."""
    folder = world.fresh() / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", _DISK, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        workdir = folder / "work"
        shutil.copytree(world.begun(reference, before), workdir)
        yield workdir
    finally:
        # lazily: what failed halfway may hold a file open until it is collected
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(workdir: Path, left: int) -> Path:
    """Fill the disk but for `left` bytes; what fills it."""
    filler = workdir.parent / "filler"
    free = shutil.disk_usage(workdir).free
    filler.write_bytes(b"\0" * (free - left))
    return filler


def full(config: str, stage: str, left: int, world: World) -> None:
    """No space for what a stage writes: it says so, commits nothing, and goes on once there is."""
    reference = world.reference(config)
    with disk(world, reference, before=stage) as workdir:
        filler = fill(workdir, left)
        run = world.start(reference, workdir)
        assert run.wait() == [2], run.err
        errors = [line for line in run.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert (
            "no space left; nothing was committed. Free some space, or choose another" in errors[0]
        )
        assert not list((workdir / stage).glob("*"))
        assert "Traceback" not in run.err
        filler.unlink()
        world.finish(reference, workdir)


def full_for_checkpoints(config: str, world: World) -> None:
    """Space for no checkpoint: training ends after the third, and goes on once there is."""
    reference = world.reference(config)
    with disk(world, reference, before="train") as workdir:
        # Checkpoints have a disk of their own, smaller than one of them.
        folder = workdir / "checkpoints"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={4 * _BLOCK}", "tmpfs", str(folder)]
        subprocess.run(mount, check=True)
        try:
            run = world.start(reference, workdir)
            assert run.wait() == [2], run.err
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        assert run.err.count("was not saved, training goes on") == 3
        (error,) = [line for line in run.err.splitlines() if line.startswith("error: ")]
        assert "3 checkpoints in a row could not be saved (there is no other)" in error
        assert "no space left" in error
        world.finish(reference, workdir)


def read_only(config: str, what: str, world: World) -> None:
    """A folder that cannot be written: it is named, nothing is committed, and mended it goes on."""
    reference = world.reference(config)
    with disk(world, reference, before="train") as workdir:
        folder = workdir if what == "work folder" else workdir / what
        folder.mkdir(exist_ok=True)
        # A mount of the folder on itself can be made read-only by itself, for root too.
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        remount = ["mount", "-o", "remount,bind,ro", str(folder)]
        subprocess.run(remount, check=True)
        try:
            run = world.start(reference, workdir)
            assert run.wait() == [2], run.err
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        errors = [line for line in run.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert str(folder) in errors[0]
        assert "Traceback" not in run.err
        world.finish(reference, workdir)


CASES = [
    *(
        Case(
            "disk full",
            f"{config}, {stage}, {left} bytes left",
            functools.partial(full, config, stage, left),
        )
        for config, stage, left in (
            ("cadc", "prepare", 30 * _BLOCK),
            ("cadc", "pretrain", 6 * _BLOCK),
            ("recipe", "transitions", 6 * _BLOCK),
            ("cadc", "evaluate", 4 * _BLOCK),
        )
    ),
    *(
        Case(
            "disk full for checkpoints alone",
            config,
            functools.partial(full_for_checkpoints, config),
        )
        for config in ("cadc", "recipe")
    ),
    *(
        Case("folder read-only", f"{config}, {what}", functools.partial(read_only, config, what))
        for config, what in (
            ("cadc", "work folder"),
            ("cadc", "checkpoints"),
            ("recipe", "checkpoints"),
        )
    ),
]
