"""All that training changes, under names that do not depend on the number of ranks or sharding.

In: a trainer's live objects. Out: `Tensors` for a checkpoint, each rank its parts, and plain values
for its manifest; and the way back, onto as many ranks and under whichever sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from zlib import crc32

import torch
from torch import nn

from cadc_rec.data.load.position import Position, Stretch, taken
from cadc_rec.distributed.fused_lookups import tell_of_lookups
from cadc_rec.distributed.fused_state import (
    Columns,
    Momentum,
    column_groups,
    local_momenta,
    local_moments,
    regrouped,
)
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.state import LocalTensor, local_tensors
from cadc_rec.store.checkpoints.parts import Parts
from cadc_rec.training.averaging import WeightAverage

_ADAM = ("step", "exp_avg", "exp_avg_sq")
Load = Callable[[Mapping[str, Parts]], None]
"""Fills parts in place from a checkpoint; all ranks call it together."""


@dataclass
class Progress:
    """Where training stands and what it has found; the same on every rank but for seconds.

    Attributes:
        epoch: the current epoch, from 1; one more than the last when all are done.
        done: how far it is.
        epochs: loss, rate and validation of every finished epoch.
        best: validation NDCG@10 of the best epoch; -1 before the first validation.
        best_epoch: its number; 0 before the first validation.
        latest: validation NDCG@10 of the last validation; -1 before the first.
        since: validations since the best one.
        training_seconds: time in steps alone.
        validation_seconds: time in validation.
        validation_cpu_seconds: of this process, all its threads together.
        epoch_seconds: time in steps of the current epoch.
    """

    epoch: int = 1
    done: Position = ()
    epochs: list[dict[str, float]] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = 0
    latest: float = -1.0
    since: int = 0
    training_seconds: float = 0.0
    validation_seconds: float = 0.0
    validation_cpu_seconds: float = 0.0
    epoch_seconds: float = 0.0

    def steps(self, per_epoch: int) -> int:
        """Steps that were taken in all."""
        return (self.epoch - 1) * per_epoch + taken(self.done)

    def as_json(self) -> dict[str, Any]:
        """JSON values, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """Of the values that `as_json` gave."""
        return cls(**{**values, "done": tuple(Stretch(**each) for each in values["done"])})


class TrainingState:
    """The live state of a training.

    Args:
        model: wrapped.
        optimizer: of what is not fused; made of named parameters, where it is to be saved.
        trains: whether a state entry of this name is trained.
        processes: the ranks.
        horizon: of the moving average, steps.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        trains: Callable[[str], bool],
        processes: Processes,
        horizon: float,
    ) -> None:
        self.model, self.optimizer, self.processes = model, optimizer, processes
        self.locals = list(local_tensors(model, trains))
        self.live = [local.tensor for local in self.locals]
        by_row = tell_of_lookups(model, self.live, self._announce) if horizon else []
        self.average = WeightAverage(self.live, horizon, by_row)
        self.best: list[torch.Tensor] | None = None
        self.loss = torch.zeros((), device=processes.device)
        """Of the current epoch, this rank's part of the sum over its steps."""
        self.progress = Progress()

    def _announce(self, tensor: int, rows: torch.Tensor) -> None:
        self.average.announce(tensor, rows)

    def keep_as_best(self) -> None:
        """Copy the live weights aside."""
        if self.best is None:
            self.best = [tensor.clone() for tensor in self.live]
        else:  # into the same memory: there is never a second copy
            with torch.no_grad():
                torch._foreach_copy_(self.best, self.live)

    def restore_best(self) -> None:
        """Make the kept weights the live ones; without any, they stay as they are."""
        if self.best is not None:
            with torch.no_grad():
                torch._foreach_copy_(self.live, self.best)

    def tensors(self) -> dict[str, Parts]:
        """What this rank holds of everything that is to be saved."""
        rank = self.processes.rank
        found = self._like_weights("weights", self.live)
        if self.average.horizon:
            # As it stands: brought up to date in two steps, it would round otherwise than in one.
            found |= self._like_weights("average", self.average.average)
            for n, seen in self.average.seen().items():
                local = self.locals[n]
                name = f"seen/{local.name}"
                known = found[name].parts if name in found else {}
                found[name] = Parts((local.shape[0],), {**known, (local.row,): seen})
        if self.best is not None:
            found |= self._like_weights("best", self.best)
        for name, key, value in self._dense_state():
            found[f"dense/{name}/{key}"] = Parts.whole(value)
        for momentum in local_momenta(self.model):
            size = (momentum.rows, len(momentum.groups))
            name = f"momentum/{momentum.name}"
            known = found[name].parts if name in found else {}
            offsets = (momentum.row, momentum.group)
            found[name] = Parts(size, {**known, offsets: momentum.tensor[:, None]})
        found |= self._moments()
        found[f"loss/{rank}"] = Parts.whole(self.loss)
        for kind, value in self._random_states().items():
            found[f"random/{rank}/{kind}"] = Parts.whole(value)
        return found

    def described(self) -> dict[str, Any]:
        """What a manifest holds beside the tensors; the same on every rank."""
        return {
            "progress": self.progress.as_json(),
            "ranks": self.processes.world_size,
            "average_steps": self.average.steps,
            "columns": column_groups(self.model),
            "optimizers": self.optimizers(),
        }

    def optimizers(self) -> dict[str, str]:
        """Which optimizer moves each tensor.

        ``dense`` (Adam), ``fused`` (row-wise Adagrad), or ``fused Adam``.
        """
        dense = {name: "dense" for name, _ in self._dense_parameters()}
        fused = getattr(self.model, "fused_optimizer", None)
        names = {local.name for local in self.locals}
        kept = dict.fromkeys(fused.params if fused is not None else (), "fused")
        adam = {local.name.rpartition("/")[0]: "fused Adam" for local in local_moments(self.model)}
        kept |= adam
        return {**{name: kind for name, kind in kept.items() if name in names}, **dense}

    def restore(
        self, manifest: Mapping[str, Any], sizes: Mapping[str, Sequence[int]], load: Load
    ) -> list[str]:
        """Continue from a saved training; all ranks must call.

        Args:
            manifest: what `described` gave.
            sizes: size of every saved tensor by name.
            load: reads them.

        Returns:
            The tensors whose optimizer begins anew, because another kind of it moved them.
        """
        self.progress = Progress.from_json(manifest["progress"])
        seen, wanted_seen = self._seen_targets(sizes)
        wanted = self._like_weights("weights", self.live)
        if self.average.horizon:
            wanted |= self._like_weights("average", self.average.average) | wanted_seen
        if any(name.startswith("best/") for name in sizes):
            self.keep_as_best()
            assert self.best is not None
            wanted |= self._like_weights("best", self.best)
        wanted |= self._dense_targets(sizes)
        momenta, read = self._momentum_targets(sizes)
        wanted |= read
        wanted |= {name: parts for name, parts in self._moments().items() if name in sizes}
        losses = self._loss_targets(manifest["ranks"])
        random = self._random_targets(sizes, manifest["ranks"])
        wanted |= {name: Parts.whole(value) for name, value in (losses | random).items()}
        with torch.no_grad():
            load(wanted)
            for momentum, saved in momenta:
                groups = [(start, stop) for start, stop in manifest["columns"][momentum.name]]
                mine: Columns = momentum.groups[momentum.group]
                momentum.tensor.copy_(regrouped(saved, groups, mine))
        self.average.read_in(manifest["average_steps"], seen)
        self.loss = sum(losses.values(), torch.zeros((), device=self.processes.device))
        self._take_random_states(random)
        now, before = self.optimizers(), manifest["optimizers"]
        return sorted(name for name, kind in now.items() if before.get(name, kind) != kind)

    def _like_weights(self, kind: str, tensors: Sequence[torch.Tensor]) -> dict[str, Parts]:
        """Tensors of the same shapes and offsets as the weights."""
        return _joined(kind, zip(self.locals, tensors, strict=True))

    def _moments(self) -> dict[str, Parts]:
        """Fused Adam's moments, live."""
        return _joined("moments", ((each, each.tensor) for each in local_moments(self.model)))

    def _dense_parameters(self) -> list[tuple[str, torch.Tensor]]:
        return [
            (name, parameter)
            for group in self.optimizer.param_groups
            for name, parameter in zip(group.get("param_names", ()), group["params"], strict=False)
        ]

    def _dense_state(self) -> list[tuple[str, str, torch.Tensor]]:
        """State of the dense optimizer: parameter, what it is, and the value."""
        return [
            (name, key, value)
            for name, parameter in self._dense_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        ]

    def _dense_targets(self, sizes: Mapping[str, Sequence[int]]) -> dict[str, Parts]:
        """Fresh state of the dense optimizer, to be filled, where there is a saved one."""
        found: dict[str, Parts] = {}
        for name, parameter in self._dense_parameters():
            keys = [key for key in _ADAM if f"dense/{name}/{key}" in sizes]
            if not keys:
                continue
            state = {
                key: torch.zeros((), dtype=torch.float32, device=parameter.device)
                if key == "step"
                else torch.zeros_like(parameter, memory_format=torch.preserve_format)
                for key in keys
            }
            self.optimizer.state[parameter] = state
            found |= {f"dense/{name}/{key}": Parts.whole(value) for key, value in state.items()}
        return found

    def _momentum_targets(
        self, sizes: Mapping[str, Sequence[int]]
    ) -> tuple[list[tuple[Momentum, torch.Tensor]], dict[str, Parts]]:
        """For each momentum here, room for its rows under all groups that were saved."""
        momenta: list[tuple[Momentum, torch.Tensor]] = []
        read: dict[str, Parts] = {}
        for momentum in local_momenta(self.model):
            name = f"momentum/{momentum.name}"
            if name not in sizes:
                continue
            rows, groups = sizes[name]
            rooms = dict(read[name].parts) if name in read else {}
            fresh = momentum.tensor.new_empty(len(momentum.tensor), groups)
            room = rooms.setdefault((momentum.row, 0), fresh)
            momenta.append((momentum, room))
            read[name] = Parts((rows, groups), rooms)
        return momenta, read

    def _seen_targets(
        self, sizes: Mapping[str, Sequence[int]]
    ) -> tuple[dict[int, torch.Tensor], dict[str, Parts]]:
        """Room for how far the average of each row was right, where that was saved."""
        seen: dict[int, torch.Tensor] = {}
        read: dict[str, Parts] = {}
        for n, local in enumerate(self.locals):
            name = f"seen/{local.name}"
            if name not in sizes or not self.average.horizon:
                continue
            rooms = dict(read[name].parts) if name in read else {}
            fresh = torch.zeros(len(local.tensor), dtype=torch.int32, device=local.tensor.device)
            seen[n] = rooms.setdefault((local.row,), fresh)  # columns of a row share it
            read[name] = Parts((local.shape[0],), rooms)
        return seen, read

    def _loss_targets(self, ranks: int) -> dict[str, torch.Tensor]:
        """This rank's own part of the epoch's loss; of other ranks' parts, rank 0 takes all."""
        rank, same = self.processes.rank, ranks == self.processes.world_size
        mine = [rank] if same else range(ranks if rank == 0 else 0)
        return {f"loss/{each}": torch.zeros_like(self.loss) for each in mine}

    def _random_states(self) -> dict[str, torch.Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.processes.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.processes.device)
        return states

    def _random_targets(
        self, sizes: Mapping[str, Sequence[int]], ranks: int
    ) -> dict[str, torch.Tensor]:
        """Room for this rank's random states, where as many ranks as now saved theirs."""
        if ranks != self.processes.world_size:
            return {}
        named = {
            f"random/{self.processes.rank}/{kind}": state
            for kind, state in self._random_states().items()
        }
        return {
            name: torch.empty_like(state)
            for name, state in named.items()
            if tuple(sizes.get(name, ())) == tuple(state.shape)
        }

    def _take_random_states(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Go on with the saved states, or with new ones that no rank has had before."""
        rank = self.processes.rank
        if not saved:
            place = f"{torch.initial_seed()} {self.progress.epoch} {self.progress.done}"
            torch.manual_seed(crc32(place.encode()))
        for name, state in saved.items():
            if name == f"random/{rank}/cpu":
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, self.processes.device)


def _joined(kind: str, tensors: Iterable[tuple[LocalTensor, torch.Tensor]]) -> dict[str, Parts]:
    """Tensors in the places of others, the parts of each under one name."""
    found: dict[str, Parts] = {}
    for local, tensor in tensors:
        name = f"{kind}/{local.name}"
        known = found[name].parts if name in found else {}
        found[name] = Parts(local.shape, {**known, local.offsets: tensor})
    return found
