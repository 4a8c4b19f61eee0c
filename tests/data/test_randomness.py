"""Random sequences that do not depend on who draws which part of them."""

import numpy as np
import pytest

from cadc_rec.data.randomness import normal_blocks, positional_integers


@pytest.mark.parametrize("below", [7, 3706, 2**20, 2**20 + 1, 10**9])
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5, 8, 41, 99, 100])
def test_a_sequence_drawn_in_two_parts_is_the_sequence_drawn_whole(below, cut):
    whole = positional_integers((1, 2), 0, 100, below)
    parts = [positional_integers((1, 2), 0, cut, below)]
    parts.append(positional_integers((1, 2), cut, 100 - cut, below))
    assert np.concatenate(parts).tolist() == whole.tolist()


@pytest.mark.parametrize("below", [5, 2**20 + 7])
def test_draws_are_in_range_and_even(below):
    drawn = positional_integers((3,), 17, 50_000, below)
    assert drawn.min() >= 0
    assert drawn.max() < below
    fifths = np.bincount(drawn * 5 // below, minlength=5)
    assert ((fifths - 10_000) ** 2 / 10_000).sum() < 20  # 4 degrees of freedom


def test_other_keys_give_other_sequences():
    a, b = (positional_integers((1, k), 0, 1000, 1000) for k in (2, 3))
    assert np.mean(a == b) < 0.02


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ValueError, match="positive"):
        positional_integers((1,), 0, 1, 0)


def test_a_random_table_is_the_same_however_it_is_cut_into_shards():
    """And in whichever pieces it is drawn: each piece is a few thousand rows."""

    def drawn(rows):
        table = np.full((len(rows), 3), np.nan, np.float32)
        for part, values in normal_blocks((9,), rows, 3, 0.5):
            assert len(values) <= 4096
            table[part] = values
        return table

    whole = drawn(range(10_000))
    for rows in (range(100), range(4000, 4200), range(4096, 8192), range(9_999, 10_000), range(0)):
        np.testing.assert_array_equal(drawn(rows), whole[rows.start : rows.stop])
    assert abs(whole.std() - 0.5) < 0.02
    assert abs(whole.mean()) < 0.02
