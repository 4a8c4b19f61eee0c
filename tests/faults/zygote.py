"""Starts ``cadc-rec`` many times for the price of one import.

In: JSON lines on standard input, ``{"run": ARGUMENTS, "environment": {}, "output": FOLDER}`` or
``{"poll": PID}``. Out: one JSON line each, the process id, or how it ended (null while it runs).

Loading torch, TorchRec and fbgemm takes seven seconds of a core; a run of the tests' world takes
one. This process loads them, and nothing else: it starts no thread, opens no file, joins no group.
Each run is a fork of it that calls the very entry point of the command, and is a process like any
other: killed, it loses what the command would lose.
"""

import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

MODULES = (
    "duckdb",
    "ibis",
    "cadc_rec.cli.main",
    "cadc_rec.data.engine",
    "cadc_rec.data.prepare.build_dataset",
    "cadc_rec.data.select.build_selection",
    "cadc_rec.pipeline.stages.pretrain",
    "cadc_rec.pipeline.stages.transitions",
    "cadc_rec.pipeline.stages.train",
    "cadc_rec.pipeline.stages.evaluate",
    "cadc_rec.tracking.runs",
    "cadc_rec.tracking.event_file",
)


def run(arguments: list[str], environment: dict[str, str], output: str) -> int:
    """Fork a process that is the command; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(Path(output) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, number)
        os.environ.update(environment)
        sys.argv = ["cadc-rec", *arguments]
        from cadc_rec.cli.main import main

        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def poll(child: int) -> int | None:
    """Its exit code, the negative number of the signal that ended it, or None."""
    ended, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    assert threading.active_count() == 1  # a fork would leave the others behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps("ready"), flush=True)
    children = set()
    for line in sys.stdin:
        asked = json.loads(line)
        if "run" in asked:
            answer: int | None = run(asked["run"], asked["environment"], asked["output"])
            children.add(answer)
        else:
            answer = poll(asked["poll"])
            if answer is not None:
                children.discard(asked["poll"])
        print(json.dumps(answer), flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)
