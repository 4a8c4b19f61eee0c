"""``cadc-rec doctor --distributed``: can the ranks of a launched job work together?"""

import json as jsonlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cadc_rec.cli.options import is_speaker
from cadc_rec.cli.output import say
from cadc_rec.errors import CadcError, ExitCode

if TYPE_CHECKING:
    from rich.table import Table

    from cadc_rec.distributed.examination import RankFound
    from cadc_rec.distributed.processes import Processes

_PATIENCE_SECONDS = 120  # for a rank that does not answer; it is named then


def examine_ranks(workdir: Path, json: bool) -> None:
    """Examine all ranks; rank 0 prints a table and one sentence for each problem.

    Raises:
        CadcError: no launcher started this process, or the ranks do not find each other.
        typer.Exit: there are problems.
    """
    from cadc_rec.pipeline.pipeline import launched
    from cadc_rec.versions import require_trio

    if not launched():
        raise CadcError(
            "doctor --distributed examines the ranks of a job, and this process is alone; start it "
            "as the job is: torchrun --nnodes N --nproc-per-node M ... -m cadc_rec doctor "
            "--distributed."
        )
    require_trio()
    from rich.console import Console

    from cadc_rec.config.running import ComputeConfig
    from cadc_rec.distributed.examination import examine, problems
    from cadc_rec.distributed.processes import processes

    with processes(ComputeConfig(timeout_seconds=_PATIENCE_SECONDS)) as joined:
        found, speed = examine(workdir, joined, _store_problem(workdir, joined))
        backend = "NCCL" if joined.device.type == "cuda" else "gloo"
    told = problems(found, workdir)
    meeting = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if is_speaker():
        if json:
            ranks = [asdict(each) for each in found]
            document = {"ok": not told, "ranks": ranks, "problems": told}
            print(jsonlib.dumps(document | {"all_reduce_bytes_per_second": speed}))
        else:
            Console().print(_table(found))
            print(
                f"{len(found)} ranks met at {meeting}; all-reduce of 32 MiB over {backend}: "
                f"{speed / 1e9:.2f} GB/s a rank"
            )
        for sentence in told:
            say(f"error: {sentence}")
    if told:
        raise typer.Exit(ExitCode.REFUSED)


def _store_problem(workdir: Path, joined: "Processes") -> str | None:
    """What is wrong with a work folder in a store, which each node sees in a cache of its own.

    None where no rank has one. Every rank must call.
    """
    from cadc_rec.store.remote.origin import origin_of

    origin = origin_of(workdir)
    mine = origin.address if origin is not None else "no store"
    of_all = joined.all_gather(mine)
    if set(of_all) == {"no store"}:
        return None
    if mine != of_all[0]:
        return f"belongs to {mine}, and rank 0's to {of_all[0]}"
    if origin is not None:
        try:
            origin.require_usable()
        except CadcError as error:
            return f"is the cache of a store that cannot be used ({str(error).rstrip('.')})"
    return ""


def _table(found: list["RankFound"]) -> "Table":
    """A row for each rank."""
    from rich.table import Table

    table = Table(title="cadc-rec doctor --distributed", title_justify="left")
    for column in ("rank", "host (process)", "device", "cores", "work folder", "free", "clock"):
        table.add_column(column, overflow="fold")
    for each in found:
        table.add_row(
            str(each.rank),
            each.host,
            each.device,
            str(each.cores),
            "wrong" if each.folder else "shared, writable",
            "?" if each.free_bytes is None else f"{each.free_bytes / 1e9:,.1f} GB",
            f"{each.clock:+.2f} s",
        )
    return table
