"""Bounds of the preparation's DuckDB: it spills, and says so when it cannot."""

from __future__ import annotations

import errno

import duckdb
import ibis
import pytest

from cadc_rec.data.engine import open_engine, stream
from cadc_rec.errors import CadcError
from tests.data.own_tables import text


def test_more_rows_than_memory_are_sorted_by_spilling(tmp_path):
    with open_engine(tmp_path, memory_bytes=64 << 20) as backend:
        rows = ibis.range(0, 2_000_000).unnest().name("n").as_table()
        table = backend.create_table("numbers", rows.mutate(key=(rows.n * 7919) % 2_000_003))
        batches = stream(backend, table.order_by("key"), 2**16)
        last, count = -1, 0
        for batch in batches:
            keys = batch["key"].to_numpy()
            assert keys[0] > last
            assert (keys[1:] > keys[:-1]).all()
            last, count = keys[-1], count + len(keys)
    assert count == 2_000_000


def test_a_full_disk_is_an_error_of_the_work_folder(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, open_engine(tmp_path):
        raise duckdb.IOException('Could not write file "x": No space left on device')
    assert caught.value.errno == errno.ENOSPC


def test_too_little_memory_says_what_to_do(tmp_path):
    with pytest.raises(CadcError) as caught, open_engine(tmp_path, memory_bytes=64 << 20):
        raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block")
    assert "did not fit into 64 MiB of memory with spilling" in str(caught.value)
    assert "raise data.memory, or free memory or disk, and run again" in str(caught.value)


def test_the_configuration_says_how_much_memory_and_where_to_spill(tables, tmp_path):
    with pytest.raises(CadcError, match="did not fit into 3 MiB of memory with spilling"):
        tables(content=text(), memory="3MiB")
    with open_engine(tmp_path, spill=tmp_path / "elsewhere") as backend:
        query = "SELECT current_setting('temp_directory')"
        assert backend.con.sql(query).fetchall() == [(str(tmp_path / "elsewhere"),)]
    artifact = tables(content=text(), memory="200MiB", spill=str(tmp_path / "elsewhere"))
    assert artifact.fingerprint == tables(content=text(), workdir="default").fingerprint
