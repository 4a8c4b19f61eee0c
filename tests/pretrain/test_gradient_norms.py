"""The norm of a pair's gradient, against what autograd says of the loss as it is written."""

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from cadc_rec.pretrain.gradient_norms import GradientNorms
from cadc_rec.pretrain.id_tables import IdTables

USER = np.array([0, 3, 2, 2, 1], np.int32)
ITEM = np.array([4, 0, 1, 1, 2], np.int32)


@pytest.fixture
def tables():
    torch.manual_seed(0)
    return torch.randn(4, 6), torch.randn(5, 6)


def norms_by_autograd(tables, loss):
    """Of each pair by itself, over all elements of both tables."""
    found = []
    for user, item in zip(USER, ITEM, strict=True):
        leaves = [table.double().clone().requires_grad_() for table in tables]
        loss(leaves[0][int(user)], leaves[1][int(item)]).backward()
        found.append(sum(float(leaf.grad.square().sum()) for leaf in leaves) ** 0.5)
    return found


def test_the_norm_of_mf_is_that_of_its_cross_entropy_with_the_global_bias(tables):
    def loss(p, q):
        return -logsigmoid(p[:-1] @ q[:-1] + p[-1] + q[-1] + 0.7)

    found = GradientNorms(IdTables(*tables), 0.7)(USER, ITEM)
    assert found == pytest.approx(norms_by_autograd(tables, loss), rel=1e-5)


@pytest.mark.parametrize("divided_by", [(1.0, 1.0), (0.5, 3.0)])
def test_the_norm_of_als_is_that_of_its_squared_error_before_the_scale(tables, divided_by):
    exported = IdTables(*(table / by for table, by in zip(tables, divided_by, strict=True)), False)
    found = GradientNorms(exported, 0.0, divided_by)(USER, ITEM)
    expected = norms_by_autograd(tables, lambda x, y: (1 - x @ y) ** 2 / 2)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found.dtype == np.float32


def test_a_score_that_is_far_too_high_or_low_has_a_finite_norm(tables):
    user, item = (100 * table for table in tables)
    found = GradientNorms(IdTables(user, item))(USER, ITEM)
    assert np.isfinite(found).all()
