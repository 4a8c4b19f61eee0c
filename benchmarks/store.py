"""What a work folder in an object store costs over one on the local disk.

    python -m benchmarks.store [--config configs/ml-1m.toml] [--rounds 3] [--set KEY=VALUE ...]
    python -m benchmarks.store --out benchmarks/recorded/store.json    # and records it

Whole runs, from raw data to metrics, take turns: on the disk, and in a bucket of an S3 server on
loopback (moto's, in a process of its own, with the same disk behind it and the same cores). Out:
wall seconds and CPU seconds of each run (the server's are told beside them), the ratio of each
round, and the median. Objects that a run sent, and their bytes, show what was paid for.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recorded.files import small, with_commit, write_json

_BUCKET = "benchmark"
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Taken:
    """What one run took: wall seconds, and CPU seconds of all its processes."""

    wall: float
    cpu: float


def whole_run(config: Path, workdir: str, cache: Path, options: list[str]) -> Taken:
    """Run all stages of `config` anew."""
    command = [sys.executable, "-m", "cadc_rec", "run", str(config), "--workdir", workdir]
    command += ["--cache", str(cache), "--json", *options]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def start_server(port: int) -> subprocess.Popen[bytes]:
    """An S3 server that answers, with an empty bucket; commands of this process use it."""
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + _START_SECONDS
    plain = {"Content-Type": "text/plain"}
    while True:
        try:
            request = urllib.request.Request(f"{url}/{_BUCKET}", b"", plain, method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
            break
        except OSError:
            if time.monotonic() > end:
                server.kill()
                sys.exit(f"{url}: no server within {_START_SECONDS:.0f} s.")
            time.sleep(0.5)
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    return server


def cpu_of(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds that a running process has taken (Linux)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sent(work: str) -> tuple[int, float]:
    """How many objects a run left in its work folder, and how many MiB they have."""
    from cadc_rec.store.remote.address import Objects

    sizes = [found.size for found in Objects(work).list()]
    return len(sizes), sum(sizes) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", type=Path, default=Path("configs/ml-1m.toml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=5986)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="JSON file to write the results to")
    given = parser.parse_args()
    options = [part for override in given.set for part in ("--set", override)]
    server = start_server(given.port)
    walls, cpus = [], []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(given.rounds):
                own = Path(folder) / str(number)
                work = f"s3://{_BUCKET}/{number}"
                of_server = cpu_of(server)
                taken = {}
                order = [("disk", str(own / "work")), ("store", work)]
                for kind, workdir in order[:: 1 if number % 2 == 0 else -1]:
                    taken[kind] = whole_run(given.config, workdir, own / "cache", options)
                disk, store = taken["disk"], taken["store"]
                walls.append(store.wall / disk.wall)
                cpus.append(store.cpu / disk.cpu)
                objects, mib = sent(work)
                print(
                    f"round {number + 1}: wall {disk.wall:.1f} s on the disk, {store.wall:.1f} s "
                    f"in the store ({walls[-1]:.3f}); CPU {disk.cpu:.1f} s and {store.cpu:.1f} s "
                    f"({cpus[-1]:.3f}), the server's {cpu_of(server) - of_server:.1f} s; "
                    f"{objects} objects, {mib:.1f} MiB",
                    flush=True,
                )
    finally:
        server.kill()
    print(
        f"median of {given.rounds}: wall {statistics.median(walls):.3f}, "
        f"CPU {statistics.median(cpus):.3f}"
    )
    if given.out:
        write_json(given.out, small(with_commit(record(walls, cpus, objects, mib))))


def record(walls: list[float], cpus: list[float], objects: int, mib: float) -> dict[str, Any]:
    """What a page says of the rounds: ratios of store to disk, and what a run sent."""
    ratios = {
        name: {"median": statistics.median(of), "least": min(of), "most": max(of)}
        for name, of in (("wall", walls), ("cpu", cpus))
    }
    return {"rounds": len(walls), **ratios, "objects": objects, "mib": mib}


if __name__ == "__main__":
    main()
