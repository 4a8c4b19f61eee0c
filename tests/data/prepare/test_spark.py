"""Spark, in a real JVM, gives the bytes that DuckDB gives."""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data import streams
from cadc_rec.data.prepare import write_on_spark, write_stream
from cadc_rec.errors import CadcError
from tests.data.own_tables import arrow, ids
from tests.data.raw_files import members_1m

DATA = os.environ.get("CADC_REC_DATA")
SPARK = {"master": "local[2]", "settings": ["spark.sql.shuffle.partitions=3"]}


def a_log(rows: int = 5000) -> pa.Table:
    """Ids of text that sort otherwise as numbers or in a language's order; ties and repetitions.

    And what each request carried; values that held-out rows alone may have among it.
    """
    rng = np.random.default_rng(4)
    users = np.array([f"{'aÄzB'[n % 4]}{n}" for n in range(300)])
    items = np.array([f"{n}-ß" if n % 3 else f"{n}" for n in range(90)])
    columns = (
        users[rng.integers(0, 300, rows)],
        items[(90 * rng.random(rows) ** 2).astype(int)],
        rng.integers(0, 500, rows),
        [f"d{n}" if n else None for n in np.minimum(rng.geometric(0.1, rows) - 1, 60).tolist()],
    )
    lists = [column if isinstance(column, list) else column.tolist() for column in columns]
    return arrow(zip(*lists, strict=True), ("who", "what", "when", "device"))


@pytest.fixture
def small_parts(monkeypatch):
    """A few hundred rows to a row group, so that there are many parts and pieces of columns."""
    for module in (streams, write_stream, write_on_spark):
        monkeypatch.setattr(module, "ROW_GROUP_ROWS", 300)
    for module in (write_stream, write_on_spark):
        monkeypatch.setattr(module, "GROUPS_PER_PART", 2)


CONTEXT = {"context": ["device"]}
COLD = {"cold_items": 0.3, "items": {"path": "items.parquet", "id": "sku", "categorical": ["kind"]}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"k_core": 4, "duplicates": "last", "split": "time", "time_shares": [0.2, 0.1], **COLD},
        {"since": "20", "until": "480", "max_per_user": 12, "duplicates": "sum"},
        {"interactions": {"timestamp": "", **CONTEXT}, "k_core": 3},
        {"interactions": CONTEXT, **COLD, "cold_control": True},
    ],
    ids=["k-core and time split", "window, cap and sum", "no time", "first of pairs, cold control"],
)
def test_both_engines_give_the_same_bytes(tables, raw_folder, small_parts, options):
    log = a_log()
    pq.write_table(log, raw_folder / "log.parquet", row_group_size=700)
    sku = pc.unique(log["what"])
    kinds = pa.array([f"k{n % 5}" for n in range(len(sku))])
    pq.write_table(pa.table({"sku": sku, "kind": kinds}), raw_folder / "items.parquet")
    ours = tables("log.parquet", workdir="duckdb", **options)
    theirs = tables("log.parquet", workdir="spark", engine="spark", spark=SPARK, **options)
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.info == ours.info
    assert theirs.path.name == ours.path.name, "one key, whichever engine made it"
    assert ids(ours, "user") == sorted(ids(ours, "user"), key=str.encode)
    assert len(list((ours.path / "train").iterdir())) > 3


@pytest.mark.slow
def test_dates_and_lists_of_text_in_an_archive_are_the_same_from_both(tables, raw_folder):
    rows = [(f"{n % 9}é", f"{n % 7}", f"{n % 12 + 1}/{n % 28 + 1}/2024") for n in range(200)]
    lines = ["::".join(row) + "\n" for row in rows]
    with zipfile.ZipFile(raw_folder / "log.zip", "w") as archive:
        archive.writestr("log.dat", "".join(lines).encode("utf-16"))
        items = [f"{n}::['a', '{n % 3}']\n" for n in range(7)]
        archive.writestr("items.dat", "".join(items).encode("utf-16"))
    columns = {"columns": ["who", "what", "when"], "format": "%m/%d/%Y"}
    settings = {"delimiter": "::", "encoding": "utf-16", "interactions": columns}
    settings["items"] = {
        "path": "log.zip/items.dat",
        "columns": ["item_id", "tags"],
        "lists": ["tags"],
    }
    ours = tables("log.zip/log.dat", workdir="duckdb", **settings)
    theirs = tables("log.zip/log.dat", workdir="spark", engine="spark", spark=SPARK, **settings)
    assert ours.info["rows_read"] == 200
    assert theirs.fingerprint == ours.fingerprint


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="CADC_REC_DATA is not set")
def test_movielens_1m_is_the_same_from_both(prepare, raw_folder):
    assert DATA is not None
    (raw_folder / "ml-1m.zip").symlink_to(Path(DATA) / "ml-1m.zip")
    ours = prepare("duckdb", source="movielens-1m")
    theirs = prepare("spark", source="movielens-1m", engine="spark", spark=SPARK)
    assert ours.info["train"] + ours.info["val"] + ours.info["test"] == 1_000_209
    assert theirs.fingerprint == ours.fingerprint


def test_no_java_is_said_before_any_work(zip_1m, prepare, monkeypatch, tmp_path):
    pytest.importorskip("pyspark")
    zip_1m(members_1m())
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CadcError, match="needs Java 17 or later, and there is no java on the path"):
        prepare(engine="spark")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(CadcError, match="has no bin/java"):
        prepare(engine="spark")


@pytest.mark.slow
def test_what_spark_says_when_it_fails_is_one_sentence(zip_1m, prepare):
    zip_1m(members_1m())
    with pytest.raises(CadcError) as caught:
        prepare(engine="spark", spark={"master": "nowhere://host"})
    assert str(caught.value).startswith("Spark at nowhere://host failed (")


@pytest.mark.slow
def test_a_machine_that_would_write_other_bytes_is_named(zip_1m, prepare, monkeypatch):
    zip_1m(members_1m())
    monkeypatch.setattr(write_on_spark, "_PYARROW", "1.0")
    with pytest.raises(CadcError) as caught:
        prepare(engine="spark", spark=SPARK)
    assert str(caught.value) == (
        f"Spark at local[2]: {socket.gethostname()} has pyarrow {pa.__version__}, and parts are "
        "written by pyarrow 1.0; install that one in the Python of PYSPARK_PYTHON there."
    )


def test_engine_and_memory_are_no_part_of_the_key():
    here = DataConfig.model_validate({"source": "movielens-1m"})
    there = DataConfig.model_validate(
        {"source": "movielens-1m", "engine": "spark", "memory": "1GiB", "spill": "/tmp"}
    )
    assert here.decisive() == there.decisive()
