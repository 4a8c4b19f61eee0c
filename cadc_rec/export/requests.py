"""Requests in TorchRec's form: ids to lengths and values, with the attributes known of them.

In: dense ids, and histories. Out: the tensors a predict module takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cadc_rec.models.features import AttributeValues


def side_features(ids: np.ndarray, attributes: Sequence[AttributeValues]) -> list[np.ndarray]:
    """Lengths and values, in turn, of a side's id feature and then of each attribute.

    Args:
        ids: int64 ``[n]``; a negative one is unknown and has no values at all.
        attributes: the side's, in order.
    """
    known = ids >= 0
    parts = [known.astype(np.int32), ids[known]]
    for attribute in attributes:
        lengths = np.where(known, np.diff(attribute.indptr)[ids], 0)
        starts = np.where(known, attribute.indptr[ids], 0)
        ends = lengths.cumsum()
        places = np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
        parts += [lengths.astype(np.int32), attribute.values[places].astype(np.int64)]
    return parts


def history_features(histories: np.ndarray) -> list[np.ndarray]:
    """Lengths and values of histories ``[n, L]``, the latest first, -1 where they have ended."""
    known = histories >= 0
    return [known.sum(1, dtype=np.int32), histories[known].astype(np.int64)]


def batch_of(parts: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """A predict module's batch of lengths and values in turn, a pair a feature."""
    return {
        "id_list_features.lengths": torch.from_numpy(np.concatenate(parts[::2])),
        "id_list_features.values": torch.from_numpy(np.concatenate(parts[1::2])),
        "float_features": torch.zeros(len(parts[0]), 0),
    }
