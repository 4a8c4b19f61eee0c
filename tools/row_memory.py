"""Host memory and CPU time of every stage on two ranks, each limited, and what a row costs.

    python -m tools.row_memory 1M 10M                  # a quarter of an hour on two cores
    python -m tools.row_memory 1M 10M 100M --limit 3GiB

A log of each size is drawn (a hundred rows a user, items by a skewed popularity, in the order of
time) and goes through all stages under torchrun, one epoch each. Each rank lies in a control group
of its own, whose limit counts its mapped pages, too: the kernel takes those back when memory is
short. Where control groups may not be made, nothing limits a rank, and one that held more of its
own than the limit is an error in the end.

Held is what is a rank's own (``RssAnon`` and ``RssShmem``), looked at every few milliseconds, with
its libraries. Seconds are the CPU's, of both ranks: others' work on the machine changes those
least. A row's cost is what the larger size takes more, over the rows it has more; growth is that of
the last two sizes over that of the first two. A finished size is kept in ``WORKDIR`` and not run
again. ``docs/scale.md`` has the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

STAGES = ("prepare", "pretrain", "transitions", "select", "train", "evaluate")
RANKS = 2
ITEMS, USER_ROWS = 20_000, 100
_CHUNK = 2**20
_EVERY = 0.02  # seconds between two looks at the memory
_GROUPS = Path("/sys/fs/cgroup")
_MINE = f"cadc-rec-row-memory-{os.getpid()}"
_CONFIG = """\
method = "cadc"

[data]
source = "tables"

[data.tables.interactions]
path = "{log}"
user = "user_id"
item = "item_id"
timestamp = "timestamp"
unit = "s"

[compute]
device = "cpu"
threads = 1

[pretrain]
epochs = 1

[transitions]
window = 1
dim = 16
iterations = 1

[history]
length = 10

[train]
epochs = 1
batch_size = 8192

[tracking]
tensorboard = false
"""


@dataclass(frozen=True)
class Stage:
    """What a stage took.

    Attributes:
        seconds: of the CPU, both ranks, with starting them.
        wall: of the stage alone, by its manifest.
        held: of each rank, bytes of its own at most.
    """

    seconds: float
    wall: float
    held: list[int]


def write_log(file: Path, rows: int) -> None:
    """Draw a log: in the order of time, the same for the same number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("user_id", "item_id", "timestamp")
    schema = pa.schema([(name, pa.int64()) for name in names])
    file.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(file.with_suffix(".part"), schema, compression="zstd") as out:
        for start in range(0, rows, _CHUNK):
            draw, n = np.random.default_rng((rows, start)), min(_CHUNK, rows - start)
            user = draw.integers(rows // USER_ROWS, size=n)
            item = (ITEMS * draw.random(n) ** 2).astype(np.int64)
            time_of = 1_600_000_000 + (start + np.arange(n)) // (1 + rows // 100_000_000)
            out.write_table(pa.table([user, item, time_of], schema=schema))
    file.with_suffix(".part").rename(file)


@contextlib.contextmanager
def control_groups(limit: int) -> Iterator[list[Path] | None]:
    """A group for each rank, limited; None where this machine lets none be made."""
    first = (_GROUPS / "memory").is_dir()  # version 1 of the kernel's interface
    root = (_GROUPS / "memory" if first else _GROUPS) / _MINE
    made: list[Path] = []
    try:
        root.mkdir()
        made.append(root)
        if not first:
            (root / "cgroup.subtree_control").write_text("+memory")
        for rank in range(RANKS):
            made.append(root / str(rank))
            made[-1].mkdir()
            (made[-1] / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
        groups: list[Path] | None = made[1:]
    except OSError:
        groups = None
    try:
        yield groups
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


class Watch:
    """Looks at the ranks' processes until it is left.

    Attributes:
        held: bytes of each rank's own at most.
    """

    def __init__(self, ranks: Path) -> None:
        self.held, self._ranks, self._ticks = [0] * RANKS, ranks, dict[str, int]()
        self._done, self._thread = threading.Event(), threading.Thread(target=self._look)

    @property
    def seconds(self) -> float:
        """Of the CPU, so far."""
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_EVERY):
            for file in self._ranks.iterdir():
                pid, rank = file.read_text() or "none", int(file.name)
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{pid}/status").read_text().splitlines()
                    own = [line for line in status if line.startswith(("RssAnon", "RssShmem"))]
                    held = sum(int(line.split()[1]) * 1024 for line in own)
                    self.held[rank] = max(self.held[rank], held)
                    after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                    self._ticks[pid] = sum(map(int, after_name[11:15]))  # its own and children's


def run_stage(stage: str, config: Path, workdir: Path, groups: list[Path] | None) -> Stage:
    """Run one stage on the ranks.

    Raises:
        RuntimeError: it failed; its output is quoted.
    """
    ranks = workdir / "ranks"
    ranks.mkdir(parents=True, exist_ok=True)
    for file in ranks.iterdir():
        file.unlink()
    launch = ("-m", "torch.distributed.run", f"--nproc_per_node={RANKS}", "--no-python")
    # Every rank tells where it is found, and goes to its group, before it becomes cadc-rec.
    rank: tuple[str, ...] = (sys.executable, "-m", "tools.row_memory", "--as-rank", str(ranks))
    rank += ("--groups", *map(str, groups)) if groups else ()
    asked = (stage, str(config), "--workdir", str(workdir), "--json")
    with Watch(ranks) as watch:
        done = subprocess.run(
            [sys.executable, *launch, *rank, "--", *asked],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
    if done.returncode:
        raise RuntimeError(f"{stage} failed, with {watch.held} held: {done.stderr[-3000:]}")
    wall = float(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])
    return Stage(watch.seconds, wall, watch.held)


def become_rank(ranks: Path, groups: Sequence[str], arguments: Sequence[str]) -> None:
    """Be a rank of cadc-rec from now on."""
    number = os.environ["LOCAL_RANK"]
    if groups:
        (Path(groups[int(number)]) / "cgroup.procs").write_text(str(os.getpid()))
    (ranks / number).write_text(str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-m", "cadc_rec", *arguments])


def planned(config: Path, workdir: Path, limit: int) -> dict[str, int]:
    """What `plan` says that a rank holds, in bytes by stage."""
    command = ["plan", str(config), "--world-size", str(RANKS), "--local-world-size", str(RANKS)]
    command += ["--device", "cpu", "--ddr", f"{limit >> 20}MiB", "--workdir", str(workdir)]
    # A rank's group is a machine to it, so the one that prepares takes half of that, not of both.
    command += ["--set", f"data.memory={limit >> 21}MiB"]
    done = subprocess.run(
        [sys.executable, "-m", "cadc_rec", *command, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return {k: int(v) for k, v in json.loads(done.stdout)["host_bytes_by_stage"].items()}


def measure(rows: int, workdir: Path, limit: int, stages: Sequence[str]) -> dict[str, Stage]:
    """Every stage of one size; kept in ``WORKDIR/ROWS.json`` as they end."""
    folder = workdir / str(rows)
    kept, log = folder / "stages.json", folder / "log" / "interactions.parquet"
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    if not log.is_file():
        write_log(log, rows)
    config = folder / "experiment.toml"
    config.write_text(_CONFIG.format(log=log), "utf-8")
    for stage in (stage for stage in stages if stage not in found):
        started = time.perf_counter()
        with control_groups(limit) as groups:
            if groups is None:
                print("no control groups may be made here: nothing limits the ranks", flush=True)
            took = run_stage(stage, config, folder, groups)
        found[stage] = asdict(took)
        kept.write_text(json.dumps(found, indent=2) + "\n")
        held = "/".join(f"{each / 2**30:.2f}" for each in took.held)
        elapsed = time.perf_counter() - started
        print(
            f"{rows:,} rows, {stage}: {held} GiB held, {took.seconds:.1f} CPU s, "
            f"{took.wall:.1f} s, {elapsed:.0f} s with starting",
            flush=True,
        )
        if max(took.held) > limit:
            raise RuntimeError(f"{stage} held {max(took.held):,} bytes, more than {limit:,}")
    return {stage: Stage(**took) for stage, took in found.items()}


def table(sizes: Sequence[int], found: Sequence[dict[str, Stage]], plan: dict[str, int]) -> str:
    """A row for each stage, as Markdown."""
    head = ["stage", *(f"{_size(n)}: s, GiB held" for n in sizes), "ns a row", "bytes a row"]
    head += ["growth", "plan, GiB", "held / plan"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for stage in found[-1]:
        each = [of_size[stage] for of_size in found]
        row = [stage, *(f"{s.seconds:,.1f}, {max(s.held) / 2**30:.2f}" for s in each)]
        more = [
            ((b.seconds - a.seconds) / (m - n), (max(b.held) - max(a.held)) / (m - n))
            for (n, a), (m, b) in pairwise(zip(sizes, each, strict=True))
        ]
        row += [f"{1e9 * more[-1][0]:,.0f}", f"{more[-1][1]:.1f}"] if more else ["", ""]
        row += [f"{more[-1][0] / more[-2][0]:.2f}"] if len(more) > 1 else [""]
        said = plan.get(stage, 0)
        row += [f"{said / 2**30:.2f}", f"{max(each[-1].held) / said:.2f}"] if said else ["", ""]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _size(rows: int) -> str:
    return f"{rows / 1e6:g}M"


def main() -> None:
    from cadc_rec.config.types import parse_memory, parse_number

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("sizes", type=parse_number, nargs="+", metavar="ROWS", help="such as 10M")
    parser.add_argument("--limit", type=parse_memory, default=parse_memory("3GiB"))
    parser.add_argument("--workdir", type=Path, default=Path("work") / "row-memory")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    asked = parser.parse_args()
    # Left by an error, `subprocess.run` ends torchrun, which ends the ranks.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sizes, workdir = sorted(int(size) for size in asked.sizes), asked.workdir.absolute()
    try:
        found = [measure(rows, workdir, asked.limit, asked.stages) for rows in sizes]
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    folder = workdir / str(sizes[-1])
    print(table(sizes, found, planned(folder / "experiment.toml", folder, asked.limit)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-rank"]:  # see `run_stage`
        own, rest = sys.argv[2 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
        become_rank(Path(own[0]), own[2:], rest)
    main()
