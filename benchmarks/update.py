"""What `cadc-rec update` saves and what it loses, on MovieLens 1M.

The last share of the ratings by time is the new day. For each seed, three commands in processes of
their own: `run` on the rest (not counted), `update` with the day, `run` on everything. Prints the
seconds of all stages and of the whole commands, their ratios, and HR@10 of both on the same
held-out items, with the paired 95% interval over users of the mean over the seeds.

    python -m benchmarks.update --workdir work/update --seeds 0 1 2

A command that was finished by an earlier call is not run again, so it can be done in pieces
(``--only base`` first, then the others) and put together by a last call without ``--only``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.engine import open_engine
from cadc_rec.data.sources.public_datasets import read_movielens_1m
from cadc_rec.data.sources.raw_input import find_raw
from cadc_rec.evaluation.statistics import mean_gains, paired_bootstrap
from cadc_rec.store.artifact import read_manifest
from cadc_rec.store.atomic import write_atomically

Kind = Literal["base", "update", "rebuild"]

SOURCE = 'source = "movielens-1m"'
TABLES = """source = "tables"

[data.tables.interactions]
path = "{folder}/interactions.parquet"
timestamp = "timestamp"

[data.tables.users]
path = "{folder}/users.parquet"
categorical = ["gender", "age_group", "occupation"]

[data.tables.items]
path = "{folder}/items.parquet"
title = "title"
categorical = ["decade"]
multi = ["genres"]"""


def write_tables(folder: Path, data_dir: Path | None, share: float) -> None:
    """MovieLens 1M under `folder`, as tables: ``base/``, ``day/`` (the last by time), ``all/``."""
    scratch = folder / ".scratch"
    scratch.mkdir(parents=True)
    raw = find_raw(DataConfig(source="movielens-1m"), data_dir)
    assert raw.path is not None
    with open_engine(scratch) as backend:
        tables = read_movielens_1m(backend, raw.path, scratch)
        assert tables.users is not None
        assert tables.items is not None
        rows = tables.interactions.order_by("row").select("user_id", "item_id", "timestamp")
        every = rows.to_pyarrow()
        users = tables.users.order_by("user_id").to_pyarrow().drop_columns(["zip_code"])
        items = tables.items.order_by("item_id").to_pyarrow()
    order = pc.sort_indices(every["timestamp"].combine_chunks())  # stable: ties in file order
    kept = len(order) - round(share * len(order))
    in_file_order = [
        part.take(pc.array_sort_indices(part)) for part in (order[:kept], order[kept:])
    ]
    base, day = (every.take(part) for part in in_file_order)
    for name, interactions in (("base", base), ("day", day), ("all", every)):
        (folder / name).mkdir()
        known = base if name == "day" else None  # a day brings what nobody knew
        pq.write_table(interactions, folder / name / "interactions.parquet")
        for side, table in (("user", users), ("item", items)):
            column = f"{side}_id"
            of_these = _occurring(table, interactions, column)
            if known is not None:
                of_these = of_these.filter(pc.invert(_occurs(of_these, known, column)))
            pq.write_table(of_these, folder / name / f"{side}s.parquet")


def _occurring(table: pa.Table, interactions: pa.Table, column: str) -> pa.Table:
    return table.filter(_occurs(table, interactions, column))


def _occurs(table: pa.Table, interactions: pa.Table, column: str) -> pa.ChunkedArray:
    return pc.is_in(table[column], value_set=pc.unique(interactions[column]))


def write_config(config: Path, tables: Path, out: Path) -> Path:
    """`config` with its source replaced by the tables in a folder."""
    text = config.read_text("utf-8")
    if SOURCE not in text:
        raise SystemExit(f"{config}: has no line {SOURCE}")
    out.write_text(text.replace(SOURCE, TABLES.format(folder=tables.resolve())), "utf-8")
    return out


def carry_out(kind: Kind, seed: int, workdir: Path, sets: Sequence[str]) -> dict[str, Any]:
    """What a command printed, and under ``wall`` and ``cpu`` its seconds, imports and all.

    It is taken from the file of an earlier call where there is one.
    """
    kept = workdir / "results" / f"{kind}-{seed}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text("utf-8")))
    config = workdir / ("all.toml" if kind == "rebuild" else "base.toml")
    command = ["update", str(config), "--new", str(workdir / "tables" / "day")]
    if kind != "update":
        command = ["run", str(config)]
    command += ["--workdir", str(workdir / "work"), "--set", f"seed={seed}", "--json"]
    if kind == "update":  # as a rebuild ranks all users, and the two are compared user by user
        command += ["--set", "update.users=0"]
    for override in sets:
        command += ["--set", override]
    started, before = time.perf_counter(), _cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "cadc_rec", *command], stdout=subprocess.PIPE, check=True
    )
    wall, cpu = time.perf_counter() - started, _cpu_seconds() - before
    result = {**json.loads(done.stdout), "wall": wall, "cpu": cpu}
    write_atomically(kept, json.dumps(result))
    return result


def _cpu_seconds() -> float:
    """Of all commands that ended so far; other work on the machine hardly changes it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stage_seconds(result: dict[str, Any]) -> dict[str, float]:
    """Seconds of each stage of a run or an update."""
    if "seconds" in result:
        return dict(result["seconds"])
    drift = read_manifest(Path(result["record"]))["seconds"]
    return {**result["report"]["seconds"], "drift": drift}


def ranks(result: dict[str, Any]) -> pa.Table:
    """user_id, item_id and rank of every user's test item."""
    return pq.read_table(Path(result["artifacts"]["evaluate"]) / "ranks.parquet").sort_by("user_id")


def compare(updates: list[dict[str, Any]], rebuilds: list[dict[str, Any]]) -> None:
    """Print times, ratios and accuracy of the same seeds."""
    print("seed | update s | rebuild s | ratio | of wall | of cpu | HR@10 update | HR@10 rebuild")
    gains: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"update": [], "rebuild": []}
    for number, (update, rebuild) in enumerate(zip(updates, rebuilds, strict=True)):
        mine, theirs = ranks(update), ranks(rebuild)
        if mine.select(["user_id", "item_id"]) != theirs.select(["user_id", "item_id"]):
            raise SystemExit(f"seed {number}: the two were judged on different items")
        for name, table in (("update", mine), ("rebuild", theirs)):
            gains[name].append((table["user_id"].to_numpy(), table["rank"].to_numpy()))
        seconds = [sum(stage_seconds(result).values()) for result in (update, rebuild)]
        walls, cpu = (update[kind] / rebuild[kind] for kind in ("wall", "cpu"))
        reached = [update["report"]["metrics"]["hr@10"], rebuild["metrics"]["hr@10"]]
        print(
            f"{number} | {seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[0] / seconds[1]:.1%} | "
            f"{walls:.1%} | {cpu:.1%} | {reached[0]:.2%} | {reached[1]:.2%}"
        )
        print("  update: " + ", ".join(f"{k} {v:.1f}" for k, v in stage_seconds(update).items()))
        print("  rebuild: " + ", ".join(f"{k} {v:.1f}" for k, v in stage_seconds(rebuild).items()))
    for metric in ("hr@10", "ndcg@10"):
        found = paired_bootstrap(*(mean_gains(gains[name], metric) for name in gains))
        low, high = (100 * end for end in found.interval)
        print(
            f"{metric}: update less rebuild {100 * found.difference:+.2f} points, 95% interval "
            f"{low:+.2f} to {high:+.2f}: {found.verdict}"
        )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("work/update"))
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--config", type=Path, default=Path("configs/ml-1m.toml"))
    parser.add_argument(
        "--share", type=float, default=0.01, help="share of the ratings that makes up the day"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--only", choices=get_args(Kind))
    arguments = parser.parse_args(argv)
    workdir: Path = arguments.workdir
    tables = workdir / "tables"
    if not tables.is_dir():
        draft = workdir / f".tables-{os.getpid()}"
        write_tables(draft, arguments.data_dir, arguments.share)
        draft.rename(tables)
    for name in ("base", "all"):
        write_config(arguments.config, tables / name, workdir / f"{name}.toml")
    kinds = [arguments.only] if arguments.only else get_args(Kind)
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for seed in arguments.seeds:
        for kind in kinds:
            results[kind].append(carry_out(kind, seed, workdir, arguments.set))
    if not arguments.only:
        compare(results["update"], results["rebuild"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
