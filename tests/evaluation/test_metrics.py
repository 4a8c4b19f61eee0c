"""HR@K and NDCG@K against values worked out by hand."""

import math

import numpy as np
import pytest

from cadc_rec.evaluation.metrics import ranking_metrics


def test_metrics_of_four_users_worked_out_by_hand():
    ranks = np.array([1, 3, 10, 11])
    metrics = ranking_metrics(ranks, (10,))
    assert metrics["hr@10"] == 0.75
    expected = (1 / math.log2(2) + 1 / math.log2(4) + 1 / math.log2(11)) / 4
    assert metrics["ndcg@10"] == pytest.approx(expected, abs=1e-15)


def test_every_cutoff_is_reported():
    metrics = ranking_metrics(np.array([2, 7]), (1, 5, 20))
    assert {k: v for k, v in metrics.items() if k.startswith("hr")} == {
        "hr@1": 0.0,
        "hr@5": 0.5,
        "hr@20": 1.0,
    }


def test_no_users_is_an_error_not_a_number():
    with pytest.raises(ValueError, match="no user"):
        ranking_metrics(np.array([], dtype=int), (10,))
