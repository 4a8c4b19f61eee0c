"""What the sequential models share: histories, attention, a sampled softmax, training and ranking.

In: a prepared dataset and a model that gives a vector at each place of a history. Out: points of
its curve, ranked as `cadc_rec.evaluation` ranks all models. What makes one model differ from
another is in `sasrec.py`, `esasrec.py` and `hstu.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks.time_to_quality.contenders import KS, Reached
from benchmarks.time_to_quality.histories import Histories, batches
from cadc_rec.data.dataset import NO_ITEM, Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.machine import keep_freed_memory

_USERS_AT_ONCE = 512  # in ranking


@dataclass(frozen=True)
class SequenceSettings:
    """What every sequential model is told; `length` is the number of items of a history."""

    length: int = 50
    blocks: int = 2
    width: int = 64
    heads: int = 1
    dropout: float = 0.2
    learning_rate: float = 1e-3
    batch: int = 128
    negatives: int = 1024


class Attention(nn.Module):
    """Causal self-attention with a softmax: ``[batch, length, width]`` to the same."""

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads, self.dropout = settings.heads, settings.dropout
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What each place sees of itself and those before it."""
        batch, length, width = x.shape
        joint = self.joint(x).view(batch, length, 3, self.heads, -1)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True
        )
        return self.out(seen.transpose(1, 2).reshape(batch, length, width))


class SequenceModel(nn.Module):
    """A vector at each place of a history; dot products with items' vectors score what is next.

    Args:
        n_items: items there are.
        settings: the model's.
        scale: items' vectors are multiplied by this where they enter.
    """

    timed = False
    """Whether histories' times are read."""
    bias: torch.Tensor | None = None
    """``[n_items]``, added to scores in the loss alone."""

    def __init__(self, n_items: int, settings: SequenceSettings, scale: float) -> None:
        super().__init__()
        self.settings, self.scale = settings, scale
        self.items = nn.Embedding(n_items, settings.width)
        self.order = nn.Embedding(settings.length, settings.width)
        self.dropout = nn.Dropout(settings.dropout)
        for table in (self.items, self.order):
            nn.init.normal_(table.weight, std=0.02)

    def entered(self, items: torch.Tensor) -> torch.Tensor:
        """Items and their places as vectors ``[batch, length, width]``.

        What comes later has no say in what stands before it, so the places behind a short history
        need no mask; their own vectors mean nothing.
        """
        x = self.items(items.clamp_min(0)) * self.scale
        found: torch.Tensor = self.dropout(x + self.order.weight[: items.shape[1]])
        return found

    def forward(self, items: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        """``[batch, length, width]`` of histories ``[batch, length]``, the earliest item first."""
        raise NotImplementedError

    def candidates(self, items: torch.Tensor) -> torch.Tensor:
        """The vectors ``[n, width]`` by which these items ``[n]`` are scored."""
        found: torch.Tensor = self.items(items)
        return found

    def negatives(self, targets: torch.Tensor) -> torch.Tensor:
        """Different items ``[n]`` that all places of a step share; `targets` are the places'."""
        n_items = self.items.num_embeddings
        return torch.randperm(n_items)[: self.settings.negatives]

    def loss(self, vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Summed `shared_softmax` of some places."""
        n_items = self.items.num_embeddings
        return shared_softmax(
            vectors, targets, self.negatives(targets), self.candidates, self.bias, n_items
        )


def shared_softmax(
    vectors: torch.Tensor,
    targets: torch.Tensor,
    negatives: torch.Tensor,
    candidates: Callable[[torch.Tensor], torch.Tensor],
    bias: torch.Tensor | None,
    n_items: int,
) -> torch.Tensor:
    """Summed cross-entropy of each target among itself and the negatives that are not it.

    Args:
        vectors: ``[places, width]``.
        targets: the next item of each place, ``[places]``.
        negatives: ``[n]``, all different, the same for all places.
        candidates: the vectors of some items.
        bias: of all items ``[n_items]``, added to their scores; None for none.
        n_items: how many there are.
    """
    n = len(negatives)
    # One column more, for the targets: scores are the largest array, and are written just once.
    scores = vectors @ candidates(torch.cat([negatives, negatives[:1]])).t()
    right = (vectors * candidates(targets)).sum(1)
    if bias is not None:
        scores = scores + bias[torch.cat([negatives, negatives[:1]])]
        right = right + bias[targets]
    column = torch.full((n_items,), n)
    column[negatives] = torch.arange(n)
    place = torch.arange(len(targets))
    scores[place, column[targets]] = -torch.inf
    scores[:, n] = right
    return functional.cross_entropy(scores, torch.full_like(targets, n), reduction="sum")


def user_vectors(model: SequenceModel, histories: Histories) -> torch.Tensor:
    """``[users, width]``: the vectors at the last items of histories."""
    ends = np.maximum((histories.items != NO_ITEM).sum(1) - 1, 0)
    model.eval()
    found = []
    with torch.no_grad():
        for first in range(0, len(ends), _USERS_AT_ONCE):
            part = slice(first, first + _USERS_AT_ONCE)
            end = torch.from_numpy(ends[part])
            items, times = histories.some(part, int(end.max()) + 1)
            found.append(model(items, times)[torch.arange(len(end)), end])
    model.train()
    return torch.cat(found)


def metrics(
    model: SequenceModel, dataset: Dataset, sample: NDArray[np.int64] | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Of the validation and the test items, each over all items that its user has not taken.

    Args:
        model: whose scores rank.
        dataset: the validation item ends the history when the test item is ranked.
        sample: the users whose validation items are ranked; None for all.
    """
    known = UserItems(dataset.user_indptr, dataset.train_item)
    everybody = np.arange(dataset.n_users)
    with torch.no_grad():
        items = model.candidates(torch.arange(dataset.n_items))
    found = []
    for with_validation, targets, users in (
        (False, dataset.val_item, everybody if sample is None else sample),
        (True, dataset.test_item, everybody),
    ):
        excluded = known.and_one_each(dataset.val_item) if with_validation else known
        histories = Histories.before_the_end(
            dataset, model.settings.length, with_validation, users, model.timed
        )
        mine = targets[users]
        ranks = held_out_ranks(
            user_vectors(model, histories), items, mine, excluded.some(users), enough=max(KS)
        )
        found.append(ranking_metrics(ranks[mine >= 0], KS))
    return found[0], found[1]


def learn(
    make: Callable[[], SequenceModel],
    dataset: Dataset,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Reached]:
    """Train on all of D_full; yield what is reached at each checkpoint.

    Args:
        make: the model, with its initial weights drawn.
        dataset: a user's last ``length + 1`` training items are one sequence.
        seed: of the initial weights, the order, the negatives and dropout.
        checkpoints: CPU seconds of this process spent in training steps, ascending.
        sample: see `metrics`.
        clock: of these seconds.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    keep_freed_memory()  # as our own training does
    model = make()
    settings = model.settings
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
    found = Histories.before_the_end(dataset, settings.length + 1, timed=model.timed)
    long = found.items[:, 1] >= 0  # one item has nothing that follows
    sequences = Histories(found.items[long], None if found.times is None else found.times[long])
    lengths = torch.from_numpy((sequences.items >= 0).sum(1))
    # A place weighs the same in a batch of short histories as in one of long ones.
    usual = settings.batch * float((lengths - 1).float().mean())

    def step(rows: torch.Tensor) -> None:
        items, times = sequences.some(rows.numpy(), int(lengths[rows].max()))
        targets = items[:, 1:]
        real = targets >= 0
        vectors = model(items[:, :-1], None if times is None else times[:, :-1])[real]
        loss = model.loss(vectors, targets[real]) / usual
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    left, spent, epochs = list(checkpoints), 0.0, 0.0
    if not (lengths > 1).any():
        raise CadcError("no user has two training interactions, so no next item can be learned.")
    while True:
        for rows in batches(lengths, settings.batch):
            started = clock()
            step(rows)
            spent += clock() - started
            epochs += len(rows) / len(lengths)
            if spent >= left[0]:
                left.pop(0)
                yield Reached(spent, epochs, *metrics(model, dataset, sample))
            if not left:
                return
