"""The layers of one side: an MLP over id row, attributes and further frozen vectors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cadc_rec.config.experiment import ModelConfig
from cadc_rec.models.dense import DenseFeatures, DenseValues
from cadc_rec.models.factorization import item_side, user_side
from cadc_rec.models.features import AttributeValues, SideFeatures
from cadc_rec.models.id_embedding import ID_EMBEDDINGS, FrozenIds
from cadc_rec.models.rows import on_gpu


@dataclass(frozen=True)
class SideSpec:
    """What a tower needs to know about its side: number of ids, and their attributes."""

    name: str
    rows: int
    attributes: Sequence[AttributeValues]
    transition_dim: int = 0
    """Width of the transition vectors on this side: an item's as a source, and as a target."""
    request: Mapping[str, int] = field(default_factory=dict)
    """What a user's tower reads of the moment of a request: number of codes of each feature."""
    request_dim: int = 0
    """Width of each such feature's vector."""
    dense: Sequence[DenseValues] = ()
    """Tables of vectors and numbers, with a row for each id."""


_SIDES = {"user": user_side, "item": item_side}
_LEVELS = 256  # values of a byte


class JoinedLinear(nn.Linear):
    """A linear layer on the concatenation of two inputs, without concatenating them.

    This saves time in the backward pass: a frozen part needs no gradient, but a concatenation would
    compute it all the same.

    Args:
        inputs: of both together.
        outputs: as of `nn.Linear`.
        in_place: write the weight's gradient by products into its columns: fewer launches, and on
            CPU other last bits than torch's own gradient has.
    """

    def __init__(self, inputs: int, outputs: int, in_place: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.in_place = in_place

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """``[n, out]`` of ``[n, a]`` and ``[n, b]``, a + b inputs together."""
        if second is None:
            return super().forward(first)
        kind = first.device.type
        autocast = kind != "meta" and torch.is_autocast_enabled(kind)  # which knows no such device
        if torch.is_grad_enabled() and self.weight.requires_grad and not autocast:
            joined: torch.Tensor = _Joined.apply(
                first, second, self.weight, self.bias, self.in_place
            )
            return joined
        return _joined(first, second, self.weight, self.bias)


def _joined(
    first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    width = first.shape[1]
    return torch.addmm(F.linear(second, weight[:, width:], bias), first, weight[:, :width].t())


class _Joined(torch.autograd.Function):
    """`_joined`; the weight's gradient is written once, where torch adds up one of each part."""

    @staticmethod
    def forward(
        ctx: Any,
        first: torch.Tensor,
        second: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        in_place: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(first, second, weight)
        ctx.in_place = in_place
        return _joined(first, second, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        first, second, weight = ctx.saved_tensors
        gradient, width = gradients[0], first.shape[1]
        of_first, of_second = ctx.needs_input_grad[:2]
        if ctx.in_place:
            of_weight = torch.empty_like(weight)
            torch.mm(first.t(), gradient, out=of_weight[:, :width].t())
            torch.mm(second.t(), gradient, out=of_weight[:, width:].t())
        else:
            parts = [part.t().mm(gradient).t() for part in (first, second)]
            of_weight = torch.cat(parts, 1)
        return (
            gradient.mm(weight[:, :width]) if of_first else None,
            gradient.mm(weight[:, width:]) if of_second else None,
            of_weight,
            gradient.sum(0),
            None,
        )


class ByteDropout(nn.Module):
    """Zeroes elements in training and scales the others up, so that the mean stays.

    Its mask costs a tenth of torch's on CPU. torch draws one Bernoulli number after another there,
    which for the id vectors of a batch took a quarter of a training step. Here eight elements
    share a random 64-bit word, a byte each; so the rate is a multiple of 1/256, the nearest to the
    one asked for.

    Args:
        rate: share of elements to drop, in ``[0, 1)``.
        one_kernel: leave it to torch, which on a GPU draws, scales and multiplies in one kernel.
    """

    def __init__(self, rate: float, one_kernel: bool = False) -> None:
        super().__init__()
        self.one_kernel = one_kernel
        self.dropped_levels = min(round(rate * _LEVELS), _LEVELS - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of any shape, unchanged in evaluation."""
        if not self.training or not self.dropped_levels:
            return x
        if self.one_kernel:
            return torch.native_dropout(x, self.dropped_levels / _LEVELS, True)[0]
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None)  # all 64 bits: the default range leaves the sign bit out
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped_levels
        return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - self.dropped_levels))


class Tower(nn.Module):
    """Rows to vectors; `look_up` gives the rows of ids.

    Args:
        side: which side, its ids and attributes.
        config: id embedding, widths.
        device: device of the MLP; the sharding plan places the tables.
        context_dim: width of the further frozen vectors of a row.
    """

    def __init__(
        self,
        side: SideSpec,
        config: ModelConfig,
        device: torch.device,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        kind = ID_EMBEDDINGS[config.id_embedding]
        self.id_dim, self.side = config.id_dim, side.name
        self.ids = kind(side.name, side.rows, config.id_dim, device)
        # The factorization's own score is added to the towers', as more elements of the vectors.
        self.residual = _SIDES[side.name] if config.id_embedding == "residual" else None
        self.features = (
            SideFeatures(side.name, side.attributes, config.feature_dim, device)
            if side.attributes
            else None
        )
        self.dense = (
            DenseFeatures(side.name, side.dense, side.rows, config.vector_dim, device)
            if side.dense
            else None
        )
        # A mask for each row that the tower sees: an id, or with a history each example.
        self.dropout = ByteDropout(config.id_dropout, on_gpu(device))
        width = config.id_dim + context_dim + self.feature_width
        width += len(side.request) * side.request_dim
        # Made on the CPU and moved, so that a seed starts them alike on every device.
        widths = config.widths(side.name)
        self.join = JoinedLinear(width, widths[0], on_gpu(device)).to(device)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.ReLU(), nn.Linear(before, after)]
        self.mlp = nn.Sequential(*layers).to(device)  # ends linear: a vector of any sign

    @property
    def feature_width(self) -> int:
        """Width of attributes, vectors and numbers together."""
        return sum(part.width for part in (self.features, self.dense) if part is not None)

    def cache(self, recurs: Callable[[torch.Tensor], bool]) -> None:
        """Look up once what never changes of ids whose very tensor comes in every step."""
        if isinstance(self.ids, FrozenIds):
            self.ids.cache.recurs = recurs
        if self.features is not None:
            self.features.cache.recurs = recurs
        if self.dense is not None:
            self.dense.cache(recurs)

    def silence(self) -> None:
        """Make all vectors zero until the last layer has learned."""
        last = self.last_layer()
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @torch.no_grad()
    def multiply(self, weight: float) -> None:
        """Multiply all learned vectors by `weight`, for good."""
        for parameter in self.last_layer().parameters():
            parameter.mul_(weight)

    def last_layer(self) -> nn.Linear:
        """The layer whose output is the learned part of the vectors."""
        last = self.mlp[-1] if len(self.mlp) else self.join
        assert isinstance(last, nn.Linear)
        return last

    def look_up(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Id rows ``[n, id_dim]`` and features ``[n, feature_width]`` of int64 ids ``[n]``.

        Features are the pooled attributes, and what is made of vectors and numbers.
        """
        parts = [part(ids) for part in (self.features, self.dense) if part is not None]
        features = None
        if parts:
            features = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return self.ids.rows(ids), features

    def forward(
        self,
        rows: torch.Tensor,
        features: torch.Tensor | None,
        context: Sequence[torch.Tensor] = (),
        present: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The learned part of the vectors, ``[n, tower[-1]]``, and the fixed one of the residual.

        Args:
            rows: ``[n, id_dim]``, what `look_up` gives.
            features: ``[n, feature_width]``; None where the side has none.
            context: further frozen rows of each, each ``[n, some]``.
            present: ``[n, 1]``, 0 where the id's part is left out of the tower's input: its rows,
                and an item's as what came after; None leaves nothing out.
        """
        vectors = self.ids.of_rows(rows)
        own = vectors
        if present is not None:
            own = vectors * present
            if self.side == "item":
                context = [part * present for part in context]
        known = torch.cat([own, *context], 1) if context else own
        learned: torch.Tensor = self.mlp(self.join(self.dropout(known), features))
        return learned, None if self.residual is None else self.residual(vectors)

    def without_tables(self) -> Tower:
        """The same layers, which cannot look any rows up."""
        bare = copy.copy(self)
        bare._modules = {
            "ids": self.ids.without_tables(),
            "features": None,
            "dense": None,
            **{name: self._modules[name] for name in ("dropout", "join", "mlp")},
        }
        return bare
