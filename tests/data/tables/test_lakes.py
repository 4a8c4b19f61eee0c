"""Tables of Delta Lake and Iceberg are read by their own readers, never as plain files."""

from __future__ import annotations

import duckdb
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.engine import load_installed
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
        "iceberg": ["metadata/v1.metadata.json"],
        "hudi": [".hoodie/hoodie.properties"],
    }
    for name in [*marks[kind], "data/part-0.parquet"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
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
