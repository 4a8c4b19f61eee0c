"""SIGKILL at a seeded random moment of a phase, for one process and for the ranks of a job."""

from __future__ import annotations

import functools
import random
import signal
import time
from pathlib import Path

from tests.faults.processes import until
from tests.faults.world import Case, Reference, Run, World, whole

# A phase is known by the folder that is there while it lasts.
PHASES = {
    "preparing": ("prepare", ".tmp/prepare-*/"),
    "MF": ("pretrain", ".tmp/pretrain-*/"),
    "ALS": ("pretrain", ".tmp/pretrain-*/"),
    "transitions": ("transitions", ".tmp/transitions-*/"),
    "selecting": ("select", ".tmp/select-*/"),
    "training": ("train", ".tmp/train-*/"),
    "saving a checkpoint": ("train", "checkpoints/[!p]*/.draft-*"),
    "evaluation": ("evaluate", ".tmp/evaluate-*/"),
}
_SAVES = 10  # a case strikes at one of the first saves
_SAVE_SECONDS = 0.01
_ATTEMPTS = 12  # a moment drawn too late for the phase is drawn anew


def killed_within(
    world: World, reference: Reference, phase: str, seed: str, victims: list[int]
) -> Path:
    """A work folder in which `victims` were killed while the phase lasted."""
    draw = random.Random(f"{reference.config.stem}, {phase}, {seed}")
    stage, pattern = PHASES[phase]
    for _ in range(_ATTEMPTS):
        workdir = world.begun(reference, before=stage)
        run = world.start(reference, workdir)
        if phase == "saving a checkpoint":
            _reach_a_save(run, workdir, draw.randrange(1, _SAVES))
            time.sleep(draw.uniform(0, _SAVE_SECONDS))
        else:
            _reach(run, workdir, pattern)
            time.sleep(draw.uniform(0, reference.seconds[stage]))
        run.signal(signal.SIGKILL, victims)
        struck = any(workdir.glob(pattern))
        # As a launcher does when one has died; without one they end by themselves (test_ranks).
        run.signal(signal.SIGTERM, [r for r in range(reference.ranks) if r not in victims])
        codes = run.wait()
        if struck and all(codes[victim] == -signal.SIGKILL for victim in victims):
            return workdir
    raise AssertionError(f"in {_ATTEMPTS} attempts no kill fell into {phase}")


def _reach(run: Run, workdir: Path, pattern: str) -> None:
    """Wait for a phase to begin."""
    until(lambda: any(workdir.glob(pattern)) or not run.running())


def _reach_a_save(run: Run, workdir: Path, nth: int) -> None:
    """Wait for the nth save to begin."""
    seen: set[str] = set()
    while len(seen) < nth and run.running():
        seen |= {path.name for path in workdir.glob("checkpoints/[!p]*/.draft-*")}
        time.sleep(0.0005)


def goes_on(world: World, reference: Reference, workdir: Path, phase: str) -> None:
    """Nothing half-made is taken for whole, nothing whole is lost, and the end is the same."""
    stages = list(reference.artifacts)
    done = whole(workdir)
    assert done[: stages.index(PHASES[phase][0])] == stages[: stages.index(PHASES[phase][0])]
    saved = list(workdir.glob("checkpoints/[!p]*/[0-9]*-step-*"))
    run = world.finish(reference, workdir)
    if saved and "train" not in done:
        assert "resuming from" in run.err


def _case(config: str, phase: str, seed: int, ranks: int, victims: list[int], world: World) -> None:
    reference = world.reference(config, ranks)
    workdir = killed_within(world, reference, phase, f"seed {seed}, {victims}", victims)
    goes_on(world, reference, workdir, phase)


def again_and_again(config: str, seed: int, world: World) -> None:
    """Killed at random moments of the whole run, until one run is left to its end."""
    reference, draw = world.reference(config), random.Random(f"{config}, {seed}")
    workdir, kills, longest = world.fresh() / "work", 0, sum(reference.seconds.values()) / 2
    for _ in range(_ATTEMPTS):
        run = world.start(reference, workdir)
        time.sleep(draw.uniform(0, longest * (2 if kills else 1)))
        run.signal(signal.SIGKILL, [0])
        if run.wait() == [-signal.SIGKILL]:
            kills += 1
            assert whole(workdir) == list(reference.artifacts)[: len(whole(workdir))]
            if kills == 6:
                break
        elif kills:
            break
        else:  # the undisturbed run was slower than this one: earlier, and from the beginning
            workdir, longest = world.fresh() / "work", longest / 2
    assert kills, f"in {_ATTEMPTS} attempts no kill fell into the run"
    world.finish(reference, workdir)


def _cases() -> list[Case]:
    alone = {
        "cadc": {"preparing": 1, "MF": 3, "training": 3, "saving a checkpoint": 4, "evaluation": 2},
        "recipe": {
            "ALS": 2,
            "transitions": 1,
            "selecting": 1,
            "training": 3,
            "saving a checkpoint": 3,
            "evaluation": 2,
        },
    }
    cases = [
        Case(
            f"killed in {phase}, one process",
            f"{config}, seed {seed}",
            functools.partial(_case, config, phase, seed, 1, [0]),
        )
        for config, phases in alone.items()
        for phase, seeds in phases.items()
        for seed in range(seeds)
    ]
    victims = {"rank 0": [0], "rank 1": [1], "both": [0, 1]}
    cases += [
        Case(
            f"killed in {phase}, two processes",
            f"{config}, {who}, seed {seed}",
            functools.partial(_case, config, phase, seed, 2, ranks),
        )
        for config, phase, chosen in (
            ("cadc", "MF", ("rank 0", "rank 1")),
            ("cadc", "training", ("rank 0", "rank 1", "both")),
            ("recipe", "training", ("rank 1",)),
            ("cadc", "saving a checkpoint", ("rank 0", "rank 1", "both")),
            ("recipe", "saving a checkpoint", ("rank 1",)),
            ("cadc", "evaluation", ("rank 0", "rank 1")),
        )
        for seed, (who, ranks) in enumerate(victims.items())
        if who in chosen
    ]
    cases += [
        Case(
            "killed again and again",
            f"{config}, seed {seed}",
            functools.partial(again_and_again, config, seed),
        )
        for config in alone
        for seed in range(2)
    ]
    return cases


CASES = _cases()
