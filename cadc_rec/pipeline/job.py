"""A pipeline where it runs: in this process alone, among launched ranks, or with local workers.

In: an experiment and a work folder. Out: a `Pipeline` that knows its peers. Where
``compute.processes`` asks for several and no launcher started this process, the train stage runs in
that many workers of its own, each of which is handed the experiment as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.distributed.launch import is_local_worker, run_workers
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.pipeline.pipeline import Pipeline, launched
from cadc_rec.pipeline.rank_log import rank_log
from cadc_rec.store.artifact import Artifact, open_artifact
from cadc_rec.store.atomic import make_folder, write_atomically
from cadc_rec.store.remote.origin import checkpoint_folder, origin_of, work_folder
from cadc_rec.versions import library_versions, require_trio

if TYPE_CHECKING:
    from cadc_rec.distributed.processes import Processes

_JOB = "_CADC_REC_JOB"
"""Holds, in a worker's environment, what it is to train."""
_SEEN = ".seen-by-every-rank-"


@contextlib.contextmanager
def opened(
    experiment: Experiment,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    force: Sequence[str] = (),
    profile: bool = False,
    resume: Path | None = None,
    given: Mapping[str, Artifact] | None = None,
    wait: bool = True,
) -> Iterator[Pipeline]:
    """The pipeline of an experiment, joined to its peers when launched among them.

    Args:
        experiment: all the settings.
        workdir: where artifacts live.
        data_dir: where raw archives are looked for.
        force: stages to make anew even when they are there.
        profile: train anew under torch's profiler.
        resume: a checkpoint to go on with; None looks for the newest.
        given: artifacts that stand in for their stages', such as an update's.
        wait: for another job that makes the same artifact; False refuses.

    Raises:
        CadcError: the libraries do not fit each other, the peers cannot be joined, or this rank
            speaks for one that failed.
        SystemExit: another rank speaks.
    """
    given = given or {}
    workdir = work_folder(workdir)
    resume = None if resume is None else checkpoint_folder(resume)
    origin = origin_of(workdir)
    if origin is not None and int(os.environ.get("RANK", 0)) == 0:
        origin.require_usable()

    def launch(force_train: bool) -> None:
        told = {
            "experiment": experiment.model_dump(mode="json"),
            "workdir": str(workdir),
            "data_dir": None if data_dir is None else str(data_dir),
            "force": ["train"] if force_train else [],
            "profile": profile,
            "resume": None if resume is None else str(resume),
            "given": {stage: str(made.path) for stage, made in given.items()},
            "wait": wait,
        }
        debug = ["--debug"] if "--debug" in sys.argv else []
        run_workers(["worker", *debug], experiment.compute.processes, {_JOB: json.dumps(told)})

    if not launched():
        yield Pipeline(
            experiment,
            workdir,
            data_dir,
            force,
            launch=launch if experiment.compute.processes > 1 else None,
            profile=profile,
            resume=resume,
            given=given,
            wait=wait,
        )
        return
    require_trio()
    from cadc_rec.distributed.processes import processes

    with processes(experiment.compute) as joined, contextlib.ExitStack() as log_of_ranks:
        require_one_version(joined, library_versions())
        name = require_one_folder(workdir, joined)
        log_of_ranks.enter_context(rank_log(workdir / "logs" / name, joined.rank))
        # A local worker's stages are named by the process that started it.
        tell = log.debug if is_local_worker() else log.info
        yield Pipeline(
            experiment,
            workdir,
            data_dir,
            force,
            joined,
            tell=tell,
            profile=profile,
            resume=resume,
            given=given,
            wait=wait,
        )


def require_one_version(processes: Processes, versions: Mapping[str, str]) -> None:
    """Refuse libraries that are other ones on another rank; every rank must call.

    Args:
        processes: the ranks.
        versions: of this rank's libraries. Python's last number is no matter.

    Raises:
        CadcError: names the ranks, and the first library that differs there.
    """
    if processes.world_size == 1:
        return
    from cadc_rec.distributed.examination import listed, other_versions

    python = ".".join(versions["python"].split(".")[:2])
    every = processes.all_gather((socket.gethostname(), {**versions, "python": python}))
    for ranks, sentence in other_versions([of_rank for _, of_rank in every]):
        hosts = ", ".join(dict.fromkeys(every[rank][0] for rank in ranks))
        raise CadcError(f"{listed(ranks)} (host {hosts}): {sentence}")


def require_one_folder(workdir: Path, processes: Processes) -> str:
    """Refuse a work folder that is another one on another rank; every rank must call.

    Returns:
        A name of this start of the job, the same on every rank.

    Raises:
        CadcError: names the ranks that do not see what rank 0 wrote.
    """
    origin, told = origin_of(workdir), ""
    address = "" if origin is None else origin.address
    if processes.rank == 0:
        told = f"{_SEEN}{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}\n{address}"
        make_folder(workdir, workdir)
        write_atomically(workdir / told.partition("\n")[0], "")
    name, _, address_of_rank_0 = str(processes.broadcast(told)).partition("\n")
    # In a store each node has its own cache: there the address counts.
    seen = address == address_of_rank_0 and (bool(address) or (workdir / name).exists())
    lacking = [rank for rank, sees in enumerate(processes.all_gather(seen)) if not sees]
    if processes.rank == 0:
        (workdir / name).unlink()
    if lacking:
        ranks = ", ".join(map(str, lacking))
        if address_of_rank_0:
            raise CadcError(
                f"{address_of_rank_0}: rank 0 keeps its results there and rank {ranks} does not; "
                "give every rank the same --workdir."
            )
        raise CadcError(
            f"{workdir}: rank 0 wrote a file there and rank {ranks} does not see it; name a folder "
            "that all nodes share with --workdir."
        )
    return name.removeprefix(_SEEN)


def train_as_worker() -> None:
    """Do a local worker's part of the training that `opened` handed out.

    Raises:
        CadcError: see `opened`.
    """
    told: dict[str, Any] = json.loads(os.environ[_JOB])
    data_dir, resume = told["data_dir"], told["resume"]
    with opened(
        Experiment.model_validate(told["experiment"]),
        Path(told["workdir"]),
        None if data_dir is None else Path(data_dir),
        force=told["force"],
        profile=told["profile"],
        resume=None if resume is None else Path(resume),
        given={stage: open_artifact(Path(path)) for stage, path in told["given"].items()},
        wait=told["wait"],
    ) as pipeline:
        pipeline.run(until="train")
