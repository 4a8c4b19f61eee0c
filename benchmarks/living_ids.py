"""Ids that come and go in tables of a fixed size: memory and time of each day, and stale rows.

    python -m benchmarks.living_ids --rows 20M --days 30         # the map of ids to rows
    python -m benchmarks.living_ids --part update --rows 0.1M --days 30   # whole updates

Each day a tenth of the ids is new and a tenth is never seen again; of the others half are seen.

The map: ids are read, counted, admitted and evicted, and everything is saved and read again, as an
update does. Beside it stands a table of vectors that tell their owner. A row is stale if its vector
is another's although its generation is that of the day when the vector was written.

The updates: those of `cadc-rec update`, with matrix factorization on generated tables, one after
the other in one process. A row is stale if it changed its owner and has the pre-trained vector of
the day before.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.types import parse_number
from cadc_rec.data.ids.living import Limits, LivingIds
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import read_manifest
from cadc_rec.updates.update import carry_on

_MIB = 2**20
_EACH = 6  # interactions of a user who is seen, in the updates
_ITEMS = 10  # users for each item


def ids_of_day(rows: int, day: int, seed: int) -> NDArray[np.int64]:
    """The different ids of a day: all new ones, and half of those that are still about.

    Numbers of 64 bits in no order, a different one for each person: of person p, p times an odd
    number, modulo 2**64.
    """
    new = rows // 10
    first = day * new
    old = np.arange(first, first + rows - new)
    random = np.random.default_rng((seed, day))
    seen = old[random.random(len(old)) < 0.5] if day else old
    people = np.concatenate([seen, np.arange(first + rows - new, first + rows)])
    return (people.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)


def map_days(rows: int, days: int, limits: Limits, seed: int) -> Iterator[dict[str, Any]]:
    """What each day of the map took, from day 1; day 0 fills it."""
    empty = np.zeros(0, np.int64)
    living = LivingIds.of(pa.array(empty), empty, empty, limits)
    owner, written = np.zeros(rows, np.int64), np.full(rows, -1, np.int32)
    with tempfile.TemporaryDirectory() as folder:
        for day in range(days + 1):
            came = pa.array(ids_of_day(rows, day, seed))
            before = living.ids.to_numpy()
            began, cpu = time.perf_counter(), time.process_time()
            moves = living.take_in(came, np.full(len(came), day), limits)
            living.save(Path(folder), "user")
            again = LivingIds.open(Path(folder), "user", living.ids, limits)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            assert again is not None
            living, now = again, living.ids.to_numpy()
            kept = len(before)
            silent = (before != now[:kept]) & (written[:kept] == living.generation[:kept])
            mine = written[: len(now)] == living.generation
            stale = int(silent.sum() + (owner[: len(now)][mine] != now[mine]).sum())
            # The newcomers' vectors are written; theirs alone.
            fresh = np.flatnonzero(~mine)
            owner[fresh], written[fresh] = now[fresh], living.generation[fresh]
            saved = _bytes(Path(folder))
            if day:
                yield {
                    "day": day,
                    "seen": len(came),
                    "admitted": len(moves.newcomers),
                    "evicted": len(moves.reused),
                    "rows": len(now),
                    "map_mib": living.nbytes / _MIB,
                    "saved_mib": saved / _MIB,
                    "seconds": seconds,
                    "cpu": cpu,
                    "rss_mib": _resident(),
                    "stale": stale,
                }


def _resident() -> float:
    """The process's memory now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def write_day(folder: Path, rows: int, day: int, seed: int) -> None:
    """A day's interactions, of users as in `ids_of_day`; items come and go alike."""
    users = ids_of_day(rows, day, seed)
    items = ids_of_day(max(rows // _ITEMS, 50), day, seed + 1)
    random = np.random.default_rng((seed, day, 2))
    # Earlier items are taken more often, as in most logs.
    drawn = (len(items) * random.random((len(users), _EACH)) ** 2).astype(np.int64)
    times = day * 86_400 + random.integers(0, 86_400, drawn.size)
    folder.mkdir(parents=True, exist_ok=True)
    table = {
        "user_id": np.repeat(users, _EACH),
        "item_id": items[drawn].reshape(-1),
        "at": times + 1_700_000_000,
    }
    pq.write_table(pa.table(table), folder / "interactions.parquet")


def update_days(
    workdir: Path, rows: int, days: int, seed: int, epochs: int
) -> Iterator[dict[str, Any]]:
    """What each update took, and whether any vector is another's."""
    write_day(workdir / "base", rows, 0, seed)
    experiment = Experiment.model_validate(
        {
            "data": {
                "source": "tables",
                "tables": {
                    "interactions": {
                        "path": str((workdir / "base" / "interactions.parquet").resolve()),
                        "timestamp": "at",
                    }
                },
                "ids": {"user_rows": rows, "item_rows": max(rows // _ITEMS, 50)},
            },
            "pretrain": {"model": "mf", "epochs": epochs, "factors": 15},
            "model": {"kind": "tables"},
            "update": {"epochs": epochs},
            "compute": {"device": "cpu", "threads": 2},
            "tracking": {"tensorboard": False},
        }
    )
    work = workdir / "work"
    made = Pipeline(experiment, work).run()
    before = _state(made["prepare"].path, made["pretrain"].path)
    for day in range(1, days + 1):
        folder = workdir / f"day-{day:03d}"
        write_day(folder, rows, day, seed)
        began, cpu = time.perf_counter(), time.process_time()
        update = carry_on(experiment, work, folder).update
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        assert update is not None
        places = {stage: work / place for stage, place in update.artifacts.items()}
        after = _state(places["prepare"], places["pretrain"])
        counts = update.report["day"]
        yield {
            "day": day,
            "interactions": counts["interactions"],
            "admitted": counts["new_users"],
            "evicted": counts["evicted_users"],
            "rows": len(after["user"][0]),
            "d_full": read_manifest(places["prepare"])["info"]["train"],
            "saved_mib": sum(_bytes(place) for place in places.values()) / _MIB,
            "seconds": seconds,
            "cpu": cpu,
            "rss_mib": _resident(),
            "stale": _stale(before, after),
        }
        before = after


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


State = dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]


def _state(prepared: Path, pretrained: Path) -> State:
    """Ids and vectors of each side, by row."""
    found = {}
    for side in ("user", "item"):
        ids = pq.read_table(prepared / f"{side}s.parquet", columns=[f"{side}_id"])
        vectors = load_file(pretrained / f"{side}.safetensors")["weight"]
        found[side] = ids[f"{side}_id"].to_numpy(), vectors
    return found


def _stale(before: State, after: State) -> int:
    """Rows that changed their owner and still have the vector of the day before."""
    stale = 0
    for (was, old), (now, new) in zip(before.values(), after.values(), strict=True):
        n = len(was)
        stale += int(((now[:n] != was) & (new[:n] == old).all(1)).sum())
    return stale


def _size(text: str) -> int:
    return int(parse_number(text))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["map", "update"], default="map")
    parser.add_argument("--rows", type=_size, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--eviction", choices=["lru", "lfu"], default="lru")
    parser.add_argument("--sketch", type=_size, default=0, help="counters a line; 0: exact")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, default=Path("work/living-ids"))
    asked = parser.parse_args(arguments)
    if asked.part == "map":
        limits = Limits(asked.rows, eviction=asked.eviction, sketch=asked.sketch)
        days = map_days(asked.rows, asked.days, limits, asked.seed)
    else:
        days = update_days(asked.workdir, asked.rows, asked.days, asked.seed, asked.epochs)
    head = False
    for row in days:
        if not head:
            print(" ".join(f"{name:>12}" for name in row), flush=True)
            head = True
        cells = (f"{v:>12,.1f}" if isinstance(v, float) else f"{v:>12,}" for v in row.values())
        print(" ".join(cells), flush=True)


if __name__ == "__main__":
    main()
