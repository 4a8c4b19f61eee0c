"""Losses against the formula, entry by entry."""

import math

import pytest
import torch

from cadc_rec.models.losses import binary_cross_entropy


def test_binary_cross_entropy_sums_minus_log_likelihood_of_positives_and_negatives():
    scores = [[0.3, -1.0, 2.0], [-0.2, 0.0, 5.0]]  # a positive, then its two negatives

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    expected = 0.0
    for positive, *negatives in scores:
        expected -= math.log(sigmoid(positive))
        expected -= sum(math.log(1 - sigmoid(s)) for s in negatives)
    got = binary_cross_entropy(torch.tensor(scores).flatten(), negatives=2)
    assert float(got) == pytest.approx(expected, rel=1e-6)


def test_extreme_scores_keep_the_loss_finite():
    scores = torch.tensor([1e4, -1e4, -1e4, 1e4])
    assert float(binary_cross_entropy(scores, negatives=1)) == pytest.approx(2e4)
