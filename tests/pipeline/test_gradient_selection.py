"""The gradients that the select stage asks for are those of the tables as they were learned."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file


def read(workdir, stage, file):
    (path,) = workdir.glob(f"{stage}/*/{file}")
    return path


def test_rows_have_the_longest_gradients_of_als_before_its_tables_were_scaled(
    cli, tiny_recipe, finished_recipe, tmp_path
):
    workdir = tmp_path / "work"
    shutil.copytree(finished_recipe.workdir, workdir)
    shutil.rmtree(workdir / "select")
    done = cli(
        "select", tiny_recipe, "--workdir", workdir, "--set", "select.kind=gradient-norm",
    )  # fmt: skip
    assert done.code == 0, done.err
    files = sorted(workdir.glob("select/*/shard-*.parquet"))
    taken = np.concatenate([pq.read_table(file)["row"].to_numpy() for file in files])

    info = json.loads(read(workdir, "pretrain", "manifest.json").read_text())["info"]
    by_user, by_item = info["divided_by"]
    assert (by_user, by_item) != (1.0, 1.0)
    rows = pq.read_table(read(workdir, "prepare", "train"))
    tables = [
        load_file(read(workdir, "pretrain", f"{side}.safetensors"))["weight"].astype(float) * by
        for side, by in (("user", by_user), ("item", by_item))
    ]
    users, items = tables[0][rows["user"].to_numpy()], tables[1][rows["item"].to_numpy()]
    error = np.abs(1 - (users * items).sum(1))
    norms = error * np.sqrt((users**2).sum(1) + (items**2).sum(1))
    others = np.setdiff1d(np.arange(len(norms)), taken)
    assert len(set(taken.tolist())) == round(len(norms) / 10)
    assert norms[taken].min() > norms[others].max() * (1 - 1e-5)
