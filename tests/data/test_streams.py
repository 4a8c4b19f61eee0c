"""Values made ahead are the same values, and the thread ends whatever happens."""

import threading
import time

import pytest

from cadc_rec.data.streams import prefetched


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
