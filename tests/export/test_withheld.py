"""What a file of the exporter's keeps out of all answers."""

import dataclasses
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.export.withheld import Withheld
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.self_test import run_self_test
from cadc_rec.serving.predict.predictor import Predictor

IDS = pa.chunked_array([[10, 11, 12, 13, 14]])


@pytest.fixture
def file(tmp_path):
    def write(name, ids):
        path = tmp_path / name
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"item_id": ids}), path)
        else:
            head = "item_id\n" if path.suffix.lower() == ".csv" else ""
            path.write_text(head + "".join(f"{one}\n" for one in ids))
        return path

    return write


@pytest.mark.parametrize("name", ["ids.parquet", "ids.csv", "ids.txt"])
def test_blocked_items_and_all_but_the_allowed_are_withheld(file, name):
    some = file(name, [11, 14, 99])
    assert Withheld(block=some).rows(IDS, ()).tolist() == [1, 4]
    assert Withheld(allow=some).rows(IDS, ()).tolist() == [0, 2, 3]
    both = Withheld(file("b" + name, [14]), some)
    assert both.rows(IDS, ()).tolist() == [0, 2, 3, 4]
    assert Withheld().rows(IDS, ()).tolist() == []


@pytest.mark.parametrize("name", ["ids.parquet", "ids.csv", "ids.CSV", "ids.txt"])
def test_text_ids_are_blocked_as_they_stand(file, tmp_path, name):
    ids = ["0195153448", "0002005018", "123", "true", "1e5", "NA", "2020-01-01"]
    catalogue = pa.chunked_array([[*ids, "195153448"]])
    assert Withheld(block=file(name, ids)).rows(catalogue, ()).tolist() == list(range(7))


def test_an_id_is_found_in_the_form_of_the_catalogue(file):
    some = file("ids.csv", ["11.0", "014"])
    assert Withheld(block=some).rows(IDS, ("integer-like",)).tolist() == [1, 4]
    with pytest.raises(CadcError, match=r"'11\.0' is no item id"):
        Withheld(block=some).rows(IDS, ())


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    for name in ("ids.txt", "ids.csv"):
        path = tmp_path / name
        path.write_text("item_id\n11\n" if name == "ids.csv" else "11\n", "utf-8-sig")
        assert Withheld(block=path).rows(IDS, ()).tolist() == [1]


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (pa.array([11.5, 12.0]), "double"),
        (pa.array([11, 12], pa.timestamp("ms")), r"timestamp\[ms\]"),
        (pa.array([True]), "bool"),
    ],
)
def test_ids_of_another_type_are_refused(file, ids, kind):
    with pytest.raises(CadcError, match=f"--block .*item_id is of type {kind}; store ids as"):
        Withheld(block=file("ids.parquet", ids)).read()


def test_ids_of_no_item_are_counted(file, caplog):
    caplog.set_level(logging.WARNING, "cadc_rec")
    Withheld(block=file("ids.txt", [11, 98, 99])).rows(IDS, ())
    assert "2 of its 3 ids are no item's, such as 98, 99" in caplog.text


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        ("ids.txt", [98, 99], "none of its 2 ids is an item's"),
        ("ids.txt", ["x"], "'x' is no item id; ids are whole numbers"),
        ("ids.txt", range(10, 15), "leave no item to recommend"),
        ("none.parquet", None, "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused(file, tmp_path, name, ids, message):
    path = tmp_path / name if ids is None else file(name, ids)
    with pytest.raises(CadcError, match=message):
        Withheld(block=path).rows(IDS, ())


def test_a_file_without_the_column_is_refused(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_text("id\n11\n")
    with pytest.raises(CadcError, match=r"--allow .*ids\.csv: has no column item_id"):
        Withheld(allow=path).rows(IDS, ())


def test_a_bundle_answers_without_them_and_its_self_test_knows(plain, file, tmp_path):
    ids = plain.finished.dataset.item_ids().to_pylist()
    withheld = Withheld(block=file("ids.txt", ids[::3]))
    out = tmp_path / "bundle"
    manifest = write_bundle(plain.finished, out, Wanted(withheld=withheld))
    assert manifest["format_version"] == 5
    bundle = Bundle.open(out)
    predictor = Predictor.of(bundle)
    assert predictor.withheld.tolist() == list(range(0, len(ids), 3))
    assert run_self_test(bundle, answers_of(predictor)).passed
    everybody = predictor.recommend(predictor.users.ids, 20).rows
    assert not set(everybody[everybody >= 0].tolist()) & set(range(0, len(ids), 3))
    free = dataclasses.replace(predictor, withheld=np.zeros(0, np.int64))
    assert not run_self_test(bundle, answers_of(free)).passed


def answers_of(predictor):
    def recommend(users, k, **moments):
        found = predictor.recommend(users, k, **moments)
        return found.lists(), [
            s[:n].tolist() for s, n in zip(found.scores, found.counts, strict=True)
        ]

    return recommend
