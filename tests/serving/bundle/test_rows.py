"""Rows come back bit for bit from their code and what it compares with; near ones cost little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save

from cadc_rec.serving.bundle.arrays import floats_in
from cadc_rec.serving.bundle.foreseen import rounds_alike
from cadc_rec.serving.bundle.patch import make_patch
from cadc_rec.serving.bundle.rows import decode_rows, encode_rows

WIDTH = 3
ANY = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def raw(table):
    """The bytes of a table's rows."""
    return np.ascontiguousarray(table).view(np.uint8).reshape(len(table), -1)


def again(new, old, foresee=None, floats=True, owned=()):
    """The code of `new`, once it was seen to give `new`."""
    code = encode_rows(raw(new), raw(old), foresee, floats, np.array(owned, np.int64))
    found = decode_rows(code, len(new), raw(new).shape[1], raw(old), foresee, floats)
    assert found.tobytes() == np.ascontiguousarray(new).tobytes()
    return code


@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_numbers_come_back(data, n, m, some_stay):
    new, old = (data.draw(arrays(np.float32, (k, WIDTH), elements=ANY)) for k in (n, m))
    if some_stay:
        new[0] = old[0]
    owned = data.draw(st.lists(st.integers(0, 7), unique=True))
    again(new, old, owned=owned)
    nearly = raw(old[np.arange(n) % m])
    sure = data.draw(arrays(bool, (n, WIDTH)))
    again(new, old, lambda rows: (nearly[rows], sure[rows]), owned=owned)
    sure = np.repeat(sure, 4, axis=1)
    again(raw(new), raw(old), lambda rows: (nearly[rows], sure[rows]), False, owned)


def test_a_change_in_whole_steps_costs_its_steps_alone():
    draw = np.random.default_rng(0)
    old = draw.standard_normal((2_000, 32)).astype(np.float32)
    steps = np.rint(8 * draw.standard_normal(old.shape)).astype(np.float32)
    new = old + steps * np.float32(2**-9)
    bits = len(make_patch(b"", again(new, old))) * 8 / old.size
    # A normal of 8 steps deviation has log2(8 sqrt(2 pi e)) bits.
    assert np.log2(8 * np.sqrt(2 * np.pi * np.e)) - 0.1 < bits < 5.5
    plain = len(make_patch(old.tobytes(), new.tobytes())) * 8 / old.size
    assert plain > 25


def test_what_is_foreseen_but_for_its_last_bits_costs_these_alone():
    draw = np.random.default_rng(1)
    old, new = draw.standard_normal((2, 1_000, 32)).astype(np.float32)
    nearly = (new.view(np.int32) + draw.integers(-1, 2, new.shape)).astype(np.int32)
    foreseen = raw(nearly.view(np.float32))
    code = again(new, old, lambda rows: (foreseen[rows], np.ones((len(rows), 32), bool)))
    assert len(make_patch(b"", code)) < 0.4 * old.size


def test_numbers_that_may_come_out_otherwise_elsewhere_are_told():
    draw = np.random.default_rng(3)
    exact = draw.standard_normal((400, 16))
    low = exact[:40, 0].astype(np.float32)
    middle = (low.astype(np.float64) + np.nextafter(low, np.float32(9))) / 2
    exact[:40, 0] = middle * (1 + 1e-16 * draw.integers(-3, 4, 40))
    sure = rounds_alike(exact)
    assert not sure[:40, 0].any()
    assert sure[:, 1:].mean() > 0.999
    new, old = draw.standard_normal((2, 400, 16)).astype(np.float32)

    def foresee(factor):
        rows = (exact * factor).astype(np.float32)
        return lambda asked: (raw(rows)[asked], sure[asked])

    code = encode_rows(raw(new), raw(old), foresee(1.0), True)
    for factor in (1 - 2e-16, 1 + 2e-16):  # as another machine adds
        found = decode_rows(code, 400, 64, raw(old), foresee(factor), True)
        assert found.tobytes() == new.tobytes()


def test_rows_of_which_every_number_is_told_stay_below_five_times_their_size():
    """What the reader of a delta lets a code be at most."""
    old, new = np.random.default_rng(6).standard_normal((2, 50, 1)).astype(np.float32)
    code = again(new, old, lambda rows: (raw(old)[rows], np.zeros((len(rows), 1), bool)))
    assert len(code) <= 5 * (new.nbytes + 1)


def test_rows_that_stay_and_rows_of_zeros_cost_next_to_nothing():
    draw = np.random.default_rng(2)
    old = draw.standard_normal((5_000, 32)).astype(np.float32)
    new = old.copy()
    new[[3, 70]] = 0
    code = again(new, old)
    assert len(code) == 1 + len(old)  # nothing of what stood there
    assert len(make_patch(b"", code)) < 100


@pytest.mark.parametrize("sure", [None, False, True], ids=["stands", "unsure", "foreseen"])
def test_a_row_that_another_has_now_tells_nothing_of_the_one_before(sure):
    draw = np.random.default_rng(4)
    old = draw.standard_normal((200, 16)).astype(np.float32)
    other = old.copy()
    other[[3, 70, 71]] = draw.standard_normal((3, 16))
    new = old + np.rint(8 * draw.standard_normal(old.shape)).astype(np.float32) * np.float32(2**-9)
    new[71] = 0
    nearly = raw(new + np.float32(2**-20))

    def foresee(rows):
        return nearly[rows], np.full((len(rows), 16), sure)

    way = None if sure is None else foresee
    codes = [again(new, was, way, owned=[3, 70, 71, 999]) for was in (old, other)]
    assert codes[0] == codes[1]


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_code_are_refused_or_give_rows(noise):
    old = np.ones((3, WIDTH), np.float32)
    nearly = raw(np.ones((4, WIDTH), np.float32))
    for foresee in (None, lambda rows: (nearly[rows], np.ones((len(rows), WIDTH), bool))):
        try:
            rows = decode_rows(noise, 4, 4 * WIDTH, raw(old), foresee, True)
        except ValueError:
            continue
        assert rows.shape == (4, 4 * WIDTH)


@pytest.mark.parametrize("place", [-1, 12, 2**40])
def test_a_number_that_is_told_of_no_row_is_refused(place):
    old = np.zeros((3, 4), np.float32)
    nearly = raw(old + 1)
    code = encode_rows(
        raw(old + 2), raw(old), lambda rows: (nearly[rows], np.arange(12).reshape(3, 4) != 5), True
    )
    at = code.rindex((5).to_bytes(8, "little"))  # one number: its place, and its value
    damaged = code[:at] + place.to_bytes(8, "little", signed=True) + code[at + 8 :]
    with pytest.raises(ValueError, match="numbers that are not there"):
        decode_rows(damaged, 3, 16, raw(old), lambda rows: (nearly[rows], None), True)


def test_tables_are_found_where_they_lie():
    tables = {name: np.full((100, 20), n, np.float32) for n, name in enumerate("abc")}
    others = {"few": np.zeros((3, 4), np.float32), "codes": np.zeros((100, 20), np.int64)}
    contents = save(tables | others)
    found = floats_in("vectors/items.safetensors", contents)
    assert found.keys() == tables.keys()
    for name, span in found.items():
        assert span.of(contents).tobytes() == tables[name].tobytes()


@pytest.mark.parametrize("contents", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0{}", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["a.safetensors", "b.pt2", "c.json"])
def test_bytes_of_another_kind_hold_no_tables(name, contents):
    assert floats_in(name, contents) == {}
