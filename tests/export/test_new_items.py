"""Items that came after training: their vectors by a bundle's programs, and the command."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.data.content import Content
from cadc_rec.data.dataset import Attribute
from cadc_rec.distributed.processes import processes
from cadc_rec.distributed.state import load_state
from cadc_rec.evaluation.on_top import LastItems
from cadc_rec.pipeline.stages.train import CHECKPOINT
from cadc_rec.serving.bundle.programs import load_program
from cadc_rec.serving.predict.cold_items import NewItems
from cadc_rec.training.build import build_model
from cadc_rec.training.new_items import new_item_vectors
from cadc_rec.training.scoring import of_towers

pytestmark = pytest.mark.slow  # together; each by itself is quick

COUNT = 7


def new_attributes(known):
    """Attributes of seven items: none, one or three values of those that several may be of."""
    rng = np.random.default_rng(4)
    made = []
    for each in known:
        counts = [0, 3, 1, 3, 1, 1, 3] if each.kind == "multi" else [1] * COUNT
        values = [rng.choice(np.arange(1, each.size), n, replace=n > each.size - 1) for n in counts]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        made.append(
            Attribute(each.name, each.kind, each.size, indptr, np.concatenate(values).astype("i4"))
        )
    return made


def by_training(finished, new):
    """Vectors by the sharded model, as `evaluate` makes those of cold items."""
    data = finished.dataset
    every = [
        replace(
            each,
            indptr=np.concatenate([each.indptr, each.indptr[-1] + more.indptr[1:]]),
            values=np.concatenate([each.values, more.values]),
        )
        for each, more in zip(data.item_attributes, new, strict=True)
    ]
    e = finished.experiment
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        model = build_model(e, replace(data, item_attributes=every), finished.pretrained, alone)
        state = load_file(finished.artifacts["train"].path / CHECKPOINT)
        load_state(model.wrapped, state, model.trains)
        scoring = of_towers(model, LastItems(data, e.history.length))
        users = scoring.users(True, None)
        content = Content.of(every, [], data.n_items + COUNT, data.n_items)
        return new_item_vectors(scoring, scoring.items, content, [], users, alone).numpy()


def test_a_bundles_own_programs_give_trainings_vectors(either):
    new = new_attributes(either.finished.dataset.item_attributes)
    embedder = NewItems.of_bundle(either.bundle)
    found = embedder.vectors_of(new, COUNT)
    np.testing.assert_allclose(found, by_training(either.finished, new), atol=1e-5)
    # A vector is of its own item, whatever else is in the file.
    alone = [
        replace(each, indptr=each.indptr[:2], values=each.values[: each.indptr[1]]) for each in new
    ]
    np.testing.assert_allclose(embedder.vectors_of(alone, 1), found[:1], atol=1e-6)
    assert len(np.unique(found.round(5), axis=0)) > 3


def test_the_command_writes_a_vector_of_each_row_of_the_file(cli, tiny, finished, plain, tmp_path):
    data = plain.finished.dataset
    rows = pq.read_table(data.path / "items.parquet").slice(0, 3)
    values = {
        each["name"]: each["vocabulary"] for each in plain.bundle.json("attributes.json")["item"]
    }
    new = pa.table(
        {
            "item_id": ["n1", "n2", "n3"]
            if pa.types.is_string(rows.schema.field("item_id").type)
            else [900001, 900002, 900003],
            **{
                each.name: [
                    [values[each.name][0]] if each.kind == "multi" else values[each.name][0],
                    [values[each.name][-1]] if each.kind == "multi" else values[each.name][-1],
                    None,
                ]
                for each in data.item_attributes
            },
        }
    )
    file, out = tmp_path / "new.parquet", tmp_path / "vectors.parquet"
    pq.write_table(new, file)
    ended = cli("embed", tiny, "--workdir", finished.workdir, "--items", file, "--out", out)
    assert ended.code == 0, ended.err
    written = pq.read_table(out)
    assert written["item_id"].to_pylist() == new["item_id"].to_pylist()
    attributes = []
    for each in data.item_attributes:
        codes = [[1], [len(values[each.name])], [] if each.kind == "multi" else [0]]
        indptr = np.cumsum([0, *map(len, codes)])
        attributes.append(replace(each, indptr=indptr, values=np.concatenate(codes).astype("i4")))
    expected = NewItems.of_bundle(plain.bundle).vectors_of(attributes, 3)
    np.testing.assert_allclose(np.stack(written["vector"].to_numpy()), expected, atol=1e-5)


def embedded(cli, tmp_path, of, *options):
    out = tmp_path / "vectors.parquet"
    ended = cli("embed", of, *options, "--out", out)
    assert ended.code == 0, ended.err
    return pq.read_table(out)


def test_a_bundle_alone_embeds_items_as_the_experiment_does(cli, tiny, finished, plain, tmp_path):
    items = pq.read_table(plain.finished.dataset.path / "items.parquet")
    kinds = {each.name: each.kind for each in plain.finished.dataset.item_attributes}
    new = {"item_id": items["item_id"][:2]}
    for each in plain.bundle.json("attributes.json")["item"]:
        first = each["vocabulary"][:2]
        new[each["name"]] = [[v] for v in first] if kinds[each["name"]] == "multi" else first
    pq.write_table(pa.table(new), tmp_path / "new.parquet")
    options = ("--items", tmp_path / "new.parquet")
    expected = embedded(cli, tmp_path, tiny, "--workdir", finished.workdir, *options)
    found = embedded(cli, tmp_path, plain.path, *options)
    assert found["item_id"].equals(expected["item_id"])
    vectors = [np.stack(each["vector"].to_numpy()) for each in (found, expected)]
    np.testing.assert_allclose(*vectors, atol=1e-5)


def test_users_are_embedded_by_attributes_and_history(
    cli, tiny_recipe, finished_recipe, with_history, tmp_path
):
    """Of a user without attributes the vector is that of the bundle's newcomer."""
    data = with_history.finished.dataset
    items = data.item_ids().to_pylist()
    rows = {"user_id": [900001, 900002]}
    for each in data.user_attributes:
        rows[each.name] = pa.nulls(2, pa.list_(pa.string()) if each.kind == "multi" else pa.int64())
    pq.write_table(pa.table(rows), tmp_path / "users.parquet")
    log = {"user_id": [900001, 900001, 900002], "item_id": [*items[:2], items[5]]}
    pq.write_table(pa.table(log | {"timestamp": [1, 2, 3]}), tmp_path / "log.parquet")
    options = ("--users", tmp_path / "users.parquet", "--history", tmp_path / "log.parquet")
    found = embedded(cli, tmp_path, with_history.path, *options)
    by_config = embedded(cli, tmp_path, tiny_recipe, "--workdir", finished_recipe.workdir, *options)
    vectors = np.stack(found["vector"].to_numpy())
    np.testing.assert_allclose(vectors, np.stack(by_config["vector"].to_numpy()), atol=1e-5)
    newcomer = load_program(with_history.bundle, "newcomer")
    history = np.full((2, with_history.bundle.model()["history_length"]), -1)
    history[0, :2], history[1, 0] = (1, 0), 5
    with torch.inference_mode():
        expected = newcomer(torch.from_numpy(history))
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "embed takes --items FILE or --users FILE: name one of them."),
        (("--items", "a", "--history", "b"), "--history says what users took;"),
        (("--users", "gone.csv"), "gone.csv: no such file; correct --users."),
        (("--users", "a.csv", "--history", "b"), "--history: this model reads no history;"),
        (("--items", "a", "--method", "mf"), "is a bundle, of one method;"),
    ],
)
def test_what_no_vector_can_be_made_of_is_refused(cli, plain, tmp_path, options, words):
    ended = cli("embed", plain.path, *options, "--out", tmp_path / "v.parquet")
    assert ended.code == 2
    assert words in ended.err


@pytest.mark.parametrize(
    ("items", "out", "words"),
    [
        ("gone.parquet", "v.parquet", "gone.parquet: no such file; correct --items."),
        ("new.parquet", "v.csv", "v.csv: is written as Parquet; name it v.parquet."),
    ],
)
def test_wrong_files_end_with_one_sentence(cli, tiny, finished, tmp_path, items, out, words):
    ended = cli(
        "embed", tiny, "--workdir", finished.workdir, "--items", tmp_path / items, "--out",
        tmp_path / out,
    )  # fmt: skip
    assert ended.code == 2
    assert words in ended.err
    assert not (tmp_path / out).exists()
