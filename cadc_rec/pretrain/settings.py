"""Which settings decide what pre-training computes."""

from __future__ import annotations

from typing import Any

from cadc_rec.config import PretrainConfig


def pretrain_settings(config: PretrainConfig, seed: int) -> dict[str, Any]:
    """The settings that count for `config.model`, so that the others never cause work again."""
    if config.model == "popularity":  # counting has no settings
        return {"pretrain": {"model": config.model}}
    unused = {"evaluate_every"}
    unused |= {"mlp"} if config.model == "mf" else {"epochs", "learning_rate", "l2", "negatives"}
    return {"pretrain": config.model_dump(mode="json", exclude=unused), "seed": seed}
