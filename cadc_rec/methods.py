"""A method of the paper's Table 1 is a row of settings, laid over the experiment's file."""

from __future__ import annotations

from typing import Any, Literal, get_args

MethodName = Literal["cadc", "random", "gold"]

METHODS: dict[str, dict[str, Any]] = {
    # The paper's: MF reads everything, the towers read a uniform sample, ids stay frozen.
    "cadc": {
        "pretrain.model": "mf",
        "select.kind": "uniform",
        "model.id_embedding": "init_frozen",
    },
    # The same sample, ids learned from it alone.
    "random": {
        "pretrain.model": "none",
        "select.kind": "uniform",
        "model.id_embedding": "trainable",
    },
    # The gold standard: every interaction, ids learned.
    "gold": {
        "pretrain.model": "none",
        "select.kind": "everything",
        "model.id_embedding": "trainable",
    },
}

assert set(METHODS) == set(get_args(MethodName))
