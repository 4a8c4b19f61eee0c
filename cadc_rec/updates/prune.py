"""What no kept update needs any more, and its removal.

In: a work folder, an experiment's run and its updates, how many of these are kept. Out: the
artifacts whose files can go. What another experiment's run or update is made of stays, and so does
everything that no record names: it may belong to a job that goes on. Manifests and records stay, so
the chain of updates goes on from the newest.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cadc_rec.data.forgotten import FILE as FORGOTTEN
from cadc_rec.data.forgotten import SIDES, Forgotten, hashes_of
from cadc_rec.data.ids.living import FOLDER
from cadc_rec.errors import BusyError, CadcError
from cadc_rec.pipeline.finished import runs_of
from cadc_rec.pipeline.table import STAGES, TABLE
from cadc_rec.store.artifact import Artifact, bring, committed, prune_artifact, read_manifest
from cadc_rec.store.atomic import locked
from cadc_rec.store.pruned import has_files, is_pruned
from cadc_rec.store.remote.lease import held_names
from cadc_rec.store.remote.origin import origin_of
from cadc_rec.updates import chain
from cadc_rec.updates.forget import Request

_TELLING = ("rejected/", "users.parquet", "items.parquet", f"{FOLDER}/", FORGOTTEN)
"""Files of a prepared dataset that say whom it has, and whom it forgot."""
_WHY = "forgotten users or items were in them"


def prunable(
    workdir: Path, base: Mapping[str, Artifact], keep: int = 1, with_run: bool = False
) -> list[Path]:
    """The artifacts of an experiment's run and updates that no kept state needs, in order.

    Args:
        workdir: the work folder.
        base: the run's artifacts.
        keep: how many of the newest updates are kept.
        with_run: whether the run itself may go too, where there is an update that is kept.

    Raises:
        CadcError: the work folder is in a store, or nothing would be kept.
    """
    if origin_of(workdir) is not None:
        raise CadcError("prune works on a folder of this machine; remove old folders in the store.")
    if keep < 1:
        raise CadcError(f"--keep {keep}: keep at least the newest update.")
    line = chain.line_of(base)
    done = chain.updates_of(workdir, line)
    old, kept = done[:-keep], done[-keep:]
    going = {workdir / folder for update in old for folder in update.artifacts.values()}
    if with_run and kept:
        going |= {made.path for made in base.values()}
    going -= needed(workdir, line, kept, run_stays=not (with_run and kept))
    return sorted(path for path in going if path.is_dir() and not is_removed(path))


def is_removed(path: Path) -> bool:
    """Whether an artifact was pruned to the end; a killed call leaves files beside the mark."""
    if not is_pruned(path):
        return False
    origin = origin_of(path.parent.parent)
    place = f"{path.parent.name}/{path.name}"
    return not (has_files(path) if origin is None else origin.has_files(place))


def needed(workdir: Path, line: str, kept: Sequence[chain.Update], run_stays: bool) -> set[Path]:
    """The artifacts of kept updates, of other experiments' updates, and of runs that stay."""
    updates = [u for of, u in chain.every_update(workdir) if of != line] + [*kept]
    found = {workdir / folder for update in updates for folder in update.artifacts.values()}
    prints = set()
    for run in runs_of(workdir):
        if run_stays or chain.line_of(run.artifacts) != line:
            found |= {made.path for made in run.artifacts.values()}
            prints |= {(made.stage, made.fingerprint) for made in run.artifacts.values()}
    # Two artifacts may hold the same, by settings that come to the same: a run names the contents,
    # so either may be its own, unless an update of the experiment made it.
    own = [u for of, u in chain.every_update(workdir) if of == line]
    made_here = {workdir / folder for update in own for folder in update.artifacts.values()}
    return found | (_holding(workdir, prints) - made_here)


def _holding(workdir: Path, prints: set[tuple[str, str]]) -> set[Path]:
    """Every artifact of these stages and fingerprints."""
    found = set()
    for stage in {stage for stage, _ in prints}:
        for path in committed(workdir, stage):
            with contextlib.suppress(CadcError):  # damaged, as in `runs_of`
                if (stage, read_manifest(path)["fingerprint"]) in prints:
                    found.add(path)
    return found


def require_alone(workdir: Path, line: str) -> None:
    """Refuse to remove anything while another job may be reading it.

    Args:
        workdir: the work folder.
        line: of updates, whose lock this job holds itself.

    Raises:
        CadcError: another job fills an artifact of the folder, or saves checkpoints.
    """
    own = f"{chain.STAGE}-line-{line}"
    busy = []
    for lock in sorted((workdir / ".tmp").glob("*.lock")):
        if lock.stem != own:
            with locked(lock) as free:
                busy += [] if free else [lock.stem]
    origin = origin_of(workdir)
    if origin is not None:
        busy += [name for name in held_names(origin.objects) if name != own]
    if busy:
        raise BusyError(
            f"{workdir if origin is None else origin.address}: another job is at work there "
            f"({busy[0]}) and may read what would be removed; give the command again when it has "
            "ended."
        )


@dataclass(frozen=True)
class Holders:
    """What still holds users and items that an update forgot.

    Attributes:
        own: artifacts of the experiment's run and earlier updates, and what else nobody keeps.
        others: artifacts that another experiment's run or update is made of.
        checkpoints: of trainings that were killed; they may hold them.
    """

    own: list[Path]
    others: list[Path]
    checkpoints: list[Path]

    def __bool__(self) -> bool:
        return bool(self.own or self.others or self.checkpoints)


def holders_of(
    workdir: Path, line: str, since: Sequence[chain.Update], request: Request
) -> Holders:
    """What holds the forgotten still, after the update that forgot them.

    A prepared dataset holds them if it has one of the ids. So does what was made of it, and what
    was made of that, but for the artifacts of the update itself and of those that followed, and
    for what was made of a dataset in which the same were forgotten. What was half removed may hold
    them, and nobody can use it: it counts as the experiment's own.

    Args:
        workdir: the work folder.
        line: names the experiment's updates.
        since: that update and all later ones.
        request: whom it forgot.
    """
    clean = {workdir / folder for update in since for folder in update.artifacts.values()}
    origin = origin_of(workdir)
    paths = [path for stage in STAGES for path in committed(workdir, stage)]
    if origin is not None:  # made here when the store did not answer
        paths += [path for stage in STAGES for path in origin.unsent(stage)]
    every = {path: read_manifest(path) for path in paths}
    left = {
        path: manifest
        for path, manifest in every.items()
        if path not in clean and not is_pruned(path)
    }
    torn = {p for p in every if p not in clean and is_pruned(p) and not is_removed(p)}
    for path, manifest in left.items():
        bring(path, [name for name in manifest["files"] if name.startswith(_TELLING)])
    tainted = {path for path in left if path.parent.name == "prepare" and _has_any(path, request)}
    # Another experiment's updates forgot them too, if their dataset says so.
    forgot = {m["fingerprint"] for path, m in left.items() if _has_forgotten(path, request)}
    # A pruned artifact holds nothing, but what was made of it may: it hands the taint on.
    prints = {left[path]["fingerprint"] for path in tainted}
    prints |= {m["fingerprint"] for path, m in every.items() if is_pruned(path)}
    name = TABLE["prepare"].makes
    for stage in STAGES:  # each reads those before it; an update also reads its own kind
        more = True
        while more:
            more = False
            for path, manifest in left.items():
                inputs = manifest["inputs"]
                if path.parent.name != stage or path in tainted or inputs.get(name) in forgot:
                    continue
                if stage != "prepare" and prints & set(inputs.values()):
                    tainted.add(path)
                    prints.add(manifest["fingerprint"])
                    more = True
    others = tainted & needed(workdir, line, since, run_stays=False)
    killed = sorted(path for path in (workdir / "checkpoints").glob("*") if path.is_dir())
    if origin is not None:
        there = {found.name.split("/")[1] for found in origin.objects.list("checkpoints")}
        killed = sorted({*killed, *(workdir / "checkpoints" / name for name in there)})
    return Holders(sorted(tainted - others | torn), sorted(others), killed)


def _stage_of(path: Path) -> int:
    """The place of an artifact's stage in the pipeline."""
    return STAGES.index(path.parent.name)


def _has_any(dataset: Path, request: Request) -> bool:
    """Whether a prepared dataset has one of the ids, or bad rows in which one may stand."""
    for file in (dataset / "rejected").glob("*.parquet"):
        rejected = pq.ParquetFile(file)
        if rejected.metadata.num_rows and "row" in rejected.schema_arrow.names:
            return True
    for side in SIDES:
        column, asked = f"{side}_id", request.ids[side]
        if not len(asked):
            continue
        table = pq.read_table(dataset / f"{side}s.parquet", columns=[column])
        if _is_among(asked, table[column]):
            return True
        waiting = dataset / FOLDER / f"{side}_waiting.parquet"  # ids that have no row yet
        if waiting.is_file() and _is_among(asked, pq.read_table(waiting, columns=["id"])["id"]):
            return True
    return False


def _has_forgotten(artifact: Path, request: Request) -> bool:
    """Whether this is a prepared dataset in which all of these were forgotten."""
    known = Forgotten.open(artifact)
    asked = {side: hashes_of(side, request.ids[side], request.key) for side in SIDES}
    return bool(known) and all(known.hashes[side].issuperset(asked[side]) for side in SIDES)


def _is_among(asked: pa.Array, ids: pa.ChunkedArray) -> bool:
    """Whether one of these ids is there; another experiment's may be of another type."""
    if ids.type != asked.type:
        asked, ids = asked.cast(pa.string()), ids.cast(pa.string())
    return bool(pc.any(pc.is_in(ids, value_set=asked)).as_py())


def purge(workdir: Path, line: str, holders: Holders) -> None:
    """Remove what is the experiment's own, and checkpoints of trainings that do not go on.

    Raises:
        CadcError: another job is at work in the folder.
    """
    require_alone(workdir, line)
    origin = origin_of(workdir)
    unsent = set() if origin is None else {p for stage in STAGES for p in origin.unsent(stage)}
    remove([path for path in holders.own if path not in unsent], _WHY)
    for folder in unsent.intersection(holders.own):
        assert origin is not None
        origin.drop_unsent(folder)
    for folder in holders.checkpoints:
        with locked(workdir / ".tmp" / f"checkpoints-{folder.name}.lock") as mine:
            if mine and origin is not None:
                origin.remove(f"checkpoints/{folder.name}")
            if mine:
                shutil.rmtree(folder, ignore_errors=origin is not None)


def remove(paths: list[Path], why: str) -> None:
    """Prune these artifacts, the latest stage first: what is left is never newer than its input."""
    for path in sorted(paths, key=_stage_of, reverse=True):
        prune_artifact(path, why)
