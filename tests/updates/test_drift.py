"""Vectors that were served before an update are compared with those after it, where they can be."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cadc_rec.updates.report import _served

CHANGES = SimpleNamespace(users=np.array([1]), items=np.array([0]))


def served(folder, width, kept=None):
    folder.mkdir()
    for side, rows in (("user", 3), ("item", 2)):
        vectors = torch.ones(rows, width)
        save_file({"vectors": vectors}, folder / f"{side}_vectors.safetensors")
    info = {} if kept is None else {"kept": kept}
    return {"evaluate": SimpleNamespace(path=folder, info=info)}


@pytest.mark.parametrize(
    ("before", "after", "compared"),
    [
        ((4,), (4,), True),
        ((4, "tables"), (4, "tables"), True),
        ((4, "tables"), (4, "towers"), False),  # another space, though as wide
        ((4,), (6,), False),
    ],
)
def test_vectors_of_another_space_are_not_compared(tmp_path, before, after, compared):
    old, new = served(tmp_path / "old", *before), served(tmp_path / "new", *after)
    found = _served(old, new, CHANGES, {})
    if not compared:
        assert found == {}
        return
    assert found["user"]["changed"]["rows"] == 1
    assert found["user"]["unchanged"]["rows"] == 2
    assert found["item"]["all"]["cosine"] == pytest.approx(1.0)
