"""Vectors of items that nobody took yet: from their attributes, the rest standing at the mean.

In: a finished model and the attributes of these items. Out: a vector each, in the space of the
others. An update that takes such an item in starts its frozen rows at the same means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cadc_rec.export.programs import CodedFeature, padded_codes
from cadc_rec.export.trained import ItemForward, Table, TrainedModel
from cadc_rec.models.dense import DenseValues
from cadc_rec.models.features import AttributeValues


def untaken_vectors(
    trained: TrainedModel | None,
    attributes: Sequence[AttributeValues],
    dense: Sequence[DenseValues],
    count: int,
    items: np.ndarray,
    *,
    counted: bool,
    popularity: float | None = None,
) -> np.ndarray:
    """Vectors of items that nobody took, float32 ``[count, d]``.

    Args:
        trained: the towers, where the model has them.
        attributes: of these items, as the towers know them.
        dense: their vectors and numbers.
        count: how many they are.
        items: ``[n_items, d]``, the vectors of the items that were taken.
        counted: whether a vector counts how often its item was taken: theirs is zero then.
        popularity: the last element, where tables alone have their items' popularity there.
    """
    if not count or counted:
        return np.zeros((count, items.shape[1]), np.float32)
    if trained is None:
        # The parts of a vector are rows of tables, so that its mean is that of their means.
        mean = items.mean(0, dtype=np.float64).astype(np.float32)
        if popularity is not None:
            mean[-1] = popularity
        return np.repeat(mean[None], count, 0)
    rows = _means(trained.item.ids, count)
    every = torch.arange(count)
    features = [
        CodedFeature(table.weight, padded_codes(attribute), table.mean)(every)
        for table, attribute in zip(trained.item.features, attributes, strict=True)
    ]
    if trained.item.layers is not None:
        every_row = [torch.from_numpy(each.values).float() for each in dense]
        features.append(trained.item.layers(torch.cat(every_row, 1)))
    targets = _means([] if trained.targets is None else [trained.targets], count)
    joined = torch.cat(features, 1) if features else rows[:, :0]
    with torch.inference_mode():
        vectors: np.ndarray = ItemForward(trained.model)(rows, joined, targets).float().numpy()
    return vectors


def _means(tables: Sequence[Table], count: int) -> torch.Tensor:
    """The mean rows of tables side by side, as often as there are items."""
    means = [table.weight.mean(0) for table in tables]
    return (torch.cat(means) if means else torch.zeros(0)).expand(count, -1)
