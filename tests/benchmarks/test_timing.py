"""Rounds, medians, ratios: by hand, on contenders whose time is told and not measured."""

from itertools import pairwise

import pytest

from benchmarks.peers.record import Figures, rate_figures, ratios_of
from benchmarks.peers.timing import Contender, Work, alternate, order_of_round, spread


def scripted(name, seconds, turns):
    """A contender that says its turns took these seconds, and notes whose turn it was."""
    told = iter(seconds)

    def turn():
        turns.append(name)
        return Work(10, next(told))

    return Contender(name, turn)


def test_every_round_has_everybody_once_and_begins_with_another():
    names = ["a", "b", "c"]
    rounds = [order_of_round(names, number) for number in range(6)]
    assert all(sorted(order) == names for order in rounds)
    assert {order[0] for order in rounds} == set(names)
    neighbours = {pair for order in rounds for pair in pairwise(order)}
    assert neighbours >= {("a", "b"), ("b", "a")}  # nobody always follows the same one


def test_contenders_take_turns_and_the_warm_up_does_not_count():
    turns = []
    contenders = [
        scripted("a", [99.0, 10.0, 20.0, 30.0], turns),
        scripted("b", [99.0, 40.0, 40.0, 60.0], turns),
    ]
    seconds = alternate(contenders, repeats=3)
    assert seconds == {"a": [1.0, 2.0, 3.0], "b": [4.0, 4.0, 6.0]}
    assert [sorted(turns[n : n + 2]) for n in range(0, 8, 2)] == [["a", "b"]] * 4


def test_the_clock_outside_counts_where_a_turn_does_not_tell():
    (seconds,) = alternate([Contender("a", lambda: Work(2))], repeats=1, warm_up=0)["a"]
    assert 0 < seconds < 1


def test_a_short_turn_is_taken_again_until_it_is_long_enough():
    turns = []
    contenders = [scripted("a", [0.25, 0.5, 0.75, 9.0], turns)]
    (seconds,) = alternate(contenders, repeats=1, warm_up=0, at_least=1.5)["a"]
    assert turns == ["a"] * 3  # 0.25, 0.75, then 1.5 seconds
    assert seconds == pytest.approx(1.5 / 30)  # of ten units each


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_contenders_need_names_of_their_own(names):
    with pytest.raises(ValueError, match="a name each"):
        alternate([Contender(name, lambda: Work(1)) for name in names], 1)


def test_spread_is_the_median_and_the_ends():
    found = spread([5.0, 1.0, 4.0, 2.0])
    assert (found.median, found.low, found.high) == (3.0, 1.0, 5.0)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_a_ratio_is_formed_within_rounds_and_not_of_medians():
    # The second round was slow for both. Ratios 2, 2, 8; medians would give 4 / 2 and so would
    # luck, so the third round differs.
    seconds = {"ours": [1.0, 10.0, 2.0], "other": [2.0, 20.0, 16.0]}
    (ratio,) = ratios_of(seconds, [("ours", "other"), ("ours", "absent")])
    assert ratio.times == Figures(median=2.0, low=2.0, high=8.0, rounds=[2.0, 2.0, 8.0])
    assert rate_figures([0.5, 0.25, 0.2]).median == 4.0
