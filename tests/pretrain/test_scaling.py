"""Exported vectors at a common scale."""

import pytest
import torch

from cadc_rec.pretrain.id_tables import scaled


@pytest.fixture
def table():
    torch.manual_seed(0)
    return torch.randn(400, 3) @ torch.tensor([[3.0, 1.0, 0], [0, 0.5, 0], [0, 0, 0.01]]) + 2.0


def test_none_changes_nothing(table):
    assert scaled(table, "none") is table


def test_unit_keeps_directions_and_has_deviation_one(table):
    got = scaled(table, "unit")
    assert float(got.std()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(got / got[0, 0], table / table[0, 0])


def test_whitened_elements_are_uncorrelated_with_mean_square_one(table):
    got = scaled(table, "whiten").double()
    torch.testing.assert_close(got.T @ got / len(got), torch.eye(3).double(), rtol=1e-3, atol=1e-3)


def test_a_direction_that_no_vector_has_is_not_blown_up():
    flat = torch.tensor([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]])
    got = scaled(flat, "whiten")
    assert torch.isfinite(got).all()
    assert float(got.abs().max()) < 2


@pytest.mark.parametrize("scale", ["unit", "whiten"])
def test_zeros_and_no_rows_stay(scale):
    assert torch.equal(scaled(torch.zeros(4, 2), scale), torch.zeros(4, 2))
    assert scaled(torch.zeros(0, 2), scale).shape == (0, 2)
