"""NaN is missing: whoever wrote the file, and whatever its statistics say."""

from __future__ import annotations

import json
import math

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadc_rec.data.engine import open_engine
from cadc_rec.data.formats.columnar import scan_columnar
from cadc_rec.data.tables.columns import number_column, time_column, weight_column
from cadc_rec.data.tables.files import FileSet
from cadc_rec.data.tables.scan import good_rows
from cadc_rec.errors import CadcError

pytestmark = pytest.mark.slow  # together; each by itself is quick

NAN, INF = math.nan, math.inf
NUMBERS = st.lists(st.sampled_from([None, NAN, INF, -INF, 1.0, 2.5, -3.0, 0.0]), min_size=1)
QUICK = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


def of_pyarrow(table, path, group):
    pq.write_table(table, path, row_group_size=group)


def of_duckdb(table, path, group):
    with duckdb.connect() as connection:
        connection.register("given", table)
        connection.execute(f"COPY given TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE {group})")


def of_polars(table, path, group):
    polars = pytest.importorskip("polars")
    polars.from_arrow(table).write_parquet(path, row_group_size=group)


WRITERS = {"pyarrow": of_pyarrow, "duckdb": of_duckdb, "polars": of_polars}


def counted(path, scratch, make, **arguments):
    """How many of the file's values are good, are bad, and are kept and at least 1."""
    found = FileSet("parquet", path.parent, (path,))
    with open_engine(scratch) as backend:
        scan = scan_columnar(backend, found, "users", {"x": "x"}, scratch)
        typed = {"x": make(scan.rows["x"], "x", **arguments)}
        rows, counts = good_rows(backend, scan, typed, rejected=scratch / "rejected.parquet")
        known = rows.aggregate(known=rows["x"].count(), high=(rows["x"] >= 1).sum())
        known, high = known.to_pyarrow().to_pylist()[0].values()
        # As a filter the same must hold, which the engine carries out in the scan.
        assert rows.filter(rows["x"] >= 1).count().to_pyarrow().as_py() == (high or 0)
        assert scan.rows.filter(scan.rows["x"].isnan()).count().to_pyarrow().as_py() == sum(
            value is not None and math.isnan(value)
            for value in pq.read_table(path)["x"].to_pylist()
        )
    return known, counts.get("rejected", 0), high or 0


@pytest.mark.parametrize("writer", list(WRITERS))
@pytest.mark.parametrize("type_", [pa.float64(), pa.float32()], ids=str)
def test_counts_of_numbers_are_those_of_numpy(writer, type_, tmp_path_factory):
    @QUICK
    @given(values=NUMBERS, group=st.integers(1, 9))
    def holds(values, group):
        folder = tmp_path_factory.mktemp("numbers")
        WRITERS[writer](pa.table({"x": pa.array(values, type_)}), folder / "x.parquet", group)
        numbers = np.array([NAN if value is None else value for value in values])
        finite, missing = np.isfinite(numbers), np.isnan(numbers)
        high = int((numbers[finite] >= 1).sum())
        found = counted(folder / "x.parquet", folder, number_column, required=False)
        assert found == (finite.sum(), np.isinf(numbers).sum(), high)
        (folder / "more").mkdir()
        required = counted(folder / "x.parquet", folder / "more", number_column, required=True)
        assert required == (finite.sum(), (missing | ~finite).sum(), high)

    holds()


@pytest.mark.slow
def test_counts_are_those_of_numpy_in_a_file_of_spark(tmp_path):
    pyspark = pytest.importorskip("pyspark.sql")
    builder = pyspark.SparkSession.builder.master("local[1]").config("spark.ui.enabled", False)
    for side in ("host", "bindAddress"):
        builder = builder.config(f"spark.driver.{side}", "127.0.0.1")
    session = builder.getOrCreate()
    values = [1.0, NAN, 2.0, 3.0, NAN] * 4
    try:
        frame = session.createDataFrame([(value,) for value in values], "x double").coalesce(1)
        frame.write.parquet(str(tmp_path / "spark"))
    finally:
        session.stop()
    (file,) = (tmp_path / "spark").glob("*.parquet")
    assert counted(file, tmp_path, number_column, required=True) == (12, 8, 12)


@pytest.mark.parametrize(
    ("make", "arguments"), [(weight_column, {}), (time_column, {"kind": "number"})]
)
def test_a_required_number_that_is_nan_is_missing(make, arguments, tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0, NAN]}), path)
    with open_engine(tmp_path) as backend:
        scan = scan_columnar(
            backend, FileSet("parquet", tmp_path, (path,)), "users", {"x": "x"}, tmp_path
        )
        with pytest.raises(CadcError, match=r"x\.parquet, row 3: x is missing\. Mend"):
            good_rows(backend, scan, {"x": make(scan.rows["x"], "x", **arguments)})


@pytest.mark.parametrize("engine", ["duckdb", pytest.param("spark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("format_", ["parquet", "feather", "csv"])
def test_a_rating_or_attribute_that_is_nan_is_missing(format_, engine, tables, raw_folder):
    log = pa.table(
        {
            "who": ["a", "a", "a", "b", "b", "b", "c", "c", "c"],
            "what": ["x", "y", "z"] * 3,
            "when": range(9),
            "stars": [5.0, NAN, 4.0, 1.0, 5.0, NAN, INF, None, -INF],
        }
    )
    items = pa.table(
        {
            "item_id": ["x", "y", "z"],
            "price": [1.0, NAN, 2.0],
            "size": [NAN, 40.0, 41.0],
            "seller": [NAN, 7.0, NAN],
            "tags": ["", "1.0", ""] if format_ == "csv" else [[NAN], [1.0, NAN], None],
        }
    )
    for name, table in (("log", log), ("items", items)):
        if format_ == "csv":
            table.to_pandas().to_csv(raw_folder / f"{name}.csv", index=False, na_rep="")
        elif format_ == "feather":
            pa.feather.write_feather(table, raw_folder / f"{name}.feather")
        else:
            pq.write_table(table, raw_folder / f"{name}.parquet")
    artifact = tables(
        f"log.{format_}",
        on_bad_row="reject",
        engine=engine,
        interactions={"rating": "stars", "min_rating": 3.0},
        items={
            "path": f"items.{format_}",
            "numeric": ["price"],
            "categorical": ["size"],
            "hashed": ["seller"],
            "multi": ["tags"],
        },
    )
    assert artifact.info["rejected"] == 5
    assert artifact.info["below_min_rating"] == 1
    assert artifact.info["train"] == 3
    found = pq.read_table(artifact.path / "items.parquet").to_pydict()
    code = {name: dict(zip(found["item_id"], found[name], strict=True)) for name in found}
    assert code["price"] == {"x": 1, "y": 0, "z": 2}
    assert code["size"] == {"x": 0, "y": 1, "z": 2}
    assert (code["seller"]["x"], code["seller"]["z"]) == (0, 0)
    assert code["seller"]["y"] > 0
    assert code["tags"] == {"x": [], "y": [1], "z": []}

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.loads((artifact.path / "attributes.json").read_text(), parse_constant=refuse)


def test_numbers_that_a_program_wrote_out_as_nan_are_missing_in_text(tables, raw_folder):
    (raw_folder / "users.csv").write_text("user_id,age\na,nan\nb,NaN\nc,7\n")
    users = {"path": "users.csv", "numeric": ["age"]}
    artifact = tables("log.csv", "who,what,when\na,x,1\nb,x,1\nc,x,1\n", users=users)
    assert pq.read_table(artifact.path / "users.parquet")["age"].to_pylist() == [0, 0, 1]


def test_zero_is_one_value_whatever_its_sign(tables, raw_folder):
    pq.write_table(
        pa.table({"item_id": ["x", "y"], "size": [0.0, -0.0]}), raw_folder / "items.parquet"
    )
    items = {"path": "items.parquet", "categorical": ["size"]}
    artifact = tables("log.csv", "who,what,when\na,x,1\na,y,1\n", items=items)
    assert pq.read_table(artifact.path / "items.parquet")["size"].to_pylist() == [1, 1]


def test_a_file_may_hold_no_value_at_all(tables, raw_folder):
    table = pa.table({"who": ["a"], "what": ["x"], "when": pa.nulls(1)})
    pq.write_table(table, raw_folder / "log.parquet")
    with pytest.raises(CadcError, match=r"log\.parquet, row 1: when is missing"):
        tables("log.parquet")
