"""Ranks write one file together: safetensors' bytes, each rank its rows, in place or as slices."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.distributed import row_file_worker, toy
from tests.distributed.row_file_worker import KINDS, ROWS, WIDTH
from tests.zygote import run_ranks

FILES = ("rows", "joined", *KINDS)
WORLDS = [1, pytest.param(2, marks=pytest.mark.distributed), 3]


@pytest.fixture(scope="module", params=WORLDS)
def written(request, tmp_path_factory):
    """The folder, the number of ranks, and what each rank wrote and received by file."""
    folder = tmp_path_factory.mktemp(f"of-{request.param}")
    for name in ("shared", "wanted"):
        (folder / name).mkdir()
    out = folder / "results.json"
    run_ranks(Path(row_file_worker.__file__), [out, folder], ranks=request.param, seconds=120)
    return folder, request.param, json.loads(out.read_text())


@pytest.mark.parametrize("name", FILES)
def test_the_file_has_the_bytes_that_safetensors_writes(name, written):
    folder, _, _ = written
    assert (folder / "shared" / name).read_bytes() == (folder / "wanted" / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_slices_end_to_end_are_the_file(name, written):
    folder, ranks, _ = written
    slices = sorted(folder.glob(f"[0-9]/{name}.slice-*"), key=lambda file: file.name)
    assert [file.name for file in slices] == [
        f"{name}.slice-{n:05}-of-{len(slices):05}" for n in range(len(slices))
    ]
    joined = b"".join(file.read_bytes() for file in slices)
    assert joined == (folder / "wanted" / name).read_bytes()
    if name == "rows":
        assert [file.parent.name for file in slices] == [str(rank) for rank in range(ranks)]


def test_each_rank_writes_its_own_rows_and_is_sent_none(written):
    _, ranks, noted = written
    bounds = [ROWS * rank // ranks for rank in range(ranks + 1)]
    shares = [4 * WIDTH * (b - a) for a, b in pairwise(bounds)]
    assert [of["written"] for of in noted["rows"]] == shares
    lengths = [8 * (3 + r) + 4 * 5 * (r != 1) + 4 * 4 for r in range(ranks)]
    assert [of["written"] for of in noted["joined"]] == lengths
    for name in ("rows", "joined", "table_wise", "data_parallel"):
        assert [of["received"] for of in noted[name]] == [0] * ranks, name


def test_tables_of_whole_rows_are_written_where_they_lie(written):
    """On two ranks and more the two id tables lie on two of them; rank 0 writes all the rest."""
    _, ranks, noted = written
    tables = [4 * toy.DIM * rows for rows in (toy.USERS, toy.ITEMS)]
    others = [of["written"] for of in noted["table_wise"]][1:]
    assert sum(others) in ({0} if ranks == 1 else {*tables, sum(tables)})


def test_tables_of_columns_are_put_together_by_all_ranks(written):
    """Of each piece a rank is sent the columns of the others, of its part of the rows alone."""
    _, ranks, noted = written
    half = 4 * toy.DIM // 2  # eight columns are divided in two, on any number of ranks
    received = [of["received"] for of in noted["column_wise"]]
    assert sum(received) == half * (toy.USERS + toy.ITEMS) * (ranks > 1)
    assert max(received) <= half * (-(-toy.USERS // 2) - (-toy.ITEMS // 2))
    if ranks == 2:  # rank 1 writes nothing but rows of tables
        assert noted["column_wise"][1]["written"] == 2 * received[1]


def test_rows_are_copied_a_piece_at_a_time(written):
    _, _, noted = written
    for kind in KINDS:
        assert max(of["largest"] for of in noted[kind]) <= 5 * 4 * toy.DIM
