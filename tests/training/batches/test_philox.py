"""What a device draws is what NumPy's generator draws, to the bit."""

import numpy as np
import pytest
import torch

from cadc_rec.data.randomness import positional_fractions, positional_integers
from cadc_rec.training.batches import philox

CPU = torch.device("cpu")


@pytest.mark.parametrize("key", [(0, 6, 1, 0), (2**63 + 5, 11, 3, 2, 7), (10**22 + 1, 6, 1)])
@pytest.mark.parametrize("start", [0, 1, 7, 1002, 2**40 + 3])
def test_a_part_of_any_sequence_is_numpys(key, start):
    for count in (0, 1, 17, 200):
        for below in (1, 3, 2**20, 2**20 + 1, 2**50 + 3):
            drawn = philox.integers(key, start, count, below, CPU).numpy()
            assert drawn.dtype == np.int64
            assert np.array_equal(drawn, positional_integers(key, start, count, below))
        fractions = philox.fractions(key, start, count, CPU).numpy()
        assert np.array_equal(fractions, positional_fractions(key, start, count))
