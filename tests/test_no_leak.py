"""Nothing that learns reads a held-out item."""

import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "data"))
from raw_files import members_1m, text_of

from cadc_rec.config import Experiment
from cadc_rec.pipeline import Pipeline

USERS, ITEMS, TAKEN = 40, 40, 8


def artifacts(folder, table):
    folder.mkdir()
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        for name, text in members_1m(text_of(table)).items():
            archive.writestr(name, text)
    experiment = Experiment.model_validate(
        {
            "data": {"source": "movielens-1m"},
            "pretrain": {"model": "mf", "epochs": 5, "factors": 7},
            "select": {"ratio": 3},
            "model": {"id_dim": 8, "id_embedding": "init_frozen"},
        }
    )
    return Pipeline(experiment, folder / "work", folder).run(until="select")


def test_held_out_items_change_neither_the_tables_nor_the_sample(tmp_path):
    """Permute them among users, and every byte that MF exports and D_sel holds stays."""
    rng = np.random.default_rng(0)
    taken = [(user + rng.permutation(ITEMS // 2)[:TAKEN]) % ITEMS for user in range(USERS)]
    original = [(u, int(i), 5, place) for u in range(USERS) for place, i in enumerate(taken[u])]
    # Half a turn away: the last two become another user's, and no user takes an item twice.
    permuted = [
        (u, (i + ITEMS // 2) % ITEMS if place >= TAKEN - 2 else i, 5, place)
        for u, i, _, place in original
    ]
    before, after = artifacts(tmp_path / "a", original), artifacts(tmp_path / "b", permuted)

    def held_out(run):
        return (run["prepare"].path / "test.parquet").read_bytes()

    assert held_out(before) != held_out(after)
    for name in ("user.safetensors", "item.safetensors"):
        tables = [(run["pretrain"].path / name).read_bytes() for run in (before, after)]
        assert tables[0] == tables[1]
    shards = [
        {file.name: file.read_bytes() for file in run["select"].path.glob("shard-*.parquet")}
        for run in (before, after)
    ]
    assert len(shards[0]) == 8
    assert shards[0] == shards[1]
