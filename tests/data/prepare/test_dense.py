"""Columns that stay numbers: vectors and continuous numbers, from the files to the dataset."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.dataset import Dataset
from cadc_rec.data.dense import Scale
from cadc_rec.data.tables.matrices import MatrixFile
from cadc_rec.errors import CadcError
from tests.data.own_tables import ROWS, refusal, text

# Items by dense number: x, y, z; then w, which nobody took. Of v there is nothing at all.
VECTORS = {"z": [3, 4, 0], "y": None, "x": [0, 0, -2], "w": [1, 1, 1]}


def lists(kind, vectors=VECTORS):
    return pa.array([v and list(map(float, v)) for v in vectors.values()], pa.list_(kind))


@pytest.fixture
def with_items(tables, raw_folder):
    """The dataset with a table of items that has these columns."""

    def run(columns, workdir="work", keep="auto", **settings):
        file = raw_folder / "items.parquet"
        pq.write_table(pa.table({"name": list(VECTORS), **columns}), file)
        items = {"path": "items.parquet", "id": "name", "keep": keep, **settings}
        return tables("log.csv", text(ROWS), items=items, workdir=workdir)

    return run


FIXED = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(12, np.float16)), 3)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.float16()])
def test_vectors_have_the_length_1_and_lie_at_their_items_number(with_items, kind):
    dataset = Dataset.open(with_items({"image": lists(kind)}, vector=["image"]))
    (image,) = dataset.item_dense
    assert dataset.item_attributes == dataset.user_dense == []
    expected = [[0, 0, -1, 0], [0, 0, 0, 0], [0.6, 0.8, 0, 0]]
    np.testing.assert_allclose(image.values, expected, rtol=1e-3)
    assert (image.name, image.kind, image.width, image.half) == ("image", "vector", 4, False)
    (untaken,) = dataset.untaken_dense()
    np.testing.assert_allclose(untaken.values, [[3**-0.5] * 3 + [0]], rtol=1e-3)


def test_vectors_may_be_lists_of_a_fixed_size_and_stored_as_fp16(with_items):
    made = with_items({"image": FIXED}, vector=["image"], vector_precision="float16")
    (image,) = Dataset.open(made).item_dense
    assert image.half
    assert isinstance(image.values, np.memmap)
    np.testing.assert_allclose(image.values[0], [3**-0.5] * 3 + [0], rtol=1e-3)


def test_ids_and_vectors_without_each_other_are_counted_both_ways(with_items, caplog):
    caplog.set_level("INFO")
    made = with_items({"image": lists(pa.float32())}, vector=["image"], keep="taken")
    (found,) = json.loads((made.path / "dense.json").read_text())["item"]
    assert (found["items_without_vector"], found["vectors_without_item"]) == (1, 1)
    assert (
        "image: 1 of 3 items have no vector, and 1 vectors are of no item that the dataset has"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1, 2], [3], [4, 5], None], "row 2: image has 1 numbers, and the vectors of most rows"),
        ([[1, 2], [3, 4], [0, 0], None], "row 3: image holds zeros alone"),
        ([[1, 2], [3, float("nan")], [4, 5], None], "row 2: image holds NaN or"),
    ],
)  # fmt: skip
def test_a_vector_that_is_none_is_refused_by_its_row(with_items, vectors, said):
    column = pa.array(vectors, pa.list_(pa.float32()))
    assert said in refusal(with_items, {"image": column}, vector=["image"])


def test_a_column_of_text_is_no_vector(with_items):
    said = refusal(with_items, {"image": ["0.1"] * 4}, vector=["image"])
    assert "its column image is string; a vector is a list of numbers" in said


def test_numbers_are_scaled_by_the_items_of_training_rows_alone(with_items):
    """Training has y and z (as `ROWS` are split by hand: Ana's z, Bo's nothing but x and z)."""
    columns = {"price": [1.0, 3.0, None, 1e9], "age": [1, 2, 3, 4]}
    made = with_items(columns, continuous=["price", "age"])
    train = set(pq.read_table(made.path / "train")["item"].to_pylist())
    price = np.array([np.nan, 3.0, 1.0])  # x, y, z
    age = np.array([3.0, 2.0, 1.0])
    (numbers,) = Dataset.open(made).item_dense
    assert (numbers.kind, numbers.values.shape) == ("numbers", (3, 4))
    for place, values in ((0, price), (2, age)):
        fitted = values[sorted(train)]
        fitted = fitted[~np.isnan(fitted)]
        scaled = (values - fitted.mean()) / (fitted.std() or 1)
        np.testing.assert_allclose(numbers.values[:, place], np.nan_to_num(scaled), rtol=1e-6)
        np.testing.assert_array_equal(numbers.values[:, place + 1], ~np.isnan(values))


def test_quantiles_are_ranks_and_the_log_keeps_signs():
    values = np.array([0.0, 1, 10, 100, np.nan])
    scale = Scale.fit(values, "quantiles", log=False)
    np.testing.assert_allclose(scale.scaled(values), [-1, -1 / 3, 1 / 3, 1, np.nan], atol=0.02)
    ties = Scale.fit(np.array([5.0] * 50 + [7.0] * 50), "quantiles", log=False)
    np.testing.assert_allclose(ties.scaled(np.array([5.0, 7.0])), [-0.5, 0.5], atol=0.03)
    assert ties.scaled(np.array([4.0, 9.0])).tolist() == [-1, 1]
    log = Scale.fit(np.array([-np.e + 1, np.e - 1]), "standard", log=True)
    np.testing.assert_allclose(log.scaled(np.array([0.0, np.e - 1])), [0, 1], atol=1e-9)


def test_a_dataset_without_such_columns_keeps_its_settings_and_files(tables):
    made = tables("log.csv", text(ROWS))
    settings = json.loads((made.path / "manifest.json").read_text())["settings"]
    assert not {"vector", "continuous", "scale", "log"} & set(settings["tables"]["items"])
    assert not (made.path / "dense.json").exists()


def save_as(path, vectors, kind):
    """Write a matrix; a bfloat16 is the upper half of a float32."""
    if kind == "npy":
        np.save(path.with_suffix(".npy"), vectors.astype(np.float16))
        return path.with_suffix(".npy").name
    bits = (vectors.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    header = json.dumps(
        {"v": {"dtype": "BF16", "shape": bits.shape, "data_offsets": [0, bits.nbytes]}}
    ).encode()
    whole = len(header).to_bytes(8, "little") + header + bits.tobytes()
    path.with_suffix(".safetensors").write_bytes(whole)
    return path.with_suffix(".safetensors").name


@pytest.fixture
def with_file(tables, raw_folder):
    """The dataset with vectors of `names` in a file of their own, and no table of items."""

    def run(vectors, names, kind="npy", workdir="work"):
        path = save_as(raw_folder / "image", np.array(vectors), kind)
        if kind == "npy":
            np.save(raw_folder / "ids.npy", np.array(names))
        (raw_folder / "ids.txt").write_text("".join(f"{name}\n" for name in names))
        ids = "ids.npy" if kind == "npy" else "ids.txt"
        items = {"vector_files": {"image": {"path": path, "ids": ids}}}
        return tables("log.csv", text(ROWS), items=items, workdir=workdir)

    return run


@pytest.mark.parametrize("kind", ["npy", "bf16"])
def test_vectors_may_lie_in_a_file_beside_a_list_of_ids(with_file, kind, caplog):
    caplog.set_level("INFO")
    made = with_file([[3, 4, 0], [1, 1, 1], [0, 0, -2]], ["z", "v", "x"], kind)
    (image,) = Dataset.open(made).item_dense
    expected = [[0, 0, -1, 0], [0, 0, 0, 0], [0.6, 0.8, 0, 0]]  # x, y, z
    np.testing.assert_allclose(image.values, expected, rtol=1e-2)
    assert "image: 1 of 3 items have no vector, and 1 vectors are of no item" in caplog.text


@pytest.mark.parametrize(
    ("vectors", "names", "said"),
    [
        ([[1.0, 2], [0, 0]], ["x", "y"], "image.npy, row 2: holds zeros alone"),
        ([[1.0, 2], [3, np.nan]], ["x", "y"], "image.npy, row 2: holds NaN or"),
        ([[1.0, 2]], ["x", "y"], "ids.npy: has 2 ids, and "),
        ([[1.0, 2], [3, 4]], ["x", "x"], "ids.npy: has the id 'x' twice"),
        ([1.0, 2], ["x", "y"], "image.npy: holds 2 floats; vectors are a matrix, a row each."),
    ],
)
def test_a_file_of_vectors_that_fits_no_ids_is_refused(with_file, vectors, names, said):
    assert said in refusal(with_file, vectors, names)


def test_a_file_of_vectors_decides_the_dataset_by_its_bytes(with_file):
    first = with_file([[3, 4, 0]], ["z"])
    assert with_file([[3, 4, 0]], ["z"]).path == first.path
    assert with_file([[3, 4, 1]], ["z"]).path != first.path


def header(entry, size=8):
    text = json.dumps(entry).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


TENSOR = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header([]), "its header is no object"),
        (header({"v": TENSOR | {"shape": "ab"}}), "cannot be read"),
        (header({"v": TENSOR | {"data_offsets": []}}), "cannot be read"),
        (header({"v": TENSOR | {"data_offsets": [-9, -1]}}), "ends before its tensor does"),
        (header({"v": TENSOR | {"shape": [2, 2]}}), "shape and its bytes differ"),
        (header({"v": TENSOR}, size=4), "ends before its tensor does"),
        (header({"v": TENSOR, "w": TENSOR}), "image.safetensors: holds v, w; name one of them"),
    ],
)
def test_a_safetensors_file_that_says_what_it_is_not_is_refused(content, said, tmp_path):
    file = tmp_path / "image.safetensors"
    file.write_bytes(content)
    with pytest.raises(CadcError, match=re.escape(said)):
        _ = MatrixFile("item", "image", file, tmp_path / "ids.txt", "").width


@pytest.mark.parametrize("kind", ["objects", "broken", "latin-1"])
def test_ids_that_cannot_be_read_are_refused(kind, tmp_path):
    ids = tmp_path / ("ids.txt" if kind == "latin-1" else "ids.npy")
    if kind == "objects":
        np.save(ids, np.array(["x", "y"], object), allow_pickle=True)
    else:
        ids.write_bytes(b"\xe9\n")
    np.save(tmp_path / "image.npy", np.ones((2, 2)))
    file = MatrixFile("item", "image", tmp_path / "image.npy", ids, "")
    with pytest.raises(CadcError, match="cannot be read as a list of ids"):
        file.read_ids(pa.string(), ())


def test_a_list_of_ids_that_meets_no_item_is_refused(with_file):
    said = refusal(with_file, [[3.0, 4]], ['"x"'])
    assert """none of its ids (the first is '"x"') is one of the items'""" in said


@pytest.mark.parametrize("name", ["continuous", "a-b", "genre"])
def test_a_name_that_is_taken_is_refused(name, tables, raw_folder):
    save_as(raw_folder / "image", np.ones((1, 2)), "npy")
    np.save(raw_folder / "ids.npy", np.array(["x"]))
    file = {"path": "image.npy", "ids": "ids.npy"}
    table = pa.table({"name": ["x"], "genre": ["drama"]})
    pq.write_table(table, raw_folder / "items.parquet")
    items = {"path": "items.parquet", "id": "name", "categorical": ["genre"]}
    items |= {"vector_files": {"a_b": file, name: file}}
    said = refusal(lambda: tables("log.csv", text(ROWS), items=items))
    assert "is the name of something else already; rename it." in said
