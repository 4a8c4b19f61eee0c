"""Writes the scripted TorchRec modules of a bundle and describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cadc_rec.export.predict import ANSWER, FLOATS, LENGTHS, VALUES, TwoTowerPredictFactory
from cadc_rec.export.towers import item_keys, query_keys
from cadc_rec.export.trained import TrainedModel
from cadc_rec.serving.bundle import layout


def write_modules(trained: TrainedModel, folder: Path, precisions: Sequence[str]) -> dict[str, Any]:
    """Write a scripted module for each precision; the entry ``torchrec`` of ``model.json``."""
    files = {}
    for precision in precisions:
        factory = TwoTowerPredictFactory(trained, precision)
        file = folder / layout.torchrec_module(precision)
        file.parent.mkdir(exist_ok=True)
        torch.jit.save(factory.scripted(), file)
        files[precision] = {
            "file": layout.torchrec_module(precision),
            "table_bytes": factory.table_bytes(),
        }
    features = {feature["name"]: feature for feature in factory.features()}
    return {
        "precisions": files,
        "float_table_bytes": sum(4 * table.weight.numel() for table in trained.tables),
        "inputs": [
            {"name": LENGTHS, "dtype": "int32", "shape": ["features * batch"]},
            {"name": VALUES, "dtype": "int64", "shape": ["values"]},
            {"name": FLOATS, "dtype": "float32", "shape": ["batch", 0]},
        ],
        "outputs": [{"name": ANSWER, "dtype": "float32"}],
        "methods": {
            "forward": [features[key] for key in (*query_keys(trained), *item_keys(trained))],
            "query_vectors": [features[key] for key in query_keys(trained)],
            "item_vectors": [features[key] for key in item_keys(trained)],
        },
        "batching": {k: vars(v) for k, v in factory.batching_metadata().items()},
        "result": factory.result_metadata(),
    }
