"""Which optimizer moves which parameter.

- MLPs, feature tables and data-parallel id tables: Adam (the dense optimizer).
- Model-parallel trainable id tables: row-wise Adagrad fused into the backward pass (fused
  optimizers on CPU are SGD and Adagrad only).
- Frozen tables: none, and no state.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.models.two_tower import TwoTower


def fuse_table_optimizer(model: TwoTower, config: TrainConfig, sharding: str) -> None:
    """Before wrapping: give model-parallel trainable id tables their fused optimizer."""
    if sharding == "data_parallel":
        return
    for tower in (model.user, model.item):
        for table in tower.ids.trained_tables():
            apply_optimizer_in_backward(
                RowWiseAdagrad, table.parameters(), {"lr": config.fused_learning_rate}
            )


def dense_optimizer(wrapped: nn.Module, model: TwoTower, config: TrainConfig) -> torch.optim.Adam:
    """After wrapping: Adam over everything that is neither frozen nor fused.

    Args:
        wrapped: the model under DistributedModelParallel.
        model: the module inside it.
        config: learning rate and weight decay.
    """
    parameters = [
        (name, parameter)  # with their names, by which checkpoints know their state
        for name, parameter in in_backward_optimizer_filter(wrapped.named_parameters())
        if not is_frozen(name, model)
    ]
    return torch.optim.Adam(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def is_frozen(name: str, model: TwoTower) -> bool:
    """Whether a parameter or state entry of this name belongs to a frozen table."""
    return any(name.startswith(f"{prefix}.table.") for prefix in model.frozen_tables())
