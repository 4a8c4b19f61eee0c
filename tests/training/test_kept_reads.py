"""Histories are read once for all validations, or each time: the same on every rank."""

import torch

from cadc_rec.models.history import History
from cadc_rec.training.kept_reads import KeptReads


def reading(kept, rows, longest, rounds=2):
    """How often each part was read; a part has so many users, of 3 float32 and 2 float64."""
    read = [0] * len(rows)

    def read_part(part):
        read[part] += 1
        n = rows[part]
        return History(
            folded=torch.full((n, 3), float(part)), led=torch.zeros(n, 2, dtype=torch.float64)
        )

    for _ in range(rounds):
        for part in range(len(rows)):
            found = kept.of(part, longest, lambda part=part: read_part(part))
            assert found.folded.tolist() == [[part] * 3] * rows[part]
    return read


def test_parts_are_read_once():
    assert reading(KeptReads(2**28), [4, 4, 2], 10) == [1, 1, 1]


def test_parts_without_users_are_parts_too():
    """The other rank has users there, and a sharded table answers only when all ask."""
    assert reading(KeptReads(2**28), [4, 0, 0], 10, rounds=1) == [1, 1, 1]


def test_a_rank_keeps_all_or_nothing_by_the_longest_share():
    """28 bytes a user; this rank has 9 of them, another 10."""
    assert reading(KeptReads(279), [4, 4, 1], 10) == [2, 2, 2]
    assert reading(KeptReads(280), [4, 4, 1], 10) == [1, 1, 1]
