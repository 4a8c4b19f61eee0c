"""torch-rechub's DSSM and trainer as a contender, as its examples use them.

Its layers want one width for all features of a side, so ids and attributes share that side's input
width evenly: the MLPs are as wide as ours. Its tower ends in batch normalization and an activation,
and its score is a cosine; it is measured as it is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.peers.ours import PlainBatch
from benchmarks.peers.peers import peer, quiet
from benchmarks.peers.plain_torch import padded_codes
from benchmarks.peers.timing import Work
from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Attribute, Dataset


class RechubTraining:
    """A turn is one pass of `MatchTrainer` over its batches, made beforehand.

    Args:
        dataset: sizes and attributes.
        experiment: widths and learning rate.
        batches: of a turn.

    Raises:
        MissingPeer: torch-rechub is not installed.
    """

    def __init__(
        self, dataset: Dataset, experiment: Experiment, batches: Sequence[PlainBatch]
    ) -> None:
        features = peer("torch_rechub.basic.features")
        matching = peer("torch_rechub.models.matching")
        trainers = peer("torch_rechub.trainers")
        model = experiment.model
        sides = {}
        for side, rows, attributes in (
            ("user", dataset.n_users, dataset.user_attributes),
            ("item", dataset.n_items, dataset.item_attributes),
        ):
            count = 1 + len(attributes)
            width = round((model.id_dim + model.feature_dim * len(attributes)) / count)
            sides[side] = [features.SparseFeature(side, vocab_size=rows, embed_dim=width)]
            for attribute in attributes:
                sides[side].append(feature(features, side, attribute, width))
        params = {"dims": list(model.tower), "activation": "relu"}
        with quiet():
            self.trainer = trainers.MatchTrainer(
                matching.DSSM(sides["user"], sides["item"], dict(params), dict(params)),
                mode=0,
                optimizer_params={"lr": experiment.train.learning_rate, "weight_decay": 0.0},
                n_epoch=1,
                device="cpu",
            )
        self.positives = sum(len(batch.users) for batch in batches)
        self.batches = [_as_rows(dataset, batch) for batch in batches]

    def turn(self) -> Work:
        """One pass over the batches."""
        with quiet():
            self.trainer.train_one_epoch(self.batches)
        return Work(self.positives)


def feature(features: Any, side: str, attribute: Attribute, width: int) -> Any:
    name = f"{side}_{attribute.name}"
    if attribute.kind == "multi":
        return features.SequenceFeature(
            name,
            vocab_size=attribute.size + 1,
            embed_dim=width,
            pooling="mean",
            padding_idx=attribute.size,
        )
    return features.SparseFeature(name, vocab_size=attribute.size + 1, embed_dim=width)


def _as_rows(dataset: Dataset, batch: PlainBatch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A row a pair: every feature by name, and labels."""
    width = batch.items.shape[1]
    ids = {"user": batch.users.repeat_interleave(width), "item": batch.items.flatten()}
    rows = dict(ids)
    for side, attributes in (("user", dataset.user_attributes), ("item", dataset.item_attributes)):
        for attribute in attributes:
            codes = torch.from_numpy(padded_codes(attribute))[ids[side]]
            rows[f"{side}_{attribute.name}"] = codes if attribute.kind == "multi" else codes[:, 0]
    labels = torch.zeros(len(batch.users), width)
    labels[:, 0] = 1.0
    return rows, labels.flatten()
