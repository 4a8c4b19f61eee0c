"""Vectors of pairs, whose dot products are the scores of a factorization."""

import numpy as np
import pytest
import torch

from cadc_rec.pretrain.id_tables import IdTables


@pytest.mark.parametrize("bias_last", [True, False])
def test_dot_products_of_pairs_are_their_scores(bias_last):
    """Factors times factors, and both biases where there are any."""
    draw = torch.Generator().manual_seed(0)
    user, item = (torch.randn(n, 5, generator=draw) for n in (7, 9))
    rng = np.random.default_rng(0)
    users, items = (rng.integers(0, n, 30).astype(np.int32) for n in (7, 9))
    vectors = IdTables(user, item, bias_last).of_pairs(users, items)
    for place, (u, i) in enumerate(zip(users, items, strict=True)):
        factors = 4 if bias_last else 5
        score = float(user[u, :factors] @ item[i, :factors])
        score += float(user[u, 4] + item[i, 4]) if bias_last else 0.0
        assert vectors[0][place] @ vectors[1][place] == pytest.approx(score, abs=1e-5)
