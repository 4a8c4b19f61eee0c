"""Values made ahead are the same values; the thread ends whatever happens; columns in one piece."""

import threading
import time

import pyarrow as pa
import pytest

from cadc_rec.data import streams
from cadc_rec.data.streams import one_array, prefetched


def threads():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


def test_the_values_come_in_their_order():
    assert list(prefetched(iter(range(50)), 3)) == list(range(50))
    assert not threads()


def test_they_are_made_ahead_and_no_further():
    made = []

    def values():
        for n in range(10):
            made.append(n)
            yield n

    ready = prefetched(values(), 2)
    assert next(ready) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]  # one used, two waiting, one in the hand of the thread
    ready.close()


def test_an_error_comes_where_its_value_would_have():
    def values():
        yield 1
        raise OSError("the disk is full")

    ready = prefetched(values(), 4)
    assert next(ready) == 1
    with pytest.raises(OSError, match="the disk is full"):
        next(ready)
    assert not threads()


def test_leaving_early_ends_the_thread():
    ready = prefetched(iter(range(10**9)), 1)
    next(ready)
    ready.close()
    assert not threads()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["ab", None, "c"], pa.string()),
        ([["ab"], [], ["c", "d"]], pa.list_(pa.string())),
        ([1, 2, 3], pa.int64()),
    ],
)
def test_a_column_in_one_piece_has_wide_offsets_where_its_text_needs_them(
    values, kind, monkeypatch
):
    column = pa.chunked_array([pa.array(values, kind), pa.array(values[:1], kind)])
    plain = one_array(column)
    assert plain.type == kind
    monkeypatch.setattr(streams, "_MOST_TEXT", 5)
    wide = one_array(column)
    wider = {
        pa.string(): pa.large_string(),
        pa.list_(pa.string()): pa.large_list(pa.large_string()),
    }
    assert wide.type == wider.get(kind, kind)
    assert plain.to_pylist() == wide.to_pylist() == [*values, values[0]]
