"""What `cadc-rec follow` holds of memory, batch after batch, in the one process that it is.

Files of pairs that are drawn at random lie in a folder; `follow` takes each as a batch, makes its
update, a bundle and a delta. Prints of every batch the seconds of its update, and the memory of the
process when it was done (resident, MiB).

    cadc-rec run configs/demo.toml --workdir work/demo
    python -m benchmarks.following --workdir work/demo --batches 40
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def write_files(inbox: Path, workdir: Path, batches: int, rows: int) -> None:
    """A file of pairs of known users and items for each batch, later ones with later times."""
    prepared = max((workdir / "prepare").glob("*/users.parquet")).parent
    users, items = (
        pq.read_table(prepared / f"{side}s.parquet")[f"{side}_id"].to_pylist()
        for side in ("user", "item")
    )
    draw = np.random.default_rng(0)
    inbox.mkdir()
    for batch in range(batches):
        lines = ["user_id,item_id,timestamp"]
        lines += [
            f"{users[draw.integers(len(users))]},{items[draw.integers(len(items))]},"
            f"{2_000_000_000 + batch * rows + row}"
            for row in range(rows)
        ]
        (inbox / f"{batch:06d}.csv").write_text("\n".join(lines) + "\n", "utf-8")


def resident(process: int) -> float:
    """MiB of memory that a process holds."""
    lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    found = next(line for line in lines if line.startswith("VmRSS"))
    return int(found.split()[1]) / 1024


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/demo.toml"))
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args(argv)
    inbox = arguments.workdir.with_name(arguments.workdir.name + "-inbox")
    bundles = arguments.workdir.with_name(arguments.workdir.name + "-bundles")
    write_files(inbox, arguments.workdir, arguments.batches, arguments.rows)
    command = ["follow", str(arguments.config), "--workdir", str(arguments.workdir)]
    command += ["--from", str(inbox), "--export", str(bundles), "--keep", "2", "--once", "--json"]
    for override in arguments.set:
        command += ["--set", override]
    with subprocess.Popen(
        [sys.executable, "-m", "cadc_rec", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told, held = json.loads(line), resident(process.pid)
            print(f"batch {told['batch']:3}: {told['seconds']:5.1f} s, {held:6.0f} MiB", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
