"""Which settings decide what pre-training computes."""

from __future__ import annotations

from typing import Any

from cadc_rec.config.experiment import PretrainConfig


def pretrain_settings(config: PretrainConfig, seed: int) -> dict[str, Any]:
    """The settings that count for `config.model`, so that the others never cause work again."""
    if config.model == "popularity":  # counting has no settings
        return {"pretrain": {"model": config.model}}
    softmax = {"loss", "shared_negatives"}  # left out of the others: they were there before it
    gradient = {"epochs", "learning_rate", "l2", "negatives", *softmax}
    unused = {
        "mf": {"mlp", "als", *({"negatives"} if config.loss == "softmax" else softmax)},
        "als": {"mlp", "init_std", *gradient},
        "mlp": {"als", *gradient},
    }[config.model]
    told = config.model_dump(mode="json", exclude={"evaluate_every", *unused})
    if config.scale == "none":  # as it was before there was a choice
        del told["scale"]
    return {"pretrain": told, "seed": seed}
