"""An id is found where a dict would find it, in arrays that lie in a file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle.mapping import map_tensors
from cadc_rec.serving.predict import ids as ids_module
from cadc_rec.serving.predict.ids import IdMap, id_arrays
from cadc_rec.serving.predict.texts import Texts

DRAW = np.random.default_rng(0)
NUMBERS = [*DRAW.permutation(10**6)[:500].tolist(), -5, 2**63 - 1, -(2**63)]
ASCENDING = list(range(100, 600))
TEXTS = ["", "caf\u00e9", "\ud800", "x" * 300, *[f"user-{n}" for n in DRAW.permutation(400)]]


def column(values):
    if isinstance(values[0], int):
        return pa.array(values, pa.int64())
    return pa.array([v for v in values if v != "\ud800"], pa.string())  # Parquet has no such text


def of_file(values, folder, **more):
    """The map of a file, as a bundle has it."""
    file = folder / "ids.safetensors"
    file.write_bytes(save(id_arrays(column(values))))
    return IdMap.of_arrays("user", map_tensors(file), **more)


@pytest.mark.parametrize("values", [NUMBERS, ASCENDING, TEXTS], ids=["any", "ascending", "text"])
@pytest.mark.parametrize("mapped", [True, False])
def test_rows_are_those_of_a_dict(values, mapped, tmp_path):
    there = [v for v in values if v != "\ud800"] if mapped else values
    kind = np.int64 if isinstance(values[0], int) else object
    known = of_file(values, tmp_path) if mapped else IdMap("user", np.array(there, kind))
    expected = {value: row for row, value in enumerate(there)}
    strangers = ["nobody", "user-", "\ud801"] if kind is object else [7, -6, 2**63, -(2**63) - 1]
    asked = [*reversed(there), *strangers, None]
    assert known.rows(asked).tolist() == [expected.get(one, -1) for one in asked]
    rows = DRAW.integers(-1, len(there), (5, 7))
    empty = "" if kind is object else 0
    wanted = [[there[row] if row >= 0 else empty for row in line] for line in rows.tolist()]
    assert known.of_rows(rows).tolist() == wanted
    assert len(known) == len(there)
    assert known.ids.tolist() == there


def test_texts_that_share_a_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(ids_module, "_hash", lambda text: len(text) % 3)
    known = IdMap("item", np.array(TEXTS, object))
    assert known.rows(TEXTS).tolist() == list(range(len(TEXTS)))
    assert known.rows(["user-x", "abc", ""]).tolist() == [-1, -1, 0]


def test_many_texts_are_looked_up_at_once():
    """One search of all hashes, not one a text."""
    texts = [f"user-{n}" for n in range(2000)]
    known, asked = IdMap("user", np.array(texts, object)), []
    keys = known._keys

    class Keys(np.ndarray):
        def searchsorted(self, *given, **how):
            asked.append(1)
            return keys.searchsorted(*given, **how)

    known._keys = keys.view(Keys)
    rows = known.rows([*reversed(texts), "user-", None])
    assert rows.tolist() == [*range(1999, -1, -1), -1, -1]
    assert len(asked) <= 2


def test_forgotten_rows_have_no_id(tmp_path):
    known = of_file(NUMBERS, tmp_path, forgotten=[0, 3])
    assert known.rows(NUMBERS[:5]).tolist() == [-1, 1, 2, -1, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.update(keys=a["keys"][::-1].copy()), "do not fit each other"),
        (lambda a: a.update(rows=a["rows"] + 1), "do not fit each other"),
        (lambda a: a.update(keys=a["keys"][1:].copy()), "do not fit each other"),
        (lambda a: a.update(id_offsets=a["id_offsets"] + 1), "do not fit each other"),
        (lambda a: a.pop("rows"), "do not fit each other"),
        (lambda a: a.pop("keys"), "lack 'keys'"),
        (lambda a: a.pop("id_bytes"), "lack 'id_bytes'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, words):
    arrays = id_arrays(column(TEXTS))
    change(arrays)
    with pytest.raises(CadcError, match=words):
        IdMap.of_arrays("user", arrays)


def test_mapped_tensors_are_those_of_the_file(tmp_path):
    arrays = {
        "vectors": DRAW.standard_normal((30, 4)).astype(np.float32),
        "none": np.zeros((0, 4), np.float32),
        "keys": DRAW.integers(0, 2**64, 9, np.uint64),
        "bytes": np.arange(7, dtype=np.uint8),
    }
    file = tmp_path / "x.safetensors"
    file.write_bytes(save(arrays))
    before = file.read_bytes()
    found = map_tensors(file)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    found["vectors"][0] = 7  # stays with this process
    assert file.read_bytes() == before


def damaged_header(text):
    return len(text).to_bytes(8, "little") + text + bytes(16)


@pytest.mark.parametrize(
    "contents",
    [
        b"", b"x", bytes(8), (2**40).to_bytes(8, "little") + b"{}",
        damaged_header(b"[]"), damaged_header(b"{"), damaged_header(b"[" * 100_000),
        damaged_header(b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'),
        damaged_header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}'),
        damaged_header(b'{"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}'),
        damaged_header(b'{"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 4]}}'),
        damaged_header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}'),
        damaged_header(b'{"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}'),
    ],
    ids=range(13),
)  # fmt: skip
def test_files_that_are_none_of_safetensors_are_refused(contents, tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(contents)
    with pytest.raises(CadcError, match="is no safetensors file"):
        map_tensors(file)


def test_texts_of_many_rows_are_those_of_a_list():
    texts = Texts.of(["a", None, "\u00e9"])
    assert texts.at(np.array([[2, -1], [1, 0]])).tolist() == [["\u00e9", ""], ["", "a"]]
    assert texts.at(np.zeros((0, 3), np.int64)).shape == (0, 3)
    assert texts.tolist() == ["a", "", "\u00e9"]
