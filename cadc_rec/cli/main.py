"""The command line: each command parses, calls the rooms, prints.

Results go to standard output; progress, warnings and errors to standard error. The exit codes are
those of `cadc_rec.errors.ExitCode`.

Commands import what they need inside their functions, so that ``--help`` loads nothing but this
folder. For the same reason its files do not postpone annotations: typer would compile each of them.
"""

import os
import sys
import time
from typing import Annotated

import typer

from cadc_rec import __version__
from cadc_rec.cli import (
    delta,
    doctor,
    embed,
    export,
    follow,
    inspect,
    plan,
    run,
    serve,
    stages,
    study,
    tune,
    update,
)
from cadc_rec.cli.output import StandardOutput, say
from cadc_rec.distributed.launch import end_with_parent, is_child, is_local_worker
from cadc_rec.errors import (
    CadcError,
    DefectError,
    ExitCode,
    SpokenError,
    leave_failure,
    name_without_text,
    tell_launcher,
)
from cadc_rec.log import console, keep_interrupts, set_up_logging
from cadc_rec.versions import missing_cuda_library

app = typer.Typer(
    help="Train two-tower recommenders on a small sample of the interactions (CADC).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_ROOMS = (run, stages, inspect, tune, update, follow, plan, study, serve, export, delta, embed)
for room in (*_ROOMS, doctor):
    room.register(app)

_RANK_0_FIRST_SECONDS = 10.0  # an interpreter full of libraries takes seconds to end


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of ``cadc-rec`` and ``python -m cadc_rec``."""
    debug = "--debug" in sys.argv
    set_up_logging(debug=debug)
    keep_interrupts()
    if is_child():
        end_with_parent()
    output = StandardOutput()
    code: int | str | None = ExitCode.DONE
    try:
        _require_text(sys.argv[1:])
        app()
    except SystemExit as ended:  # of usage errors and --help, with typer's own text
        code = ended.code
    except Exception as error:
        code = output.finish() or _report(missing_cuda_library(error) or error, debug)
    sys.exit(output.finish() or code)


def _report(error: Exception, debug: bool) -> ExitCode:
    """Print what went wrong, once: here, or in the process that started this one."""
    if debug:
        console().print_exception()
    if isinstance(error, CadcError):
        text, code = f"error: {error}", ExitCode.REFUSED
    elif isinstance(error, UnicodeEncodeError):
        encoding = sys.getfilesystemencoding()
        text = f"error: {error.object!r:.200}: {encoding} has no such letters; set LC_ALL=C.UTF-8."
        code = ExitCode.REFUSED
    else:
        what = error if isinstance(error, DefectError) else f"{type(error).__name__}: {error}"
        text, code = f"unexpected error: {what}", ExitCode.DEFECT
        text += "\nThis is a defect of cadc-rec; --debug shows where."
    tell_launcher(error, text)
    alone_refused = isinstance(error, CadcError) and not isinstance(error, SpokenError)
    if os.environ.get("RANK", "0") != "0" and alone_refused:
        # Refused before the ranks met: most likely rank 0 says the same, and its launcher ends this
        # process now. If not, this process says it.
        time.sleep(_RANK_0_FIRST_SECONDS)
    if not (leave_failure(error) and is_local_worker()):  # else the parent prints it
        say(text)
    if isinstance(error, SpokenError):
        error.said()
    return code


def _require_text(arguments: list[str]) -> None:
    """Refuse arguments that are no text in the encoding of this locale.

    Raises:
        CadcError: names the first.
    """
    for argument in arguments:
        if refused := name_without_text(argument):
            raise CadcError(refused)


if __name__ == "__main__":
    main()
