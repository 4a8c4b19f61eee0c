"""The ranks that decisions may be taken on, against NumPy."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file


def test_validation_ranks_are_those_of_the_dot_products_over_items_not_trained_on(finished):
    artifacts = {stage: Path(path) for stage, path in finished.result["artifacts"].items()}
    out, data = artifacts["evaluate"], artifacts["prepare"]
    users = load_file(out / "user_vectors.safetensors")["vectors"].astype(np.float64)
    items = load_file(out / "item_vectors.safetensors")["vectors"].astype(np.float64)
    scores = users @ items.T
    trained = pq.read_table(data / "train")
    scores[trained["user"], trained["item"]] = -np.inf
    user_ids = pq.read_table(out / "user_ids.parquet")["user_id"].to_pylist()
    item_ids = pq.read_table(out / "item_ids.parquet")["item_id"].to_pylist()

    held_out = pq.read_table(data / "val.parquet").sort_by("user").to_pydict()
    expected = [
        {
            "user_id": user_ids[user],
            "item_id": item_ids[item],
            "rank": int((scores[user] >= scores[user, item]).sum()),
        }
        for user, item in zip(held_out["user"], held_out["item"], strict=True)
    ]
    written = pq.read_table(out / "validation_ranks.parquet")
    assert written.to_pylist() == expected
    assert len(expected) == len(user_ids)
    assert written.schema == pq.read_schema(out / "ranks.parquet")

    hits = np.array([row["rank"] for row in expected]) <= 10
    assert finished.result["validation"]["hr@10"] == pytest.approx(hits.mean())
