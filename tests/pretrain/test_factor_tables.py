"""Rows held whole or in shares: the same factorization, and no row fetched that is not needed."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cadc_rec.config.experiment import ComputeConfig, PretrainConfig, ShardingConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.row_files import Target, write_rows
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.factor_tables import (
    Extent,
    PartitionedTable,
    ReplicatedTable,
    distinct,
    partitions,
)
from cadc_rec.pretrain.kernels import Pattern


@pytest.fixture
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


def a_pattern(counts, columns):
    return Pattern(
        torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)),
        torch.from_numpy(np.asarray(columns, np.int32)),
    )


def interactions_of(users, items, n_users, n_items):
    by_user, by_item = np.lexsort((items, users)), np.lexsort((users, items))
    return Interactions(
        np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))]),
        items[by_user].astype(np.int32),
        np.concatenate([[0], np.cumsum(np.bincount(items, minlength=n_items))]),
        users[by_item].astype(np.int32),
    )


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_rows_in_shares_and_blocks_train_to_the_same_bits_as_whole_tables(block, alone):
    """Whatever the blocks, an entry's row is added to its gradient in the same order."""
    pairs = np.random.default_rng(0).choice(30 * 20, 150, replace=False)
    data = interactions_of(pairs // 20, pairs % 20, 30, 20)
    config = PretrainConfig(model="mf", factors=4, epochs=4, negatives=2)
    results = []
    for kind in ("replicated", "partitioned"):
        if kind == "replicated":
            tables = [ReplicatedTable(torch.zeros(n, 5), alone) for n in (30, 20)]
        else:
            tables = [PartitionedTable(n, 5, alone, block) for n in (30, 20)]
        bias = torch.nn.Parameter(torch.zeros(()))
        losses = list(AlternatingSolver(*tables, bias, data, config, 0, alone).epochs())
        results.append(([table.local for table in tables], losses))
    (whole, losses), (shares, same) = results
    for one, other in zip(whole, shares, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert same == pytest.approx(losses, rel=1e-6)


def test_a_block_has_just_the_rows_its_entries_refer_to(alone):
    table = PartitionedTable(9, 3, alone, block=5)
    table.local.copy_(torch.arange(27.0).view(9, 3))
    positives = a_pattern([2, 1, 0, 3, 1], [8, 2, 2, 0, 1, 8, 5])
    negatives = a_pattern([1, 2, 0, 4, 0], [2, 3, 3, 1, 1, 0, 1])
    blocks = list(table.blocks(positives, negatives))
    # Entries of the rows: 3, 3, 0, 7, 1. The first block has room for one row only; the row of
    # seven is more than a block by itself.
    assert [(block.rows.start, block.rows.stop) for block in blocks] == [
        (0, 1),
        (1, 3),
        (3, 4),
        (4, 5),
    ]
    expected = [[2, 8], [2, 3], [0, 1, 8], [5]]
    for block, ids in zip(blocks, expected, strict=True):
        torch.testing.assert_close(block.others, table.local[ids])
    assert table.fetched == sum(map(len, expected))
    (together,) = PartitionedTable(9, 3, alone, block=9).blocks(positives, negatives)
    assert len(together.others) == len({8, 2, 0, 1, 5, 3})  # all may be fetched: at once
    seen = [
        [block.others[pattern.col.long()][:, 0].div(3).int().tolist() for pattern in block.patterns]
        for block in blocks
    ]
    assert seen == [
        [[8, 2], [2]],
        [[2], [3, 3]],
        [[0, 1, 8], [1, 1, 0, 1]],
        [[5], []],
    ]


@pytest.mark.parametrize("n", [10, 100_000])
def test_distinct_ids_are_numpys(n):
    columns = np.random.default_rng(n).integers(0, n, 40).astype(np.int32)
    ids, places = distinct(torch.from_numpy(columns), n)
    expected, inverse = np.unique(columns, return_inverse=True)
    assert ids.tolist() == expected.tolist()
    assert places.tolist() == inverse.tolist()


def test_a_file_of_shares_is_to_the_byte_what_safetensors_writes(tmp_path, alone, monkeypatch):
    monkeypatch.setattr("cadc_rec.distributed.row_files.PIECE", 64)  # five rows at a time
    table = torch.randn(23, 3)
    write_rows(Target(tmp_path / "ours"), "weight", table, 23, alone)
    save_file({"weight": table}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize(
    ("wanted", "loss", "users", "world", "expected"),
    [
        ("auto", "binary", 10_000, 8, False),
        ("auto", "binary", 3_000_000, 8, True),  # 1.2 GB and a copy of each
        ("auto", "binary", 3_000_000, 1, False),
        ("replicated", "binary", 3_000_000, 8, False),
        ("partitioned", "binary", 10, 2, True),
        ("partitioned", "softmax", 10, 2, True),
    ],
)
def test_tables_that_fill_a_process_are_dealt_to_several(wanted, loss, users, world, expected):
    usable = (1 - ShardingConfig().reserve) * 2 * 10**9
    extent = Extent(users, 100, 96, world)
    assert partitions(wanted, loss, extent, usable) is expected
