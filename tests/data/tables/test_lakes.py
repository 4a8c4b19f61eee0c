"""Tables of Delta Lake and Iceberg are read by their own readers, never as plain files."""

from __future__ import annotations

import gzip

import duckdb
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.engine import load_installed
from cadc_rec.data.tables.lakes import lake_kind
from tests.data.own_tables import (
    ROWS,
    arrow,
    ids,
    refusal,
)


def lake(folder, kind: str) -> None:
    """A table's folder whose Parquet file also holds a row that its log has removed."""
    marks = {
        "delta": ["_delta_log/00000000000000000000.json"],
        "iceberg": ["metadata/v1.metadata.json", "metadata/snap-1.avro"],
        "hudi": [".hoodie/hoodie.properties"],
    }
    for name in [*marks[kind], "data/part-0.parquet"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"format-version": 2}')
    pq.write_table(arrow([*ROWS, ("Removed", "x", 1)]), folder / "data/part-0.parquet")


@pytest.mark.parametrize("kind", ["delta", "iceberg", "hudi"])
def test_a_lake_is_never_read_as_plain_files(kind, tables, raw_folder, monkeypatch):
    monkeypatch.setattr("cadc_rec.data.engine.load_installed", lambda *_: False)
    lake(raw_folder / "log", kind)
    for path in ("log", "log/data", "log/data/*.parquet", "log/**/*.parquet"):
        message = refusal(tables, path)
        assert message.startswith(f"{raw_folder}/log: is a"), message
        assert {"delta": "Delta", "iceberg": "Iceberg", "hudi": "Hudi"}[kind] in message
    assert "plain Parquet files" in refusal(tables, "log")


@pytest.mark.parametrize(
    "there",
    [
        {"run.metadata.json": "{}"},
        {"run.metadata.json": '{"format-version": 2}'},
        {"run.metadata.json": "[]", "notes.avro": ""},
        {"notes.avro": ""},
    ],
)
def test_a_folder_of_metadata_alone_makes_no_iceberg_table(there, raw_folder):
    (raw_folder / "metadata").mkdir()
    for name, content in there.items():
        (raw_folder / "metadata" / name).write_text(content)
    assert lake_kind(raw_folder) is None


@pytest.mark.parametrize(
    "data",
    [gzip.compress(b'{"format-version": 1}', mtime=0), b"cut", b"\x1f\x8bcut"],
    ids=["compressed", "text", "cut"],  # the same names in every worker: gzip writes the time
)
def test_compressed_and_damaged_metadata_are_icebergs(data, raw_folder):
    (raw_folder / "metadata").mkdir()
    (raw_folder / "metadata/00000-a.gz.metadata.json").write_bytes(data)
    (raw_folder / "metadata/snap-1.avro").write_bytes(b"Obj")
    assert lake_kind(raw_folder) == "iceberg"


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_lakes_rows_are_those_its_reader_gives(kind, tables, raw_folder, monkeypatch):
    """A macro stands for the reader of an extension that cannot be had for every DuckDB."""

    def install(connection, _):
        rows = raw_folder / "log/data/part-0.parquet"
        connection.execute(
            f"CREATE OR REPLACE TEMP MACRO {kind}_scan(folder) AS TABLE "
            f"SELECT * FROM '{rows}' WHERE who != 'Removed' AND folder LIKE '%/log'"
        )
        return True

    monkeypatch.setattr("cadc_rec.data.engine.load_installed", install)
    lake(raw_folder / "log", kind)
    artifact = tables("log")
    assert ids(artifact, "user") == ["Ana", "Bo"]
    assert artifact.info["rows_read"] == 6


@pytest.mark.slow
def test_a_real_delta_table_where_the_extension_is_at_hand(tables, raw_folder):
    deltalake = pytest.importorskip("deltalake")
    with duckdb.connect() as connection:
        if not load_installed(connection, "delta"):
            pytest.skip("no extension of this DuckDB: pip install duckdb-extension-delta")
    deltalake.write_deltalake(str(raw_folder / "log"), arrow([*ROWS, ("Removed", "x", 1)]))
    deltalake.DeltaTable(str(raw_folder / "log")).delete("who = 'Removed'")
    artifact = tables("log")
    assert ids(artifact, "user") == ["Ana", "Bo"]
    assert artifact.info["rows_read"] == 6
