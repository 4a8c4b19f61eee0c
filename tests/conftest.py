"""What tests of the whole program share: a tiny world, and ways to run the command on it."""

import gc
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from tests import schedule, zygote
from tests.share import LISTS, share

PARENT = pytest.StashKey[zygote.Server]()
# 60 users with at least three interactions each: 900 - 2 * 60 = 780 of them train.
TINY = """
seed = 0
method = "cadc"

[data.generated]
users = 60
items = 40
interactions = 900

[pretrain]
epochs = 3
factors = 15

[select]
shards = 2

[model]
id_dim = 16
feature_dim = 4
tower = [16, 8]

[train]
epochs = 2
batch_size = 64

[compute]
device = "cpu"
threads = 1
"""


def pytest_configure(config):
    """One parent of all processes, for all workers of a session; one thread for each of these."""
    # numba's loops are compiled once for all of them, and for the sessions to come.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(zygote.ROOT / "work" / "numba"))
    if not Path("/dev/nvidiactl").exists():  # a CUDA build of torch may import Triton before a test
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # nobody has loaded torch yet
    else:
        config.stash[PARENT] = zygote.Server()


def pytest_report_header():
    """Which part of the long lists runs, where it is not all."""
    return [f"{name}: {share(name)}" for name in LISTS if not share(name).whole]


def pytest_unconfigure(config):
    """End it."""
    if PARENT in config.stash:
        config.stash[PARENT].close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Deal the tests to workers by files."""
    return schedule.ByFile(config, log)


def pytest_collection_modifyitems(items):
    """What takes long comes first, so that the workers end together."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: schedule.place(item.nodeid))


def pytest_collection_finish():
    """The libraries that are loaded by now are no garbage to look for again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def our_logger_as_found():
    """Our logger as a fresh process has it, whatever the tests before in this worker did to it."""
    log = logging.getLogger("cadc_rec")
    log.handlers[:], log.propagate, log.disabled = [], True, False
    log.setLevel(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)  # a command quietens the root, too


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A configuration whose five stages take about a second, imports aside."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory):
    """The same world with all of a recipe's tables as vectors, and its towers kept as trained."""
    path = tmp_path_factory.mktemp("config") / "recipe.toml"
    more = "[history]\nwindows = [1, 3]\n[methods.recipe]\nhistory.length = 4\n"
    text = TINY.replace('method = "cadc"', 'method = "recipe"').replace("epochs = 3\n", "")
    more += 'transitions.form = "factors"\nprior.fit = "none"\nmodel.keep = "towers"\n'
    path.write_text(text + more)
    return path


@pytest.fixture(scope="session")
def spawn():
    """Start ``cadc-rec`` in a process of its own: a fork of one that has loaded its libraries."""

    started = []

    def start(*arguments, **environ):
        started.append(zygote.start(arguments, zygote.environment() | environ))
        return started[-1]

    yield start
    for process in started:  # one that a failed test left would train on for hours
        process.kill()


@pytest.fixture(scope="session")
def spawn_command():
    """Start ``cadc-rec`` as a user does, libraries and all."""

    started = []

    def start(*arguments, **environ):
        process = subprocess.Popen(
            [sys.executable, "-m", "cadc_rec", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=zygote.environment() | environ,
            # A shell starts its background jobs deaf to Ctrl-C, and so would this test's.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def forked_python(monkeypatch):
    """What this process starts as ``cadc-rec`` (local workers, cells of a study) is forks."""
    monkeypatch.setattr(sys, "executable", str(zygote.FORKED_PYTHON))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make): what `make(folder)` gives, made by the first worker of pytest to ask.

    It comes back as JSON gives it, paths as strings.
    """

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers

    def get(name, make):
        kept = root / f"{name}.json"
        with FileLock(root / f"{name}.lock"):
            if not kept.exists():
                shutil.rmtree(root / name, ignore_errors=True)  # of one that failed
                (root / name).mkdir()
                kept.write_text(json.dumps(make(root / name), default=str))
        return json.loads(kept.read_text())

    return get


def undisturbed(config, spawn, workdir):
    """One ``run --json`` to the end: its work folder, output, result and seconds."""
    begun = time.monotonic()
    process = spawn("run", config, "--workdir", workdir, "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    seconds = time.monotonic() - begun
    return {
        "workdir": workdir,
        "out": out,
        "err": err,
        "result": json.loads(out),
        "seconds": seconds,
    }


def namespace(run):
    """What `undisturbed` gave."""
    return SimpleNamespace(**run | {"workdir": Path(run["workdir"])})


@pytest.fixture(scope="session")
def finished(tiny, spawn_command, once):
    """An undisturbed run of `tiny`, by the real command (its work folder is read only!)."""
    return namespace(
        once("finished", lambda folder: undisturbed(tiny, spawn_command, folder / "work"))
    )


@pytest.fixture(scope="session")
def finished_recipe(tiny_recipe, spawn, once):
    """An undisturbed run of `tiny_recipe` (its work folder is read only!)."""
    return namespace(
        once("finished-recipe", lambda folder: undisturbed(tiny_recipe, spawn, folder / "work"))
    )


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run ``cadc-rec`` in this process: exit code, standard output and standard error."""
    from cadc_rec.cli.main import main
    from cadc_rec.log import _TALKATIVE

    log = logging.getLogger("cadc_rec")
    before = log.handlers[:], log.propagate
    levels = {name: logging.getLogger(name).level for name in ("cadc_rec", *_TALKATIVE)}
    monkeypatch.delenv("CADC_REC_DATA", raising=False)

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["cadc-rec", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            log.handlers[:], log.propagate = before
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err)

    return run


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of the given size in memory; skips where mounting is not permitted."""
    mounted = []

    def mount(options):
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={options}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small disk is not permitted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        # lazily: what failed halfway may hold a file open until it is collected
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def dies_at():
    """A function that runs an action in a child which is killed at a file operation of it."""

    def dies_at(moment, action):
        """Run `action` in a child killed just before its file operation number `moment`.

        Returns:
            Whether it was killed; False means that it came to its end first.
        """
        child = os.fork()
        if child == 0:
            seen = itertools.count()

            def hook(event, _):
                if event.startswith(("open", "os.", "shutil.", "fcntl.")) and next(seen) == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            try:
                action()
                os._exit(0)
            except BaseException:
                os._exit(3)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return True
        assert os.WEXITSTATUS(status) == 0
        return False

    return dies_at


@pytest.fixture
def hears_ctrl_c():
    """A shell starts its background jobs deaf to Ctrl-C, and a test run may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def three_threads():
    """torch has three threads, whatever the machine; then as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
