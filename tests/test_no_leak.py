"""Nothing that learns reads a held-out item."""

import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.load.shards import SelectionShards
from cadc_rec.pipeline.pipeline import Pipeline
from tests.data.raw_files import members_1m, text_of

USERS, ITEMS, TAKEN = 40, 40, 8


CADC = {"pretrain": {"model": "mf", "epochs": 5, "factors": 7}, "select": {"ratio": 3}}
RECIPE = {
    "pretrain": {"model": "als", "factors": 7},
    "transitions": {"window": 3, "dim": 8},
    "history": {"length": 4, "windows": [1, 4]},
    "select": {"kind": "recent", "ratio": 3},
}


def artifacts(folder, table, settings):
    folder.mkdir()
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        for name, text in members_1m(text_of(table)).items():
            archive.writestr(name, text)
    experiment = Experiment.model_validate(
        {
            "data": {"source": "movielens-1m"},
            **settings,
            "model": {"id_dim": 8, "id_embedding": "init_frozen"},
        }
    )
    return Pipeline(experiment, folder / "work", folder).run(until="select")


@pytest.mark.parametrize("settings", [CADC, RECIPE], ids=["cadc", "recipe"])
def test_held_out_items_change_neither_the_tables_nor_the_sample(settings, tmp_path):
    """Permute them among users, and every byte of tables, D_sel and its histories stays."""
    rng = np.random.default_rng(0)
    taken = [(user + rng.permutation(ITEMS // 2)[:TAKEN]) % ITEMS for user in range(USERS)]
    original = [(u, int(i), 5, place) for u in range(USERS) for place, i in enumerate(taken[u])]
    # Half a turn away: the last two become another user's, and no user takes an item twice.
    permuted = [
        (u, (i + ITEMS // 2) % ITEMS if place >= TAKEN - 2 else i, 5, place)
        for u, i, _, place in original
    ]
    before = artifacts(tmp_path / "a", original, settings)
    after = artifacts(tmp_path / "b", permuted, settings)

    def held_out(run):
        return (run["prepare"].path / "test.parquet").read_bytes()

    assert held_out(before) != held_out(after)
    for stage in {"pretrain", "transitions"} & set(before):
        tables = [
            {file.name: file.read_bytes() for file in run[stage].path.glob("*.safetensors")}
            for run in (before, after)
        ]
        assert len(tables[0]) == 2
        assert tables[0] == tables[1]
    shards = [
        {file.name: file.read_bytes() for file in run["select"].path.glob("shard-*.parquet")}
        for run in (before, after)
    ]
    assert len(shards[0]) == 8
    assert shards[0] == shards[1]


def test_a_selected_row_carries_what_its_user_took_before_it_and_nothing_else(tmp_path):
    """Shards against the raw rows; the manifest's count of what they refer to, and the reader."""
    rng = np.random.default_rng(1)
    taken = [rng.permutation(ITEMS)[: rng.integers(3, 12)].tolist() for _ in range(USERS)]
    rows = [(u, i, 5, place) for u in range(USERS) for place, i in enumerate(taken[u])]
    made = artifacts(tmp_path / "a", rows, RECIPE)
    dataset, selection = Dataset.open(made["prepare"]), made["select"]
    table = pq.read_table(sorted(selection.path.glob("shard-*.parquet")))
    referred = set()
    for user, item, row, history in zip(
        *(table[c].to_pylist() for c in ("user", "item", "row", "history")), strict=True
    ):
        start = int(dataset.user_indptr[user])
        before = dataset.train_item[start:row].tolist()
        assert (dataset.train_user[row], dataset.train_item[row]) == (user, item)
        assert history == before[::-1][:4]
        referred |= set(range(max(start, row - 4), row + 1))
    assert selection.info["touched"] == len(referred)
    assert selection.info["selected"] == len(table) == round(len(dataset.train_item) / 3)
    assert selection.info["bytes"] == sum(f.stat().st_size for f in selection.path.glob("shard*"))

    read = SelectionShards.open(selection).read(rank=0, world_size=1, history=2)
    expected = [[*h, -1, -1][:2] for h in table["history"].to_pylist()]
    assert read.history.tolist() == expected
    assert any(-1 in row for row in expected)
