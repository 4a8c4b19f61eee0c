"""The public archives themselves, where the user has them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cadc_rec.config.experiment import DataConfig
from cadc_rec.config.file import load_experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.prepare.build_dataset import build_dataset
from cadc_rec.data.sources.raw_input import DATA_VARIABLE, find_raw, locate
from cadc_rec.store.artifact import run_stage

pytestmark = pytest.mark.realdata
_FOLDER = os.environ.get(DATA_VARIABLE)  # before the fixture of this folder hides it


def prepared(tmp_path: Path, **settings: object):
    config = DataConfig.model_validate(settings)
    if not _FOLDER or locate(config.source, Path(_FOLDER)) is None:
        pytest.skip(f"no archive of {config.source} in ${DATA_VARIABLE}")
    return prepare_in(tmp_path, config)


def prepare_in(tmp_path: Path, config: DataConfig):
    raw = find_raw(config, Path(_FOLDER))
    return run_stage(
        tmp_path,
        "prepare",
        config.decisive(),
        {"raw": raw.fingerprint},
        lambda draft: build_dataset(config, raw, draft),
    )


def test_movielens_1m_has_its_published_counts(tmp_path):
    artifact = prepared(tmp_path, source="movielens-1m")
    info = artifact.info
    assert artifact.manifest["rows"] == 1_000_209
    assert (info["users"], info["items"]) == (6_040, 3_706)
    assert (info["train"], info["val"], info["test"]) == (988_129, 6_040, 6_040)
    assert (info["duplicates_dropped"], info["users_train_only"]) == (0, 0)
    dataset = Dataset.open(artifact)
    sizes = {a.name: a.size - 1 for a in dataset.user_attributes + dataset.item_attributes}
    # README of the archive: 2 genders, 7 age groups, 21 occupations, 18 genres
    assert sizes == {"gender": 2, "age_group": 7, "occupation": 21, "genres": 18, "decade": 10}


@pytest.mark.parametrize(
    ("k_core", "rows", "users", "items"),
    [(0, 664_824, 40_163, 139_738), (5, 446_892, 20_397, 21_901), (20, 103_567, 2_677, 2_060)],
)
def test_epinions_has_its_published_cores(k_core, rows, users, items, tmp_path):
    info = prepared(tmp_path, source="epinions", k_core=k_core).info
    assert info["train"] + info["val"] + info["test"] == rows
    assert (info["users"], info["items"]) == (users, items)
    assert info["order"] == "seeded random, split_seed=0"


def test_movielens_100k_has_its_published_counts_as_csv_tables(tmp_path):
    if not _FOLDER or not (Path(_FOLDER) / "ml-100k/ratings.csv").is_file():
        pytest.skip(f"no ml-100k/ratings.csv in ${DATA_VARIABLE}")
    config = load_experiment(Path(__file__).parents[2] / "configs/ml-100k.toml").data
    artifact = prepare_in(tmp_path, config)
    info = artifact.info
    assert (info["rows_read"], info["users"], info["items"]) == (100_000, 943, 1_682)
    assert (info["train"], info["val"], info["test"]) == (98_114, 943, 943)
    assert (info["timestamp_kind"], info["time_unit"]) == ("clock", "s")
    dataset = Dataset.open(artifact)
    sizes = {a.name: a.size - 1 for a in dataset.user_attributes + dataset.item_attributes}
    # README of the archive: 21 occupations; 18 genres beside "unknown"
    assert sizes["gender"] == 2
    assert sizes["occupation"] == 21
    assert sizes["class"] == 18
    age = dataset.user_attributes[-1]
    assert age.kind == "numeric"
    # seven buckets of 943 users of 61 ages: none much larger than a seventh
    assert max(np.bincount(age.values)) < 943 / 7 * 1.4
