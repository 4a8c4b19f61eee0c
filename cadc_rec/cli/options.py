"""What the commands share: their options, how Ctrl-C ends them, which process prints."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cadc_rec.config.methods import METHODS
from cadc_rec.errors import ExitCode
from cadc_rec.log import log

Config = Annotated[
    Path,
    typer.Argument(help="The experiment's TOML file.", metavar="CONFIG", show_default=False),
]
Workdir = Annotated[
    Path, typer.Option(help="Folder that keeps the results of all stages.", metavar="DIR")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the raw data. Default: $CADC_REC_DATA, else a download."),
]
Method = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(METHODS)}. Default: the config's.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting. May be repeated.", metavar="SECTION.KEY=VALUE"),
]
Force = Annotated[bool, typer.Option("--force", help="Make the result again even if it exists.")]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Resume training from this checkpoint. Default: the newest complete one.",
        metavar="DIR",
        show_default=False,
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Train again under torch's profiler; writes a trace and prints the largest costs.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

WORKDIR = Path("work")


@contextlib.contextmanager
def stopped_gently(what: str) -> Iterator[None]:
    """Inside this context, Ctrl-C ends the program with a line that finished `what` are kept."""
    try:
        yield
    except KeyboardInterrupt:
        log.warning(
            "interrupted; finished %s are kept, and the same command continues from them", what
        )
        raise SystemExit(ExitCode.INTERRUPTED) from None


def is_speaker() -> bool:
    """Whether this process prints the result: the one a person started, or rank 0 of a launch."""
    from cadc_rec.distributed.launch import is_local_worker

    launched = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return not launched or (os.environ.get("RANK") == "0" and not is_local_worker())
