"""Vectors, text, numbers and cold items in whole runs: several processes, and after a kill."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from cadc_rec.config.file import load_experiment
from cadc_rec.data.content import Content
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.state import load_state
from cadc_rec.evaluation.on_top import LastItems
from cadc_rec.export.finished import Finished
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.stages.train import CHECKPOINT
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.predict.cold_items import NewItems
from cadc_rec.training.build import build_model
from cadc_rec.training.new_items import new_item_vectors
from cadc_rec.training.scoring import of_towers
from tests.zygote import run_ranks

pytestmark = pytest.mark.slow

USERS, ITEMS = 40, 60
CONFIG = """
method = "recipe"
[data]
source = "tables"
cold_items = 0.2
[data.text]
dim = 32
[data.tables.interactions]
path = "{folder}/log.parquet"
timestamp = "timestamp"
[data.tables.items]
path = "{folder}/items.parquet"
categorical = ["kind"]
vector = ["picture"]
text = ["words"]
continuous = ["price"]
[pretrain]
factors = 7
[transitions]
form = "factors"
[prior]
fit = "none"
[select]
ratio = 2
[model]
id_dim = 8
keep = "towers"
cold_dropout = 0.3
[history]
windows = [1, 4]
[train]
epochs = 2
batch_size = 32
average_epochs = 0.0
[checkpoint]
every_seconds = 0.0001
max_share = 1.0
background = false
keep_last = 99
keep_finished = true
[compute]
threads = 1
[methods.recipe]
history.length = 4
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("content")
    rng = np.random.default_rng(2)
    rows = [
        (user, int(item), 10 * place)
        for user in range(USERS)
        for place, item in enumerate(rng.permutation(ITEMS)[:15])
    ]
    names = ("user_id", "item_id", "timestamp")
    pq.write_table(
        pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), folder / "log.parquet"
    )
    items = {
        "item_id": range(ITEMS),
        "kind": [f"k{n % 5}" for n in range(ITEMS)],
        "picture": [rng.normal(size=12).tolist() if n % 7 else None for n in range(ITEMS)],
        "words": [f"a {('red', 'blue', 'old')[n % 3]} hat of size {n}" for n in range(ITEMS)],
        "price": rng.random(ITEMS),
    }
    pq.write_table(pa.table({k: list(v) for k, v in items.items()}), folder / "items.parquet")
    file = folder / "content.toml"
    file.write_text(CONFIG.format(folder=folder))
    return file


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "work"
    return Pipeline(load_experiment(config), workdir).run(), workdir


def contents(artifact):
    names = ("model.safetensors", "validation_ranks.parquet")
    return [(artifact.path / name).read_bytes() for name in names]


def test_a_training_with_content_goes_on_to_the_same_bytes(config, whole, tmp_path):
    made, workdir = whole
    saved = sorted(path.name for path in workdir.glob("checkpoints/[!p]*/0*-step-*"))
    shutil.copytree(workdir, tmp_path / "work")
    for stage in ("train", "evaluate"):
        shutil.rmtree(tmp_path / "work" / stage)
    for folder in (tmp_path / "work").glob("checkpoints/[!p]*/0*-step-*"):
        if folder.name != saved[len(saved) // 2]:
            shutil.rmtree(folder)
    again = Pipeline(load_experiment(config), tmp_path / "work").run()
    assert again["train"].info["resumed"]
    assert contents(again["train"]) == contents(made["train"])
    assert again["evaluate"].info["cold"] == made["evaluate"].info["cold"]


@pytest.mark.distributed
def test_two_processes_find_what_one_finds(config, tmp_path):
    """The baselines to the rank; the towers but for the last bits of their sums."""
    # Each rank leaves out elements and ids by draws of its own.
    sets = ["sharding.frozen=table_wise", "model.cold_dropout=0.0", "model.id_dropout=0.0"]
    Pipeline(load_experiment(config, overrides=sets), tmp_path / "one").run()
    run_ranks(Path(__file__).with_name("run_config.py"), [config, tmp_path / "two", *sets], 2, 240)
    found = [
        pq.read_table(next(folder.glob("evaluate/*/cold_ranks.parquet"))).to_pandas()
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    one, two = found
    assert len(one) == len(two) > USERS
    for column in one:
        if column in ("user", "item", "of") or column.startswith(("neighbours", "attribute")):
            assert one[column].tolist() == two[column].tolist()
        else:
            assert (abs(one[column] - two[column]) <= 2).mean() > 0.8


def test_a_bundles_programs_give_new_items_trainings_vectors(config, whole, tmp_path):
    """By attributes, vectors, text and numbers: in the tower, and in what the items are like."""
    _, workdir = whole
    experiment = load_experiment(config)
    pipeline = Pipeline(experiment, workdir)
    artifacts = pipeline.run()
    write_bundle(
        Finished(experiment, artifacts, pipeline.dataset, pipeline.pretrained),
        tmp_path / "bundle",
        Wanted(),
    )
    data = pipeline.dataset
    new, dense = data.untaken_attributes(), data.untaken_dense()
    found = NewItems.of_bundle(Bundle.open(tmp_path / "bundle"))
    found = found.vectors_of(new, data.n_untaken, dense)
    whole_data = replace(data, item_attributes=data.every_item_attributes())
    every, n_items = data.every_item_dense(), data.n_items + data.n_untaken
    with processes(experiment.compute) as alone:
        model = build_model(experiment, whole_data, pipeline.pretrained, alone)
        state = load_file(artifacts["train"].path / CHECKPOINT)
        load_state(model.wrapped, state, model.trains)
        scoring = of_towers(model, LastItems(whole_data, experiment.history.length))
        content = Content.of(whole_data.item_attributes, every, n_items, data.n_items)
        users = scoring.users(True, None)
        expected = new_item_vectors(scoring, scoring.items, content, every, users, alone)
    assert data.n_untaken > 5
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    without = [replace(each, values=0 * each.values) for each in dense]
    bare = Finished(experiment, artifacts, data, pipeline.pretrained).new_items
    assert abs(bare.vectors_of(new, data.n_untaken, without) - found).max() > 0.01
