"""A running service of a tiny bundle. Needs the environment of `make install-serve`."""

import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import zygote

ROOT = Path(__file__).parents[3]
KEY = "a key of the tests, not of the world"
collect_ignore_glob = [] if find_spec("kserve") else ["test_*.py"]


def run_command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "cadc_rec", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def bundles(tiny, spawn, once):
    """Two bundles of the tiny world, of different seeds."""

    def make(folder):
        made = [folder / f"seed-{seed}" for seed in (0, 1)]
        for seed, out in enumerate(made):
            options = ("--workdir", folder / "work", "--set", f"seed={seed}")
            for command in (("run", tiny), ("export", tiny, "--out", out)):
                process = spawn(*command, *options)
                assert process.wait(300) == 0, process.said
        return made

    return [Path(path) for path in once("bundles", make)]


class Service:
    """A service in a process of its own: a fork, or (`real`) the command as a person types it,
    `under` another one.

    Attributes:
        http, grpc: the ports.
        pid: of the process.
    """

    def __init__(self, folder, bundle, *arguments, key=None, real=False, under=()):
        ports = ("--http-port", "0", "--grpc-port", "0")
        command = ["serve", str(bundle), *ports, *map(str, arguments)]
        environment = zygote.environment()
        environment |= {"CADC_REC_API_KEY": key or "", "CADC_REC_VERIFY_KEY": ""}
        if real:
            self.log = folder / "stderr"
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "cadc_rec", *command],
                cwd=ROOT,
                env=environment,
                stdout=(folder / "stdout").open("w"),
                stderr=self.log.open("w"),
            )
        else:
            self.process = zygote.start(command, environment)
            self.log = self.process.folder / "stderr"
        self.pid = self.process.pid
        ports = self.said(r"https?://127\.0\.0\.1:(\d+), grpc://127\.0\.0\.1:(\d+)")
        self.http, self.grpc = int(ports[1]), int(ports[2])

    def said(self, pattern, seconds=120):
        """Waits until the log says so."""
        for _ in range(int(seconds * 20)):
            if found := re.search(pattern, self.log.read_text()):
                return found
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"not in {seconds} s: {pattern}\n{self.log.read_text()}")

    def stop(self):
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture
def start(tmp_path):
    """Starts services, and stops them at the end."""
    started = []

    def one(bundle, *arguments, **options):
        folder = tmp_path / f"service-{len(started)}"
        folder.mkdir()
        started.append(Service(folder, bundle, *arguments, **options))
        return started[-1]

    yield one
    for service in started:
        service.stop()


@pytest.fixture(scope="module")
def service(bundles, tmp_path_factory):
    """One that every test of a module may ask, without a key."""
    running = Service(tmp_path_factory.mktemp("service"), bundles[0])
    yield running
    assert running.stop() == 0
    assert "defect" not in running.log.read_text()


@pytest.fixture(scope="session")
def expected(bundles):
    """What the first bundle's vectors say, by float64 products and a sort."""
    import numpy as np
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    path = bundles[0]
    users = load_file(path / "vectors/users.safetensors")["vectors"].astype(np.float64)
    items = load_file(path / "vectors/items.safetensors")["vectors"].astype(np.float64)
    known = load_file(path / "known.safetensors")
    scores = users @ items.T
    for user in range(len(users)):
        scores[user, known["items"][known["indptr"][user] : known["indptr"][user + 1]]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    item_ids = pq.read_table(path / "items.parquet")["item_id"].to_numpy()
    return SimpleNamespace(
        user_ids=pq.read_table(path / "users.parquet")["user_id"].to_numpy(),
        item_ids=item_ids,
        ranked=item_ids[order],
        scores=np.take_along_axis(scores, order, 1),
        known=[
            item_ids[known["items"][a:b]]
            for a, b in zip(known["indptr"][:-1], known["indptr"][1:], strict=True)
        ],
        popular=item_ids[np.argsort(-known["popularity"], kind="stable")],
    )
