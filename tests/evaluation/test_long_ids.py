"""Text ids of 2 GiB and more, whose Arrow arrays need wide offsets; here from a few bytes on."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cadc_rec.config.file import load_experiment
from cadc_rec.data import streams
from cadc_rec.pipeline.pipeline import Pipeline

USERS, ITEMS = 30, 12


def run(tmp_path, workdir):
    rng = np.random.default_rng(0)
    rows = [
        (f"user-{u:03}", f"item-{i:03}", n)
        for u in range(USERS)
        for n, i in enumerate(rng.permutation(ITEMS)[:6])
    ]
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    config = tmp_path / "config.toml"
    config.write_text(
        'method = "mf"\n[data]\nsource = "tables"\n[data.tables.interactions]\n'
        f'path = "{log}"\ntimestamp = "timestamp"\n'
        "[pretrain]\nfactors = 3\nepochs = 2\n[evaluate]\nk = [5]\n"
    )
    return Pipeline(load_experiment(config), tmp_path / workdir).run()["evaluate"].path


def test_an_evaluation_writes_the_same_ids_with_wide_offsets(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    plain = run(tmp_path, "plain")
    monkeypatch.setattr(streams, "_MOST_TEXT", 40)
    wide = run(tmp_path, "wide")
    for name in ("user_ids", "item_ids", "ranks", "validation_ranks"):
        one, other = (pq.read_table(folder / f"{name}.parquet") for folder in (plain, wide))
        ids = [column for column in one.column_names if column.endswith("_id")]
        assert {one.schema.field(column).type for column in ids} == {pa.string()}
        assert {other.schema.field(column).type for column in ids} == {pa.large_string()}
        assert one.to_pylist() == other.to_pylist()
        assert len(one) in (USERS, ITEMS)
