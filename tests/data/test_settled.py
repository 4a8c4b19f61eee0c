"""Numbers that two machines work out with other last bits are the same floats once told."""

import numpy as np
import pytest

from cadc_rec.data.settled import Settled, half_way


def numbers():
    """Doubles of any size, of which every tenth lies half-way between two floats."""
    draw = np.random.default_rng(0)
    exact = draw.standard_normal(4_000) * 10.0 ** draw.integers(-6, 6, 4_000)
    low = exact[::10].astype(np.float32)
    exact[::10] = (low.astype(np.float64) + np.nextafter(low, np.float32(np.inf))) / 2
    return exact


def test_numbers_that_lie_half_way_are_known():
    exact = numbers()
    found = half_way(exact, 1e-11 * np.abs(exact))
    assert found[::10].all()
    assert found.mean() < 0.11
    assert half_way(np.array([np.nan, np.inf, 1.0]), np.zeros(3)).tolist() == [True, True, False]


@pytest.mark.parametrize("power", [-20, -1, 0, 1, 7])
def test_the_floats_below_a_power_of_two_lie_half_as_far_apart_as_those_above(power):
    below, above = 2.0**power * (1 - 2.0**-25), 2.0**power * (1 + 2.0**-24)  # the two middles
    exact = np.array([np.nextafter(below, 0), below, np.nextafter(below, 9e9), above, -below])
    assert half_way(exact, 1e-13 * np.abs(exact)).all()
    apart = 2.0**power * np.array([1, 1 - 2.0**-24, 1 - 2.0**-26, 1 + 2.0**-25])
    assert not half_way(apart, 1e-13 * apart).any()


def test_another_machine_comes_to_the_same_floats():
    exact = numbers()
    here = Settled()
    first = [here(part) for part in np.split(exact, [0, 7, 1_000])]
    away = exact * (1 + 1e-15 * np.random.default_rng(1).integers(-3, 4, len(exact)))
    assert (away.astype(np.float32) != exact.astype(np.float32)).sum() > 50
    there = Settled.of_code(here.code())
    second = [there(part) for part in np.split(away, [2_000, 2_001])]
    assert np.concatenate(first).tobytes() == np.concatenate(second).tobytes()
    assert len(here.code()) < 12 * 0.11 * len(exact)


@pytest.mark.parametrize("places", [[3, 2], [1, 1], [-1]], ids=["falling", "twice", "before all"])
def test_a_code_that_is_none_is_refused(places):
    code = np.array(places, "<i8").tobytes() + bytes(4 * len(places))
    with pytest.raises(ValueError, match="none"):
        Settled.of_code(code)
    with pytest.raises(ValueError, match="none"):
        Settled.of_code(bytes(13))
