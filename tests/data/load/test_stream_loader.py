"""A streamed epoch: each row once, from real shards, whoever reads them and wherever it resumes."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.load.batches import Arrays
from cadc_rec.data.load.candidates import SoftmaxBatches
from cadc_rec.data.load.position import advanced
from cadc_rec.data.load.shards import SelectionShards
from cadc_rec.data.load.stream_loader import StreamLoader
from cadc_rec.errors import CadcError

ITEMS = 5000
SHARDS = (130, 0, 7, 61, 200, 1)  # rows: uneven, and one without


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> SelectionShards:
    """Row r of D_sel is user r // 3 and item 4999 - r, so that a row is known by its item."""
    folder = tmp_path_factory.mktemp("shards")
    row = 0
    for number, rows in enumerate(SHARDS):
        at = np.arange(row, row + rows, dtype=np.int32)
        table = pa.table({"user": at // 3, "item": ITEMS - 1 - at})
        name = f"shard-{number:05d}-of-{len(SHARDS):05d}.parquet"
        pq.write_table(table, folder / name, row_group_size=16)
        row += rows
    files = tuple(sorted(folder.iterdir()))
    groups = tuple(tuple([16] * (rows // 16) + [rows % 16] * (rows % 16 > 0)) for rows in SHARDS)
    return SelectionShards(files, groups)


def loader_of(shards, rank=0, ranks=1, batch=37, seed=3, buffer=150) -> StreamLoader:
    return StreamLoader(shards, rank, ranks, batch, seed, SoftmaxBatches("in-batch", ITEMS), buffer)


def rows_of(step: Arrays) -> list[int]:
    rows = (ITEMS - 1 - step.items[step.labels]).tolist()
    assert step.users.tolist() == [row // 3 for row in rows]
    return rows


def epoch_of(shards, ranks, epoch=1, done=(), until=None, **more) -> list[list[int]]:
    """Rows of each step, over all ranks."""
    steps: list[list[int]] = []
    for rank in range(ranks):
        taken = 0
        for number, step in enumerate(loader_of(shards, rank, ranks, **more).epoch(epoch, done)):
            if until is not None and number >= until:
                break
            if rank == 0:
                steps.append([])
            steps[number] += rows_of(step)
            taken += 1
        assert taken == len(steps)  # as many as the others
    return steps


def flat(steps):
    return [row for step in steps for row in step]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("buffer", [1, 150, 10_000])
def test_an_epoch_gives_every_row_exactly_once(shards, ranks, buffer):
    steps = epoch_of(shards, ranks, buffer=buffer)
    assert len(steps) == -(-sum(SHARDS) // 37)
    assert sorted(flat(steps)) == list(range(sum(SHARDS)))


@pytest.mark.parametrize("ranks", [1, 3])
def test_all_ranks_know_how_many_positives_a_step_has(shards, ranks):
    of_ranks = [list(loader_of(shards, rank, ranks).epoch(1)) for rank in range(ranks)]
    for of_step in zip(*of_ranks, strict=True):
        assert {step.positives for step in of_step} == {sum(len(s.users) for s in of_step)}


def test_an_epoch_is_the_same_twice_and_another_or_another_seed_differs(shards):
    first = epoch_of(shards, 2)
    assert epoch_of(shards, 2) == first
    assert epoch_of(shards, 2, epoch=2) != first
    assert epoch_of(shards, 2, seed=4) != first


def test_rows_of_several_shards_are_mixed(shards):
    """A window of three groups of 16 has, nearly always, rows of more than one shard."""
    bounds = np.cumsum(SHARDS)
    kinds = [
        len({int(np.searchsorted(bounds, row, "right")) for row in step})
        for step in epoch_of(shards, 1, batch=48, buffer=150)
    ]
    assert np.mean(kinds) > 1.5
    steps = epoch_of(shards, 1)
    assert all(np.abs(np.diff(step)).mean() > 2 for step in steps)  # shuffled within, too


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_position_is_gone_on_from_with_the_very_batches(shards, ranks):
    whole = epoch_of(shards, ranks)
    for stop in range(len(whole) + 1):
        done = advanced((), ranks, stop) if stop else ()
        assert epoch_of(shards, ranks, done=done) == whole[stop:]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 4), (4, 2)])
def test_another_number_of_ranks_sees_exactly_the_remaining_rows(shards, before, after):
    whole = epoch_of(shards, before)
    for stop in (1, 4, len(whole) - 1):
        seen = flat(whole[:stop])
        rest = epoch_of(shards, after, done=advanced((), before, stop))
        assert len(rest) == len(whole) - stop  # the epoch keeps its number of steps
        assert sorted(seen + flat(rest)) == list(range(sum(SHARDS)))


def test_the_number_of_ranks_may_change_again_and_again(shards):
    done, seen, stop = (), [], 0
    for ranks, steps in ((2, 3), (1, 2), (4, 1), (4, 2), (2, 99)):
        part = epoch_of(shards, ranks, done=done, until=steps)
        seen += flat(part)
        stop += len(part)
        done = advanced(done, ranks, stop)
    assert sorted(seen) == list(range(sum(SHARDS)))
    assert stop == -(-sum(SHARDS) // 37)


def test_counts_are_those_of_the_rows(shards):
    for rank in range(2):
        starts = np.cumsum((0, *SHARDS))
        mine = [
            row
            for shard in range(rank, len(SHARDS), 2)
            for row in range(starts[shard], starts[shard + 1])
        ]
        users = Counter(row // 3 for row in mine)
        counts = shards.counts("user", 200, rank, 2)
        assert counts.tolist() == [users[user] for user in range(200)]


def test_more_ranks_than_shards_are_refused(shards):
    with pytest.raises(CadcError, match=r"7 processes cannot share 6 shards"):
        loader_of(shards, 0, 7)


def test_leaving_an_epoch_early_ends_its_thread(shards):
    steps = loader_of(shards, buffer=1).epoch(1)
    next(steps)
    assert any(thread.name == "prefetch" for thread in threading.enumerate())
    steps.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
