"""What the commands' options are called, and how a Ctrl-C ends any of them."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadc_rec.config.methods import METHODS
from cadc_rec.errors import CadcError
from cadc_rec.log import log

if TYPE_CHECKING:
    from cadc_rec.config.experiment import Experiment

Config = Annotated[
    Path,
    typer.Argument(help="The experiment, a TOML file.", metavar="CONFIG", show_default=False),
]
Workdir = Annotated[Path, typer.Option(help="Where artifacts are kept.", metavar="DIR")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where raw archives lie; default $CADC_REC_DATA, then a download."),
]
Method = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(METHODS)}; default: the config's.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting; may be repeated.", metavar="SECTION.KEY=VALUE"),
]
Force = Annotated[bool, typer.Option("--force", help="Make it anew even when it is there.")]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Go on training from this checkpoint; default: the newest good one of this training.",
        metavar="DIR",
        show_default=False,
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Train anew under torch's profiler: a trace in the work folder, the largest costs.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

WORKDIR = Path("work")


@contextlib.contextmanager
def stopped_gently(what: str) -> Iterator[None]:
    """Within, a Ctrl-C ends the program with code 130, and says that finished `what` are kept."""
    try:
        yield
    except KeyboardInterrupt:
        log.warning("interrupted; finished %s are kept, the same command goes on from them", what)
        raise SystemExit(130) from None


def read_experiment(config: Path, method: str | None, sets: list[str] | None) -> Experiment:
    """The experiment that a command line asks for."""
    # Inside, as whatever else `--help` has no use for: building the sections takes 0.3 s.
    from cadc_rec.config.file import load_experiment

    return load_experiment(config, method=method, overrides=sets or ())


def worker_arguments(
    config: Path,
    workdir: Path,
    data_dir: Path | None,
    experiment: Experiment,
    sets: list[str] | None,
) -> list[str]:
    """The same experiment again, for a worker's command line."""
    arguments = [str(config), "--workdir", str(workdir), "--method", experiment.method]
    if data_dir is not None:
        arguments += ["--data-dir", str(data_dir)]
    for override in sets or ():
        arguments += ["--set", override]
    if "--debug" in sys.argv:
        arguments.append("--debug")
    return arguments


def filtering_ratios(text: str) -> list[float]:
    """The ratios of ``--ratios 10,20,50``.

    Raises:
        CadcError: one is no number from 1 on.
    """
    ratios = []
    for part in text.split(","):
        try:
            ratio = float(part)
        except ValueError:
            ratio = math.nan
        if not (math.isfinite(ratio) and ratio >= 1):
            raise CadcError(
                f"--ratios {text}: {part.strip()!r} is no filtering ratio; give numbers from 1 on, "
                "with commas between them."
            )
        ratios.append(ratio)
    return ratios
