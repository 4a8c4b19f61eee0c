"""What `cadc-rec update` saves and what it loses, on MovieLens 1M.

The last share of the ratings by time is the new day. For each seed: the experiment on the rest
(not counted), `update` with the day, and the experiment on everything. Prints times of all stages,
their ratio, and HR@10 of both on the same held-out items, with the paired 95% interval over users.

    python -m benchmarks.update --workdir work/update --seeds 0 1 2

What an earlier call finished is kept, so that it can be carried out in pieces (``--only base``,
``--only update``, ``--only rebuild``, for some of the seeds) and put together by a last call
without ``--only``; times are those of the run that made each artifact.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cadc_rec.config import DataConfig
from cadc_rec.data.archives import find_raw
from cadc_rec.data.engine import open_engine
from cadc_rec.data.sources.movielens import read_movielens_1m

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


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("work/update"))
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--share", type=float, default=0.01)
    arguments = parser.parse_args(argv)
    tables = arguments.workdir / "tables"
    if not tables.is_dir():
        write_tables(tables, arguments.data_dir, arguments.share)
    for name in ("base", "all"):
        write_config(Path("configs/ml-1m.toml"), tables / name, arguments.workdir / f"{name}.toml")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
