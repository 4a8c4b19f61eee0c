"""A column of the items' table says what a service withholds until it is told otherwise."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.data import DataConfig
from cadc_rec.errors import CadcError
from cadc_rec.export.available import sold_out
from cadc_rec.export.withheld import Withheld
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.self_test import run_self_test
from cadc_rec.serving.predict.predictor import Predictor


def settings(path, **items):
    tables = {"interactions": {"path": "none"}, "items": {"path": str(path), **items}}
    return DataConfig.model_validate({"source": "tables", "tables": tables})


@pytest.mark.parametrize(
    "values",
    [
        [True, False, None, False],
        ["True", "FALSE", None, "false"],
        [1, 0, None, 0],
    ],
)
def test_false_is_sold_out_and_an_unknown_value_is_not(tmp_path, values):
    file = tmp_path / "items.parquet"
    pq.write_table(pa.table({"sku": [7, 8, 9, 10], "stock": values}), file)
    assert sold_out(settings(file, id="sku"), "stock") == ("8", "10")


def test_a_text_file_is_read_as_the_data_is(tmp_path):
    file = tmp_path / "items.csv"
    file.write_text("item_id,in store\n007,false\n8,true\n9,\n")
    assert sold_out(settings(file), "in store") == ("007",)
    assert Withheld(sold_out=("007",)).sold_out_rows(pa.chunked_array([["007", "7"]]), ()) == [0]


def test_what_is_no_truth_value_is_named(tmp_path):
    file = tmp_path / "items"  # of two files, and the second has it
    file.mkdir()
    (file / "1.csv").write_text("item_id,stock\n7,true\n")
    (file / "2.csv").write_text("item_id,stock\n8,maybe\n")
    with pytest.raises(
        CadcError, match=r"items: its column stock is 'maybe' for the item 8; --available"
    ):
        sold_out(settings(file), "stock")
    with pytest.raises(CadcError, match="shelf"):
        sold_out(settings(file), "shelf")
    with pytest.raises(CadcError, match=r"no table of items in a file .* with --block"):
        sold_out(DataConfig(), "stock")


@pytest.mark.slow
def test_a_bundle_starts_without_what_is_sold_out(plain, tmp_path):
    best = Predictor.of(plain.bundle).recommend([1], 10).item_ids[0].tolist()
    out = tuple(str(one) for one in best[:2])
    withheld = Withheld(sold_out=(*out, "987654"))
    write_bundle(plain.finished, tmp_path / "bundle", Wanted(withheld=withheld))
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.arrays(layout.WITHHELD).keys() == {"rows", "sold_out"}
    assert bundle.manifest["format_version"] == 6  # readers of 5 would recommend these
    assert withheld.is_of(bundle.path, ())
    assert not Withheld(sold_out=out[:1]).is_of(bundle.path, ())
    predictor = Predictor.of(bundle)
    assert predictor.recommend([1], 8).item_ids[0].tolist() == best[2:]

    def recommend(users, k):
        found = predictor.recommend(users, k)
        return found.lists(), [row[np.isfinite(row)].tolist() for row in found.scores]

    assert run_self_test(bundle, recommend).passed
    predictor.withhold(np.zeros(0, np.int64))  # all are back
    assert predictor.recommend([1], 10).item_ids[0].tolist() == best
    every = tuple(map(str, bundle.table(layout.ITEMS)["item_id"].to_pylist()))
    with pytest.raises(CadcError, match="--available leaves no item"):
        write_bundle(plain.finished, tmp_path / "none", Wanted(withheld=Withheld(sold_out=every)))
