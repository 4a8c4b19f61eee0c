"""What requests carried stays with its interaction, and new values get codes, day after day."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import cadc_rec
from cadc_rec.config.experiment import DataConfig
from cadc_rec.errors import CadcError
from cadc_rec.updates.chain import artifacts_of
from cadc_rec.updates.update import carry_on
from tests.conftest import TINY
from tests.updates.conftest import after_day, base_dataset

COLUMNS = ["device", "stars"]


def rows(users, start, devices, seed):
    """Eight different items for each user, on devices and with stars drawn at random."""
    draw, found = np.random.default_rng(seed), []
    for user in users:
        for place, item in enumerate(draw.choice(40, 8, replace=False)):
            at = start + 9000 * place + int(draw.integers(0, 7000))
            device = devices[int(draw.integers(len(devices)))]
            found.append((f"u{user}", f"i{item}", at, device, int(draw.integers(1, 6))))
    return pd.DataFrame(found, columns=["user_id", "item_id", "at", *COLUMNS])


BASE = rows(range(40), 1_700_000_000, ["phone", "web", None], 1)
DAY = rows(range(30, 50), 1_700_100_000, ["phone", "watch", "car"], 2)


def tables(path):
    return {
        "path": str(path),
        "timestamp": "at",
        "timestamp_kind": "clock",
        "context": ["device"],
        "context_lagged": ["stars"],
    }


def write_day(folder, day):
    folder.mkdir()
    day.to_parquet(folder / "interactions.parquet", index=False)
    return folder


def said(artifact):
    """What the request of each interaction carried, by original ids, from the files' codes."""
    described = json.loads((artifact.path / "context.json").read_text())
    assert [(entry["name"], entry["lagged"]) for entry in described] == [
        ("device", False),
        ("stars", True),
    ]
    ids = {
        side: pq.read_table(artifact.path / f"{side}s.parquet")[f"{side}_id"].to_pylist()
        for side in ("user", "item")
    }
    files = [*sorted((artifact.path / "train").glob("*.parquet")), artifact.path / "val.parquet"]
    found = {}
    for row in pd.concat(
        map(pd.read_parquet, [*files, artifact.path / "test.parquet"])
    ).itertuples():
        carried = []
        for entry in described:
            code = getattr(row, f"context_{entry['name']}")
            assert 0 <= code < entry["size"] or not entry["vocabulary"]
            carried.append(None if not code else entry["vocabulary"][code - 1])
        found[ids["user"][row.user], ids["item"][row.item]] = tuple(carried)
    return described, found


def test_each_interaction_has_its_own_context_after_days_with_new_values(tmp_path):
    BASE.to_parquet(tmp_path / "log.parquet", index=False)
    config = DataConfig.model_validate(
        {"source": "tables", "tables": {"interactions": tables(tmp_path / "log.parquet")}}
    )
    before = base_dataset(tmp_path, config)
    was, _ = said(before)
    made = after_day(tmp_path, config, before, write_day(tmp_path / "day", DAY))
    now, found = said(made)
    union = pd.concat([BASE, DAY]).drop_duplicates(["user_id", "item_id"])
    union["device"] = union["device"].astype(object).where(union["device"].notna(), None)
    expected = {
        (row.user_id, row.item_id): (row.device, row.stars) for row in union.itertuples(index=False)
    }
    assert found == expected
    device = {entry["name"]: entry["vocabulary"] for entry in now}["device"]
    old = {entry["name"]: entry["vocabulary"] for entry in was}["device"]
    assert device == [*old, "car", "watch"]
    assert made.info["update"]["new_values"] == 2


def test_a_day_without_the_column_or_with_text_for_numbers_is_refused(tmp_path):
    BASE.to_parquet(tmp_path / "log.parquet", index=False)
    config = DataConfig.model_validate(
        {"source": "tables", "tables": {"interactions": tables(tmp_path / "log.parquet")}}
    )
    before = base_dataset(tmp_path, config)
    with pytest.raises(CadcError, match="device"):
        after_day(tmp_path, config, before, write_day(tmp_path / "day", DAY.drop(columns="device")))
    bad = DAY.assign(stars=DAY.stars.map(str).where(DAY.index != 3, "low"))
    with pytest.raises(CadcError, match=r"column stars: .* 'low' in the new table is none"):
        after_day(tmp_path, config, before, write_day(tmp_path / "bad", bad))


@pytest.mark.slow
@pytest.mark.parametrize("towers", ["train", "keep"])
def test_an_updated_model_answers_requests_with_new_values(towers, tmp_path):
    BASE.to_parquet(tmp_path / "log.parquet", index=False)
    config = tmp_path / "context.toml"
    config.write_text(
        TINY.replace("[data.generated]\nusers = 60\nitems = 40\ninteractions = 900\n", "")
    )
    interactions = tables("log.parquet")
    experiment = cadc_rec.load(
        config,
        method="recipe",
        set={
            "data.source": "tables",
            **{f"data.tables.interactions.{key}": value for key, value in interactions.items()},
            "context.features": ["hour", "gap", *COLUMNS],
            "prior.fit": "none",
            "model.keep": "towers",
            "select.ratio": 1.0,
            "update.towers": towers,
        },
    )
    run = cadc_rec.run(experiment, workdir=tmp_path / "work", data_dir=tmp_path)
    before = load_file(run.artifacts["train"].path / "model.safetensors")
    made = carry_on(experiment, tmp_path / "work", write_day(tmp_path / "day", DAY), tmp_path)
    assert made.update is not None
    learned = artifacts_of(tmp_path / "work", made.update)["train"]
    after = load_file(learned.path / "model.safetensors")
    name = next(key for key in before if key.endswith("request.tables.2.weight"))
    assert (len(before[name]), len(after[name])) == (3, 5)
    if towers == "keep":  # a new value starts as the unknown one stands
        assert torch.equal(after[name], before[name][[0, 1, 2, 0, 0]])
