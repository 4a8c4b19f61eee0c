"""What a step minimizes, against sums by hand."""

import math

import numpy as np
import pytest
import torch

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.data.load.batches import Batch
from cadc_rec.models.forward import Scores
from cadc_rec.training.losses import make_objective
from cadc_rec.training.reading import make_loader


def test_logq_is_taken_off_the_logits_after_the_temperature():
    """In a softmax over the batch's positives: s / T - log(frequency), as Yi et al. 2019."""
    scores = torch.tensor([[1.0, 2.0, -1.0]])
    offsets = torch.tensor([0.1, 0.0, 0.7, 0.0, -0.4])
    batch = Batch(torch.tensor([0]), torch.tensor([0, 2, 4]), labels=torch.tensor([1]))
    objective = make_objective(TrainConfig(loss="in-batch-softmax", temperature=0.5), offsets)
    logits = [1 / 0.5 - 0.1, 2 / 0.5 - 0.7, -1 / 0.5 + 0.4]
    expected = -math.log(math.exp(logits[1]) / sum(map(math.exp, logits)))
    assert float(objective.loss(Scores(scores), batch)) == pytest.approx(expected, rel=1e-5)
    assert objective.terms(7) == 7


def test_a_binary_loss_is_the_mean_over_pairs():
    assert make_objective(TrainConfig(negatives=4)).terms(7) == 35


@pytest.mark.parametrize(
    ("loss", "candidates"), [("softmax", 30), ("in-batch-softmax", 2), ("sampled-softmax", None)]
)
def test_each_loss_has_its_loader(loss, candidates):
    from cadc_rec.data.load.shards import Examples

    examples = Examples(np.array([0, 1, 2]), np.array([5, 5, 9]))
    config = TrainConfig(loss=loss, shared_negatives=4)
    (step,) = make_loader(config, examples, [3], 0, 30, seed=0).epoch(1)
    assert (step.negatives is None) == (candidates is not None)
    assert candidates is None or len(step.items) == candidates
