"""The moving average of weights against its own recursion, and its comings and goings."""

import numpy as np
import pytest
import torch
from torch.profiler import profile

from cadc_rec.training import averaging
from cadc_rec.training.averaging import WeightAverage


def test_the_average_forgets_the_start_and_then_looks_back_over_its_horizon():
    live = torch.zeros(1)
    average = WeightAverage([live], horizon=4.0)
    expected = 0.0
    for step in range(1, 101):
        live += 1.0
        average.update()
        share = 1 / min(5.0, 1 + step / 4)
        expected += share * (step - expected)
    assert float(average.average[0]) == pytest.approx(expected, rel=1e-6)
    # Mean age 4: weights that grow by one a step are held as they were four steps ago.
    assert 100 - float(average.average[0]) == pytest.approx(4.0, rel=0.01)


def test_the_averaged_weights_stand_in_place_only_within():
    live = torch.zeros(2)
    average = WeightAverage([live], horizon=9.0)
    live += 1.0
    average.update()
    with average.in_place():
        assert 0 < float(live[0]) < 1
    assert live.tolist() == [1.0, 1.0]


def test_an_error_within_brings_the_live_weights_back():
    live = torch.zeros(1)
    average = WeightAverage([live], horizon=9.0)
    live += 1.0
    with pytest.raises(KeyError), average.in_place():
        raise KeyError
    assert live.tolist() == [1.0]


def test_a_horizon_of_zero_takes_the_weights_as_they_are():
    live = torch.ones(1)
    average = WeightAverage([live], horizon=0.0)
    live += 1.0
    average.update()
    with average.in_place():
        assert live.tolist() == [2.0]


def test_while_the_average_stands_in_for_the_weights_they_stand_in_for_it(monkeypatch):
    """In blocks of two rows, and back to the bit."""
    monkeypatch.setattr(averaging, "_AT_ONCE", 6)
    live = [torch.randn(5, 3), torch.randn(7), torch.randn(())]
    average = WeightAverage(live, horizon=3.0)
    for each in live:
        each += 1.0
    average.update()
    weights, means = ([each.clone() for each in of] for of in (live, average.average))
    with average.in_place():
        assert all(map(torch.equal, live, means))
        assert all(map(torch.equal, average.average, weights))
    assert all(map(torch.equal, live, weights))
    assert all(map(torch.equal, average.average, means))


def recursion(values, horizon):
    """The definition, step by step, of a weight that has this value from each step on."""
    mean = values[0]
    for step, value in enumerate(values[1:], start=1):
        mean += (value - mean) / min(1 + horizon, 1 + step / 4)
    return mean


def test_rows_brought_up_to_date_late_have_the_mean_of_every_step(monkeypatch):
    """Row r changes in every step that r + 1 divides; a million steps have no table of their own.

    In blocks of one row and of all.
    """
    horizon, steps, rows = 2.5, 37, 5
    for at_once in (1, 1000):
        monkeypatch.setattr(averaging, "_AT_ONCE", at_once)
        live = torch.zeros(rows, 2)
        average = WeightAverage([live], horizon, by_row=[0])
        for step in range(1, steps + 1):
            changed = torch.tensor([r for r in range(rows) if step % (r + 1) == 0])
            average.announce(0, changed)
            live[changed] = float(step)
            average.update()
        average.catch_up()
        for row in range(rows):
            values = [float(step // (row + 1) * (row + 1)) for step in range(steps + 1)]
            expected = [recursion(values, horizon)] * 2
            assert average.average[0][row].tolist() == pytest.approx(expected, rel=1e-5)
    assert average.seen()[0].tolist() == [steps] * rows


def test_nothing_grows_with_the_number_of_steps():
    average = WeightAverage([torch.zeros(3, 2)], horizon=1e12, by_row=[0])
    average.announce(0, torch.tensor([1]))
    (rows,) = average._rows.values()
    held = [each for each in vars(rows).values() if isinstance(each, torch.Tensor | np.ndarray)]
    assert sum(each.nbytes for each in held) == 2 * (3 * 2 * 4) + 3 * 4


def test_bringing_a_table_up_to_date_needs_no_room_for_another():
    """A table of 64 MB, of which a call may allocate a block of 16 and what goes with it."""
    live = torch.zeros(2**18, 64)
    average = WeightAverage([live], 5.0, by_row=[0])
    average.update()
    with profile(profile_memory=True) as profiled, average.in_place():
        pass
    most = max(each.cpu_memory_usage for each in profiled.events())
    assert 0 < most <= averaging._AT_ONCE * 4
    assert average.average[0].nbytes == 4 * averaging._AT_ONCE * 4


@pytest.mark.parametrize(("seen", "steps"), [(999_990, 1_000_000), (10**6, 3 * 10**6)])
def test_after_millions_of_steps_a_row_still_goes_as_far_as_it_should(seen, steps):
    """Against logarithms of each step's share, in the warm-up of two million steps and after."""
    live = torch.ones(1, 1)
    average = WeightAverage([live], horizon=5e5, by_row=[0])
    average.average[0].zero_()
    average.read_in(steps, {0: torch.tensor([seen], dtype=torch.int32)})
    average.catch_up()
    shares = 1 / np.minimum(1 + 5e5, 1 + np.arange(seen + 1, steps + 1) / 4)
    expected = -np.expm1(np.log1p(-shares).sum())
    assert average.average[0].item() == pytest.approx(expected, rel=1e-6)
