"""What an update says of vectors that moved where their elements changed, too."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cadc_rec.updates.drift import vector_drift
from cadc_rec.updates.report import _served


def test_an_element_that_only_one_fit_of_the_prior_has_is_not_compared():
    random = np.random.default_rng(0)
    before = random.normal(size=(6, 4)).astype(np.float32)
    after = before[:, :3] + random.normal(size=(6, 3)).astype(np.float32)
    for one, other in ((before, after), (after, before)):
        found = vector_drift(torch.from_numpy(one), torch.from_numpy(other), np.array([0, 5]))
        old, new = one[:, :3].astype(np.float64), other[:, :3].astype(np.float64)
        lengths = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
        assert found["all"]["cosine"] == pytest.approx(((old * new).sum(1) / lengths).mean())


def test_towers_are_not_compared_with_the_tables_alone_that_came_in_their_place():
    states = [{"evaluate": SimpleNamespace(info={"kept": kept})} for kept in ("towers", "tables")]
    assert _served(*states, changes=None, reused={}) == {}
