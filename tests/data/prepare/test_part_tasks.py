"""A cluster's tasks write the bytes of a stream, from files cut anywhere, without the package."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data import streams
from cadc_rec.data.prepare import part_tasks
from cadc_rec.data.prepare.part_tasks import Array, SortedRows, WriteColumn, WritePart
from cadc_rec.data.streams import rechunk, write_blocks, write_parquet, write_parts

ROWS, GROUP, GROUPS = 1000, 70, 3


@pytest.fixture
def rows() -> pa.Table:
    rng = np.random.default_rng(2)
    return pa.table(
        {
            "user": np.sort(rng.integers(0, 90, ROWS)).astype(np.int32),
            "item": rng.integers(0, 30, ROWS).astype(np.int32),
            "timestamp": rng.integers(10**9, 2 * 10**9, ROWS),
            "weight": rng.random(ROWS).astype(np.float32),
            "context_device": rng.integers(0, 4, ROWS).astype(np.int32),
        }
    )


@pytest.fixture
def in_files(rows, tmp_path) -> SortedRows:
    """The rows in files of several row groups; two files are empty."""
    cuts, files = [0, 0, 333, 340, 340, 901, ROWS], []
    for number, (first, last) in enumerate(pairwise(cuts)):
        files.append(str(tmp_path / f"sorted-{number}.parquet"))
        pq.write_table(rows.slice(first, last - first), files[-1], row_group_size=60)
    return SortedRows(files, cuts)


def array(path, kind, rows=ROWS) -> Array:
    """A column whose header NumPy wrote."""
    np.save(path, np.zeros(rows, kind))
    return Array(str(path), kind, path.stat().st_size - rows * np.dtype(kind).itemsize)


def a_task(in_files, schema, folder) -> WritePart:
    for name in ("train", "scratch"):
        (folder / name).mkdir()
    kinds = {"user": "<i4", "item": "<i4", "weight": "<f4", "timestamp": "<f8"}
    return WritePart(
        rows=in_files,
        schema=schema,
        codes={"context_device": np.array([0, 3, 1, 2], np.int32)},
        columns={name: array(folder / f"{name}.npy", kind) for name, kind in kinds.items()},
        per_second=1000,
        folder=str(folder / "train"),
        scratch=str(folder / "scratch"),
        group_rows=GROUP,
        groups=GROUPS,
        pyarrow=pa.__version__,
    )


@pytest.mark.parametrize(
    ("first", "last"), [(0, ROWS), (0, 1), (332, 341), (345, 900), (999, ROWS)]
)
def test_any_run_of_rows_is_read_across_files_and_row_groups(first, last, rows, in_files):
    found = pa.Table.from_batches(in_files.batches(first, last))
    assert found.equals(rows.slice(first, last - first))


def test_tasks_in_any_order_and_twice_write_what_a_stream_writes(rows, in_files, tmp_path):
    coded = np.array([0, 3, 1, 2], np.int32)[rows["context_device"].to_numpy()]
    expected = rows.set_column(4, "context_device", pa.array(coded))
    groups = rechunk(expected.to_batches(max_chunksize=111), GROUP)
    assert write_parts(tmp_path / "stream", rows.schema, groups, GROUPS) == 5

    task = a_task(in_files, rows.schema, tmp_path)
    for part in (4, 1, 0, 3, 1, 2):
        task(part)
    assert not any((tmp_path / "scratch").iterdir())
    files = sorted((tmp_path / "stream").iterdir())
    assert [file.name for file in files] == sorted(p.name for p in (tmp_path / "train").iterdir())
    for file in files:
        assert file.read_bytes() == (tmp_path / "train" / file.name).read_bytes()
    for name in ("user", "item", "weight"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), rows[name].to_numpy())
    seconds = rows["timestamp"].to_numpy() / 1000
    np.testing.assert_array_equal(np.load(tmp_path / "timestamp.npy"), seconds)


def test_pieces_of_a_column_make_the_column(rows, in_files, tmp_path):
    task = WriteColumn(in_files, "item", array(tmp_path / "c.npy", "<i4"), 300, pa.__version__)
    for number in (3, 0, 2, 1):
        task(number)
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), rows["item"].to_numpy())


def test_a_machine_needs_numpy_and_pyarrow_and_not_this_package(rows, in_files, tmp_path):
    cloudpickle = pytest.importorskip("pyspark.cloudpickle")
    for module in (part_tasks, streams):
        cloudpickle.register_pickle_by_value(module)
    try:
        sent = cloudpickle.dumps(a_task(in_files, rows.schema, tmp_path))
    finally:
        for module in (part_tasks, streams):
            cloudpickle.unregister_pickle_by_value(module)
    program = (
        "import pickle, sys; sys.modules['cadc_rec'] = None; "
        "pickle.loads(sys.stdin.buffer.read())(2)"
    )
    subprocess.run([sys.executable, "-c", program], input=sent, check=True)
    third = pq.read_table(tmp_path / "train" / "part-00002.parquet")
    assert third["user"].equals(rows["user"].slice(2 * GROUPS * GROUP, GROUPS * GROUP))


def test_a_machine_without_the_folder_or_with_another_pyarrow_is_named(in_files, tmp_path):
    gone = Array(str(tmp_path / "nowhere.npy"), "<i4", 128)
    with pytest.raises(RuntimeError, match=r"does not see .*nowhere.npy; every machine"):
        WriteColumn(in_files, "item", gone, 300, pa.__version__)(0)
    there = array(tmp_path / "c.npy", "<i4")
    with pytest.raises(RuntimeError, match=r"parts are written by pyarrow 1\.0; install that one"):
        WriteColumn(in_files, "item", there, 300, "1.0")(0)


@pytest.mark.parametrize("n", [0, 5, 70, 1000])
def test_blocks_make_the_file_of_the_whole_table(n, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "ROW_GROUP_ROWS", GROUP)
    table = rows.slice(0, n).combine_chunks()
    write_parquet(tmp_path / "whole.parquet", table)
    blocks = rechunk(table.to_batches(max_chunksize=33), GROUP)
    write_blocks(tmp_path / "blocks.parquet", table.schema, blocks)
    assert (tmp_path / "blocks.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
