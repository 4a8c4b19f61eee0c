"""Leave-last-two over a stream, against the same split said user by user in plain Python."""

import numpy as np
import pytest

from cadc_rec.data.prepare.split import LeaveLastTwo, Rows, first_of_pairs, whole_users


def rows_of(triples):
    columns = list(zip(*triples, strict=True)) or [(), (), ()]
    kinds = (np.int32, np.int32, np.int64)
    return Rows(*(np.array(c, dtype=k) for c, k in zip(columns, kinds, strict=True)))


def triples_of(rows):
    return list(zip(rows.user.tolist(), rows.item.tolist(), rows.timestamp.tolist(), strict=True))


def a_log(seed, users=40):
    """Users with none to many rows, repetitions among them, sorted by user and time."""
    rng = np.random.default_rng(seed)
    log = []
    for user in range(users):
        for time in range(int(rng.integers(0, 9))):
            log.append((user, int(rng.integers(0, 6)), time))
    return log


def by_hand(log):
    train, validation, test = [], [], []
    for user in sorted({row[0] for row in log}):
        seen, mine = set(), []
        for row in (r for r in log if r[0] == user):
            if row[1] not in seen:
                seen.add(row[1])
                mine.append(row)
        if len(mine) > 2:
            validation.append(mine[-2])
            test.append(mine[-1])
            mine = mine[:-2]
        train += mine
    return train, validation, test


def pieces(log, size):
    return [rows_of(log[at : at + size]) for at in range(0, len(log), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_the_split_is_that_of_each_user_wherever_the_stream_is_cut(size):
    for seed in range(5):
        log = a_log(seed)
        split = LeaveLastTwo(pieces(log, size))
        train = [row for rows in split.train() for row in triples_of(rows)]
        assert (train, triples_of(split.validation), triples_of(split.test)) == by_hand(log)
        assert split.distinct == len(train) + 2 * len(split.test)


def test_a_stream_without_rows_has_no_parts():
    split = LeaveLastTwo([rows_of([])])
    assert list(split.train()) == []
    assert len(split.validation) == len(split.test) == 0


@pytest.mark.parametrize("size", [1, 4, 9, 1000])
def test_pieces_end_where_users_do(size):
    log = a_log(8)
    cut = [triples_of(rows) for rows in whole_users(pieces(log, size))]
    assert [row for piece in cut for row in piece] == log
    owners = [user for piece in cut for user in {row[0] for row in piece}]
    assert len(owners) == len(set(owners))


def test_a_pair_stays_where_it_comes_first():
    log = [(3, 5, 1), (3, 4, 2), (3, 5, 3), (4, 5, 1), (4, 5, 2)]
    assert triples_of(first_of_pairs(rows_of(log))) == [log[0], log[1], log[3]]
