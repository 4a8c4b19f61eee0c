"""Tables whose optimizer runs in their backward pass, as fbgemm's kernels look them up.

In: a wrapped model. Out: which rows a step of training looks up, before they change, for no other
row does; and for Adam the two numbers of a step that its kernel is not told otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakMethod

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen as Kernel,
)
from torch import nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection

Tell = Callable[[int, torch.Tensor], None]


def tell_of_lookups(model: nn.Module, tensors: Sequence[torch.Tensor], tell: Tell) -> list[int]:
    """Have `tell` called with the rows that each step looks up, before the step changes them.

    Args:
        model: wrapped; its fused tables are looked up with one id a row, as all of ours are.
        tensors: weights on this rank, as `local_tensors` gives them.
        tell: a method; it is called as long as its object lives, with a tensor's place among
            `tensors` and int64 rows of it, some perhaps several times.

    Returns:
        The places it is called with: in these tensors only rows that it was told of change.
    """
    places = {each.data_ptr(): n for n, each in enumerate(tensors) if each.numel()}
    told: list[int] = []
    for kernel in _kernels(model):
        weights = enumerate(kernel.split_embedding_weights())
        mine = {n: places[w.data_ptr()] for n, w in weights if w.data_ptr() in places}
        if mine:
            told += mine.values()
            hook = functools.partial(_tell, mine, WeakMethod(tell))
            kernel.register_forward_pre_hook(hook, with_kwargs=True)
    return told


def _tell(
    places: Mapping[int, int],
    tell: WeakMethod[Tell],
    kernel: Kernel,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    told = tell()
    if told is None or not torch.is_grad_enabled():  # nobody asks, or nothing will change
        return
    indices = kwargs["indices"] if "indices" in kwargs else args[0]
    # Parts of columns are features of their own, each with all of the ids.
    tables = kernel.feature_table_map
    of_features = indices.view(len(tables), indices.numel() // len(tables))
    for ids, table in zip(of_features, tables, strict=True):
        if table in places:
            told(places[table], ids)


def fused_adams(model: nn.Module) -> list[Kernel]:
    """The kernels on this rank that move their rows by Adam."""
    return [each for each in _kernels(model) if each.optimizer == EmbOptimType.ADAM]


def begin_adam_step(kernels: Sequence[Kernel], step: int, rate: float) -> None:
    """Tell Adam's kernels which step comes, and at what rate.

    They count by themselves, but lookups of validation, too, and anew after a restart. Both
    numbers are on the host: nothing is launched.

    Args:
        kernels: see `fused_adams`.
        step: of the training, from 0.
        rate: learning rate.
    """
    for kernel in kernels:
        if step == 0:  # 0 there means to read the other counter, which lies on the GPU
            kernel.set_optimizer_step(0)
        kernel.iter_cpu.fill_(step)
        kernel.set_learning_rate(rate)


def _kernels(model: nn.Module) -> Iterator[Kernel]:
    for sharded in model.modules():
        if isinstance(sharded, ShardedEmbeddingBagCollection):
            for lookup in sharded._lookups:
                yield from (each for each in lookup.modules() if isinstance(each, Kernel))
