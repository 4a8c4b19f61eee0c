"""What the commands share: their options, how Ctrl-C ends them, which process prints."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from cadc_rec.config.methods import METHODS
from cadc_rec.errors import CadcError, ExitCode
from cadc_rec.log import log

Config = Annotated[
    Path,
    typer.Argument(help="The experiment's TOML file.", metavar="CONFIG", show_default=False),
]


def _work_folder(named: str) -> Path:
    """The local folder of what ``--workdir`` names, after ``--cache`` was read."""
    from cadc_rec.store.remote.origin import work_folder

    return work_folder(named)


def _keep_cache(named: Path | None) -> Path | None:
    """Tell the store's room, and processes that are started, where the cache is."""
    if named is not None:
        os.environ["CADC_REC_CACHE"] = str(named.absolute())
    return named


Workdir = Annotated[
    Path,
    typer.Option(
        help="Folder that keeps the results of all stages, or its address in a store, such as "
        "s3://BUCKET/FOLDER.",
        metavar="DIR",
        parser=_work_folder,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Local folder for what is in use of a store. Default: $CADC_REC_CACHE, else in the "
        "user's cache.",
        metavar="DIR",
        callback=_keep_cache,
        is_eager=True,  # before --workdir is read
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the raw data, or its address. Default: $CADC_REC_DATA, else a download."
    ),
]
Method = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(METHODS)}. Default: the config's.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting. May be repeated.", metavar="SECTION.KEY=VALUE"),
]
Update = Annotated[
    str,
    typer.Option(
        "--update",
        help="Which update to take: its number, or none for the run itself; default: the newest.",
        metavar="N|none",
        show_default=False,
    ),
]
NoWait = Annotated[
    bool,
    typer.Option(
        "--no-wait", help="Do not wait for another job that makes the same artifact; refuse."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Make the result again even if it exists.")]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Resume training from this checkpoint, a folder or an address. Default: the newest "
        "complete one.",
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
NEWEST = "newest"


def wanted_update(text: str) -> int | Literal["newest"]:
    """What ``--update`` asks for; 0 is the run itself.

    Raises:
        CadcError: it is neither a number nor a word of its own.
    """
    if text == NEWEST:
        return "newest"
    if text == "none":
        return 0
    if not (text.isascii() and text.isdigit() and int(text)):
        raise CadcError(f"--update {text}: give a number from 1 on, or none for the run itself.")
    return int(text)


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
