"""An earlier checkpoint's weights in a model whose tables may have come to have more rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cadc_rec.distributed.state import local_tensors
from cadc_rec.errors import CadcError
from cadc_rec.training.build import ShardedTwoTower

_ATTRIBUTES = ".features.tables."  # in the names of attributes' tables


def load_grown(model: ShardedTwoTower, state: Mapping[str, torch.Tensor]) -> None:
    """Copy a checkpoint into this rank's parts of what `model` trains.

    Rows that the checkpoint lacks: a new value of an attribute starts as the unknown value (code
    0) stands; a new user's or item's learned vector stays as it was initialized.

    Args:
        model: built for the grown dataset.
        state: whole tensors, of the same settings.

    Raises:
        CadcError: the checkpoint is of another model.
    """
    with torch.no_grad():
        for local in local_tensors(model.wrapped, model.trains):
            whole = state.get(local.name)
            if whole is None or whole.dim() != local.tensor.dim():
                raise _other_model(local.name)
            if whole.shape == local.tensor.shape:
                local.tensor.copy_(whole)
                continue
            if whole.dim() != 2 or whole.shape[1] != local.width:
                raise _other_model(local.name)
            rows, columns = local.tensor.shape
            part = whole[:, local.column : local.column + columns]
            there = min(max(len(part) - local.row, 0), rows)
            local.tensor[:there] = part[local.row : local.row + there]
            if _ATTRIBUTES in local.name:
                local.tensor[there:] = part[0]


def _other_model(name: str) -> CadcError:
    return CadcError(
        f"the model to go on from has no fitting {name}: it was trained with other [model] "
        "settings; train anew."
    )
