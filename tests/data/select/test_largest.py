"""The largest of keys that several ranks have: those that sorting all of them gives."""

import threading

import numpy as np
import pytest

from cadc_rec.data.select.largest import largest, ordered, scaled
from tests.data.select.test_select_by_ranks import Rank

PIECE = 17


@pytest.mark.parametrize("world", [1, 2, 5, 30])
@pytest.mark.parametrize("different", [1, 3, 40, 2**63])
@pytest.mark.parametrize("wanted", [0, 1, 37, 200, 399, 400])
def test_ranks_find_the_largest_keys_and_the_earlier_ones_of_equals(wanted, different, world):
    keys = np.random.default_rng(wanted).integers(0, different, 400).astype(np.uint64)
    pieces, meet, values = -(-len(keys) // PIECE), threading.Barrier(world), [None] * world
    found = {}

    def of(piece):
        return keys[piece * PIECE : (piece + 1) * PIECE]

    def rank(number):
        found[number] = largest(of, pieces, wanted, Rank(number, values, meet))

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    order = np.argsort(keys, kind="stable")  # ascending: of equal ones the later would be last
    expected = sorted(sorted(order.tolist(), key=lambda at: (-int(keys[at]), at))[:wanted])
    for number in range(world):
        taken = [found[number].taken(piece, of(piece)) for piece in range(pieces)]
        assert np.flatnonzero(np.concatenate(taken)).tolist() == expected
        assert found[number].counts.tolist() == [int(each.sum()) for each in taken]


def test_integers_stand_in_the_order_of_their_numbers():
    numbers = np.array([-np.inf, -1e300, -2.5, -1e-310, -0.0, 0.0, 5e-324, 1, 1.5, np.inf])
    keys = ordered(numbers)
    assert keys[4] == keys[5]
    assert (np.diff(np.delete(keys, 4).astype(object)) > 0).all()
    assert ordered(np.array([1.5, -2.5], np.float32)).tolist() == keys[[8, 2]].tolist()


@pytest.mark.parametrize("below", [1, 2, 46, 2**53, 2**63])
def test_whole_numbers_fill_the_first_bits_and_keep_their_order(below):
    numbers = np.unique(np.array([0, below // 3, below - 1]))
    keys = scaled(numbers, below).astype(object)
    assert (np.diff(keys) > 0).all()
    assert below < 2 or max(keys) >= 2**63
    assert max(keys) < 2**64 - 1
