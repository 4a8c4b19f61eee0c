"""All that a matrix factorization changes, in each rank's rows, under names that any number reads.

In: a solver's live tables and optimizers. Out: `Tensors` for a checkpoint, and plain values for its
manifest; and the way back, onto as many ranks and under either kind of table. The saved state of
the two towers is `training_state`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.state import LocalTensor
from cadc_rec.pretrain.alternating import AlternatingSolver
from cadc_rec.pretrain.softmax import SoftmaxSolver
from cadc_rec.store.checkpoints.parts import Parts
from cadc_rec.training.training_state import Load, Progress

_MOMENTS = ("exp_avg", "exp_avg_sq")
_PART_BYTES = 2**26  # of rows: what is copied when a part is written


class FactorizationState:
    """The live state of a factorization between two epochs.

    Args:
        solver: its tables and their optimizers.
        processes: the ranks, each of which has its share of the rows.
    """

    def __init__(self, solver: AlternatingSolver | SoftmaxSolver, processes: Processes) -> None:
        self.processes, self.progress = processes, Progress()
        sides = {"user": solver.users, "item": solver.items}
        self._tables = [side.table for side in sides.values()]
        self.locals = [
            LocalTensor(
                name, side.local, (side.table.n, side.local.shape[1]), side.table.rows.start
            )
            for name, side in sides.items()
        ]
        self._optimizers: list[torch.optim.Optimizer] = [side.adam for side in sides.values()]
        if isinstance(solver, AlternatingSolver):
            bias = LocalTensor("bias", solver.bias, tuple(solver.bias.shape))
            self.locals.append(bias)
            self._optimizers.append(solver.bias_adam)

    def tensors(self) -> dict[str, Parts]:
        """What this rank holds of everything that is to be saved."""
        found = {}
        for local, optimizer in zip(self.locals, self._optimizers, strict=True):
            found[f"weights/{local.name}"] = _parts(local, local.tensor.detach())
            state = _state(optimizer)
            for name in _MOMENTS:
                found[f"{name}/{local.name}"] = _parts(local, state[name])
            found[f"step/{local.name}"] = Parts.whole(state["step"])
        return found

    def described(self) -> dict[str, Any]:
        """What a manifest holds beside the tensors; the same on every rank."""
        return {
            "progress": self.progress.as_json(),
            "ranks": self.processes.world_size,
            "optimizers": self.optimizers(),
        }

    def optimizers(self) -> dict[str, str]:
        """Which optimizer moves each tensor: Adam, always, so there is nothing to compare."""
        return {}

    def restore(
        self, manifest: Mapping[str, Any], sizes: Mapping[str, Sequence[int]], load: Load
    ) -> list[str]:
        """Continue from a saved factorization; all ranks must call.

        Args:
            manifest: what `described` gave.
            sizes: size of every saved tensor by name.
            load: reads them.

        Returns:
            Nothing: no optimizer begins anew.
        """
        self.progress = Progress.from_json(manifest["progress"])
        for local, optimizer in zip(self.locals, self._optimizers, strict=True):
            (parameter,) = optimizer.param_groups[0]["params"]
            step = torch.zeros((), device=local.tensor.device)
            moments = {name: torch.zeros_like(parameter.detach()) for name in _MOMENTS}
            optimizer.state[parameter] = {"step": step, **moments}
        with torch.no_grad():
            load(self.tensors())
        for table in self._tables:
            table.publish()
        return []


def _state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Of the one parameter that it moves."""
    (parameter,) = optimizer.param_groups[0]["params"]
    found: dict[str, torch.Tensor] = optimizer.state[parameter]
    return found


def _parts(local: LocalTensor, tensor: torch.Tensor) -> Parts:
    """A tensor in the place of another, in pieces of rows."""
    return Parts(local.shape, dict(_pieces(local, tensor)))


def _pieces(
    local: LocalTensor, tensor: torch.Tensor
) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
    if not local.shape:
        yield (), tensor
        return
    step = max(1, _PART_BYTES // (tensor.element_size() * local.width))
    for start in range(0, len(tensor), step):
        yield (local.row + start, 0), tensor[start : start + step]
