"""How every table of a two-tower model is sharded, stored and trained.

In: a model, its tables on the meta device. Out: a rule for each table, and an optimizer for each
parameter. Both what is trained and what `cadc-rec plan` prints come from here.

- MLPs, feature tables and data-parallel id tables: Adam (the dense optimizer).
- Model-parallel trainable id tables: fused into the backward pass, for the rows of a step alone.
  Adam on CUDA; row-wise Adagrad on CPU, whose fused optimizers are SGD and Adagrad only.
- Frozen tables: none, and no state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.optim import Adam, RowWiseAdagrad
from torchrec.optim.optimizers import in_backward_optimizer_filter

from cadc_rec.config.experiment import ShardingConfig, TrainConfig
from cadc_rec.config.running import INT8_NOT_TRAINED
from cadc_rec.distributed.planner import TableRule
from cadc_rec.errors import CadcError
from cadc_rec.models.id_embedding import HybridIds
from cadc_rec.models.rows import on_gpu
from cadc_rec.models.two_tower import TwoTower


def table_rules(model: TwoTower, config: ShardingConfig, world_size: int) -> dict[str, TableRule]:
    """The rule of every table, by name.

    Args:
        model: two towers.
        config: sharding types and kernels.
        world_size: processes in all.
    """
    frozen = config.frozen
    if frozen == "auto" and world_size == 1 and config.frozen_kernel == "auto":
        # One process has nothing to exchange, and the planner's choice would pay for it.
        frozen = "data_parallel"
    of_frozen = TableRule(
        frozen, config.frozen_kernel, config.cache_share, config.frozen_storage, one_id=True
    )
    of_trained = TableRule(config.trainable, config.trainable_kernel, trained=True)
    rules: dict[str, TableRule] = {}
    for side, tower in (("user", model.user), ("item", model.item)):
        rules[side] = of_frozen if tower.ids.frozen else of_trained
        if isinstance(tower.ids, HybridIds):
            rules[tower.ids.free_name] = of_trained
        if tower.features is not None:
            # A few hundred rows: copying them to every rank is cheaper than sending lookups.
            rules.update(dict.fromkeys(tower.features.names, TableRule("data_parallel")))
        if tower.dense is not None:
            for each, name in zip(tower.dense.values, tower.dense.tables, strict=True):
                rules[name] = replace(of_frozen, storage="fp16") if each.half else of_frozen
    frozen_tables = model.frozen_tables()
    for prefix in ("sources", "targets"):
        if prefix in frozen_tables:
            rules[frozen_tables[prefix].name] = rules["item"]
    return rules


def store_frozen_tables(model: TwoTower, config: ShardingConfig) -> None:
    """Store frozen tables as ``sharding.frozen_storage`` says; call it before wrapping.

    Raises:
        CadcError: int8 was asked for; training has no such tables yet.
    """
    if config.frozen_storage == "int8":
        raise CadcError(INT8_NOT_TRAINED)
    if config.frozen_storage == "fp16":
        for table in model.frozen_tables().values():
            table.store_as_half()


def fuse_table_optimizer(model: TwoTower, config: TrainConfig, sharding: str, device: str) -> None:
    """Give model-parallel trainable id tables their fused optimizer; call it before wrapping.

    Args:
        model: two towers.
        config: learning rates.
        sharding: type of these tables.
        device: kind of the device that will train.
    """
    if sharding == "data_parallel":
        return
    kind, settings = fused_optimizer(config, device)
    for tower in (model.user, model.item):
        for table in tower.ids.trained_tables().values():
            apply_optimizer_in_backward(kind, table.parameters(), settings)


def fused_optimizer(
    config: TrainConfig, device: str
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """The optimizer of model-parallel tables, and its settings.

    Adam's rate follows the schedule, see `Trainer`. fbgemm's weight decay is another than that of
    `dense_optimizer`, and neither optimizer has any.
    """
    if device == "cuda":
        return Adam, {"lr": config.learning_rate}
    return RowWiseAdagrad, {"lr": config.fused_learning_rate}


def dense_optimizer(wrapped: nn.Module, model: TwoTower, config: TrainConfig) -> torch.optim.Adam:
    """Adam over everything that is neither frozen nor fused; call it after wrapping.

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
    return adam(parameters, config, next(iter(wrapped.parameters())).device)


def adam(
    parameters: Iterable[tuple[str, torch.Tensor]], config: TrainConfig, device: torch.device
) -> torch.optim.Adam:
    """Adam by one kernel; on a GPU its rate and steps lie there, so that no step passes them on.

    Args:
        parameters: by name.
        config: learning rate and weight decay.
        device: of the parameters.
    """
    gpu = on_gpu(device)
    rate = torch.tensor(config.learning_rate, device=device) if gpu else config.learning_rate
    return torch.optim.Adam(
        parameters, lr=rate, weight_decay=config.weight_decay, fused=True, capturable=gpu
    )


def is_frozen(name: str, model: TwoTower) -> bool:
    """Whether a parameter or state entry of this name belongs to a frozen table."""
    return any(name.startswith(f"{prefix}.table.") for prefix in model.frozen_tables())
