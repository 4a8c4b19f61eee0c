"""Methods: each is a row of settings that is laid over the experiment's file."""

from __future__ import annotations

from typing import Any, Literal, get_args

MethodName = Literal[
    "cadc",
    "cadc-mlp",
    "random",
    "over-sampling",
    "under-sampling",
    "logq",
    "gold",
    "mf",
    "als",
    "popularity",
    "prior",
    "recipe",
    "recipe-gold",
    "cadc-residual",
    "auto",
]


def _learned_ids(selection: str, **more: Any) -> dict[str, Any]:
    """No pre-training; towers and ids learn from the selection alone."""
    return {
        "pretrain.model": "none",
        "select.kind": selection,
        "model.id_embedding": "trainable",
        **more,
    }


def _pretrained_ids(pretraining: str) -> dict[str, Any]:
    """Vectors learned from everything, then frozen; towers learn from a uniform sample."""
    return {
        "pretrain.model": pretraining,
        "select.kind": "uniform",
        "model.id_embedding": "init_frozen",
    }


def _tables_alone(pretraining: str) -> dict[str, Any]:
    """No towers: the pre-trained vectors are scored directly."""
    return {"pretrain.model": pretraining, "model.kind": "tables"}


def _histories(**more: Any) -> dict[str, Any]:
    """Frozen ALS and transition vectors, and the scores that they give from a user's last items."""
    return {
        "pretrain.model": "als",
        "transitions.window": 10,
        "history.length": 50,
        "prior.use": True,
        **more,
    }


def _recipe(selection: str) -> dict[str, Any]:
    """The most accurate use of CADC's idea (docs/accuracy.md)."""
    return {
        **_histories(),
        "pretrain.scale": "unit",
        "select.kind": selection,
        "model.id_embedding": "init_frozen",
        "train.loss": "sampled-softmax",
        "train.exclude_known": True,
    }


METHODS: dict[str, dict[str, Any]] = {
    # The paper's: MF reads everything, the towers read a uniform sample, ids stay frozen.
    "cadc": _pretrained_ids("mf"),
    # The same with an MLP on the two vectors in place of MF's dot product.
    "cadc-mlp": _pretrained_ids("mlp"),
    # The same sample, ids learned from it alone.
    "random": _learned_ids("uniform"),
    # Samples of the same size, balanced over items (the long-tail techniques).
    "over-sampling": _learned_ids("over-sampling"),
    "under-sampling": _learned_ids("under-sampling"),
    # The uniform sample, with the item's log frequency subtracted from the training logits.
    "logq": _learned_ids("uniform", **{"train.logq": True}),
    # The gold standard: every interaction, ids learned.
    "gold": _learned_ids("everything"),
    # Not in the paper: pre-trained vectors without towers, and no learning at all.
    "mf": _tables_alone("mf"),
    "als": _tables_alone("als"),
    "popularity": _tables_alone("popularity"),
    # Not in the paper: what frozen ALS and transition vectors say of a history, without towers and
    # without a labelled example; then with towers, each user's most recent share and a softmax;
    # and the same on every interaction, which shows what the sample costs.
    "prior": _histories(**{"model.kind": "tables"}),
    "recipe": _recipe("recent"),
    "recipe-gold": _recipe("everything"),
    # Not in the paper as a method: towers that only add to MF's own score.
    "cadc-residual": {
        **_pretrained_ids("mf"),
        "model.id_embedding": "residual",
        "model.keep": "better",
    },
    # What `inspect` writes: the recipe on any data, or its tables alone where towers add nothing.
    "auto": _recipe("recent"),
}

_OF_ALS: dict[str, Any] = {"pretrain.als.alpha": 0.0}
_OF_TABLES: dict[str, Any] = {
    **_OF_ALS,
    "transitions.form": "lists",
    "transitions.normalization": 0.3,
    "prior.fit": "validation",
}
_OF_TOWERS: dict[str, Any] = {
    **_OF_TABLES,
    "model.keep": "better",
    "model.id_dropout": 0.1,
    "model.tower": [256, 96],
    "train.epochs": 6,
    "train.batch_size": 0,
    "train.schedule": "cosine",
    "train.average_epochs": 0.0,
    "train.patience": 2,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "als": _OF_ALS,
    "prior": _OF_TABLES,
    "recipe": _OF_TOWERS,
    "recipe-gold": _OF_TOWERS,
    "auto": _OF_TOWERS,
}
"""What a method has where the file says nothing; unlike a row of `METHODS`, the file may differ."""
OF_PRIOR = frozenset({*_OF_TABLES, "model.keep"})
"""Those of them that are defaults only while ``prior.use`` is true, of methods that have one."""

assert set(METHODS) == set(get_args(MethodName))
