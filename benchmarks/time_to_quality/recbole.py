"""RecBole's models in an environment of their own, and their quality after so many CPU seconds.

    python -m benchmarks.time_to_quality.recbole    # makes the environment: 1.6 GB, minutes

RecBole 1.2 needs libraries older than ours, so it has a virtual environment of its own, made by
pip when it is first asked for. `recbole_driver.py` runs there: it is given the interactions as
files, trains by RecBole's own loader and trainer, and gives back each user's best candidates as
plain arrays, from which ranks are formed here. A list is one longer than the metrics look, so that
they are what a full ranking gives: a target that is not listed ranks behind them.

Settings are RecBole's defaults for the model (2,048 rows a step, Adam with rate 0.001; SASRec has
two blocks of 64 with dropout 0.5, a softmax over all items, and a row for each prefix of a
history), but histories of 50 items, and one thread. What is learned from, what is left out and the
candidates are the same as everywhere. The history has the validation item when the test item is
ranked; a general model, such as LightGCN, has fixed users and cannot take it in.

In: a prepared dataset. Out: points of a curve.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper import ROOT
from benchmarks.time_to_quality.contenders import KS, Reached
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.log import log, set_up_logging

ENVIRONMENT = ROOT / "work" / "recbole-environment"
REQUIREMENTS = (
    "recbole==1.2.1",
    "numpy<2",  # it calls names that NumPy 2 has not
    "scipy<1.12",  # and a private one of its sparse matrices
    "pandas<2.2",
    "setuptools<81",  # its ray needs pkg_resources
    "torch==2.13.0",
)
_DRIVER = Path(__file__).with_name("recbole_driver.py")
_ANNOUNCED = "reached "
_LISTED = max(KS) + 1


@dataclass(frozen=True)
class Settings:
    """Which model, and what it is told.

    Attributes:
        model: a sequential or general model of RecBole, by its class.
        length: items of a history.
        given: settings of RecBole's that are not its defaults, a JSON object.
        python: of an environment that has RecBole; empty makes one in `ENVIRONMENT`.
    """

    model: str = "SASRec"
    length: int = 50
    given: str = "{}"
    python: str = ""


def environment(folder: Path = ENVIRONMENT, requirements: Sequence[str] = REQUIREMENTS) -> Path:
    """The Python of RecBole's environment, which is made where there is none.

    Raises:
        CadcError: it cannot be made, with pip's reason.
    """
    python, whole = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(requirements) + "\n"
    if whole.exists() and whole.read_text("utf-8") == wanted:
        return python
    log.info("making an environment for RecBole in %s", folder)
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--no-input", "--quiet", *requirements],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CadcError(f"RecBole cannot be installed here: {_reason(done.stderr)}.")
    whole.write_text(wanted, "utf-8")  # last: an environment without it is made again
    return python


def _reason(said: str) -> str:
    """What a program said was wrong: its last line that says so, or its last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no reason given"])[-1].rstrip(".")


def curve(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
) -> Iterator[Reached]:
    """Train on all of D_full; yield what is reached at each checkpoint.

    Args:
        dataset: what is learned from.
        settings: which model, and its environment.
        seed: RecBole's.
        checkpoints: CPU seconds of the driver spent in training, ascending.
        sample: the users whose validation items are ranked; None for all.

    Raises:
        CadcError: RecBole cannot be installed, or fails; its last words are quoted.
    """
    python = Path(settings.python) if settings.python else environment()
    everybody = np.arange(dataset.n_users)
    users = everybody if sample is None else sample
    with tempfile.TemporaryDirectory(prefix="recbole-") as scratch:
        folder = Path(scratch)
        np.savez(
            folder / "known.npz",
            indptr=dataset.user_indptr,
            items=dataset.train_item,
            val_item=dataset.val_item,
            sample=users,
        )
        job = asdict(settings) | {
            "given": json.loads(settings.given),
            "n_items": dataset.n_items,
            "seed": seed,
            "checkpoints": list(checkpoints),
            "listed": _LISTED,
        }
        (folder / "job.json").write_text(json.dumps(job), "utf-8")
        # Isolated: this folder has a module of RecBole's name, and PYTHONPATH may have others.
        command = [str(python), "-I", str(_DRIVER), str(folder / "job.json")]
        for said in announced(command, folder):
            with np.load(folder / said["file"], allow_pickle=False) as lists:
                found = of_lists(dataset, users, lists)
            yield Reached(said["cpu_seconds"], said["epochs"], *found)


def announced(command: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """What the driver announces, as it does; it is ended if nobody listens any more.

    Raises:
        CadcError: it failed.
    """
    errors = folder / "errors.txt"
    with errors.open("w", encoding="utf-8") as log_file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log_file, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_ANNOUNCED):
                yield json.loads(line.removeprefix(_ANNOUNCED))
        if process.wait():
            raise CadcError(f"RecBole failed: {_reason(errors.read_text('utf-8'))}.")
    finally:
        process.kill()
        process.wait()


def of_lists(
    dataset: Dataset, users: NDArray[np.int64], lists: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of the validation and the test items by lists of the best candidates.

    Args:
        dataset: the held-out items, and what is no candidate.
        users: whose validation items are ranked.
        lists: ``val_items`` and ``val_scores``, ``[users, listed]``, and the same of ``test`` for
            all users.

    Raises:
        CadcError: a list has an item that its user has taken.
    """
    known = UserItems(dataset.user_indptr, dataset.train_item)
    everybody = np.arange(dataset.n_users)
    found = []
    for name, targets, rows, taken in (
        ("val", dataset.val_item, users, known),
        ("test", dataset.test_item, everybody, known.and_one_each(dataset.val_item)),
    ):
        items, scores = lists[f"{name}_items"], lists[f"{name}_scores"]
        candidates = np.isfinite(scores)
        user, item = taken.some(rows).joined(np.arange(len(rows)))
        owned = user.astype(np.int64) * dataset.n_items + item
        mine = np.arange(len(rows))[:, None] * dataset.n_items + items
        if np.isin(mine[candidates], owned).any():
            raise CadcError(f"RecBole's {name} lists have items that were taken before.")
        ranks = listed_ranks(items, np.where(candidates, scores, -np.inf), targets[rows])
        found.append(ranking_metrics(ranks[targets[rows] >= 0], KS))
    return found[0], found[1]


def listed_ranks(
    items: NDArray[np.int32], scores: NDArray[np.float32], targets: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Each target's rank in its list, behind all that score the same; one past it if not listed.

    Args:
        items: ``[n, listed]``.
        scores: of these; -inf is no candidate.
        targets: ``[n]``.
    """
    here = (items == targets[:, None]) & np.isfinite(scores)
    own = np.where(here, scores, -np.inf).max(1)
    ranks = (scores >= own[:, None]).sum(1)
    return np.where(here.any(1), ranks, items.shape[1] + 1)


if __name__ == "__main__":
    set_up_logging()
    try:
        print(environment())
    except CadcError as error:
        sys.exit(f"error: {error}")
