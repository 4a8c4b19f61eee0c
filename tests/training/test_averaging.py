"""The moving average of weights against its own recursion, and its comings and goings."""

import pytest
import torch

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
