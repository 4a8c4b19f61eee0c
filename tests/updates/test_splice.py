"""Splitting anew the users whom a day changed gives what splitting everybody anew gives."""

import numpy as np
import pytest

from cadc_rec.data.prepare import again
from cadc_rec.data.prepare.again import in_order, merged
from cadc_rec.data.prepare.chosen import as_table
from cadc_rec.data.prepare.split import LeaveLastTwo, Rows
from cadc_rec.data.streams import write_parquet
from cadc_rec.updates.living import Staying
from cadc_rec.updates.splice import SplicedSplit

USERS, NEW_USERS, ITEMS = 60, 66, 25
ASKED = ["hour"]


def some_rows(rng, n, users):
    """Few times, so that many are equal, and pairs that repeat."""
    columns = (rng.integers(0, top, n) for top in (users, ITEMS, 12))
    user, item, time = columns
    return Rows(
        user.astype(np.int32),
        item.astype(np.int32),
        time.astype(np.int64),
        None,
        rng.integers(0, 24, (n, 1)).astype(np.int32),
    )


def written(folder, split):
    folder.mkdir()
    again.write_train(folder, split.train(), ASKED)
    for name, rows in (("val", split.validation), ("test", split.test)):
        write_parquet(folder / f"{name}.parquet", as_table(rows, ASKED))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


def evicting(rng):
    gone = {"user": rng.random(USERS) < 0.1, "item": rng.random(ITEMS) < 0.1}
    return Staying(gone)


@pytest.mark.parametrize("evicts", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_split_of_all_rows_to_the_byte(tmp_path, monkeypatch, seed, evicts):
    monkeypatch.setattr(again, "ROW_GROUP_ROWS", 37)  # users lie across groups
    rng = np.random.default_rng(seed)
    old = some_rows(rng, 700, USERS)
    old = old.take(old.user % 7 != seed)  # some users have nothing
    written(tmp_path / "old", LeaveLastTwo([in_order([old])]))
    new = some_rows(rng, 30 * (seed > 0), NEW_USERS)
    gone = evicting(rng).gone
    found, counts = {}, {}
    for name in ("spliced", "whole"):
        keep = Staying(gone) if evicts else (lambda rows: rows)
        if name == "whole":
            split = LeaveLastTwo(merged(tmp_path / "old", new, ASKED, keep))
        else:
            split = SplicedSplit(tmp_path / "old", new, NEW_USERS, ASKED, keep)
        written(tmp_path / name, split)
        found[name], counts[name] = contents(tmp_path / name), split.distinct
        if evicts:
            assert keep.removed > 0
    assert found["spliced"] == found["whole"]
    assert counts["spliced"] == counts["whole"]


def test_rows_of_users_without_a_change_are_not_sorted(tmp_path, monkeypatch):
    """The work of a day is in proportion to the rows of the users who came."""
    rng = np.random.default_rng(5)
    written(tmp_path / "old", LeaveLastTwo([in_order([some_rows(rng, 900, USERS)])]))
    new = some_rows(rng, 8, USERS)
    sorted_users = []

    def noting(parts):
        rows = in_order(parts)
        sorted_users.extend(rows.user.tolist())
        return rows

    monkeypatch.setattr("cadc_rec.updates.splice.in_order", noting)
    written(tmp_path / "new", SplicedSplit(tmp_path / "old", new, USERS, ASKED))
    assert set(sorted_users) == set(new.user.tolist())
    assert 8 < len(sorted_users) < 8 * 900 // USERS * 2
