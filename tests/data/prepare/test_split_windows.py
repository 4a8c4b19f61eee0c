"""The split by window functions, against the same split of a stream and users split by hand."""

from __future__ import annotations

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cadc_rec.data.prepare.split import ColdSplit, LeaveLastTwo, Rows, TimeSplit
from cadc_rec.data.prepare.split_windows import COLD, LEFT, UNUSED, with_part

ITEMS = 12
CUTS = (40, 70)


def a_log(seed: int) -> pd.DataFrame:
    """Users with one to twelve rows at times that they share; a third of the items are cold."""
    rng = np.random.default_rng(seed)
    rows = [
        (user, int(item), int(rng.integers(0, 10)) * 10)
        for user in range(60)
        for item in rng.permutation(ITEMS)[: rng.integers(1, ITEMS + 1)]
    ]
    log = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    log["row"] = rng.permutation(len(log))  # decides between equal times
    return log.assign(**{COLD: log["item"] % 3 == 0})


def by_windows(log: pd.DataFrame, cuts: tuple[int, int] | None) -> pd.DataFrame:
    rows = ibis.memtable(pa.Table.from_pandas(log, preserve_index=False))
    found = with_part(rows, ["timestamp", "row"], cuts).to_pyarrow().to_pandas()
    assert set(found.columns) == {*log.columns, "part"}
    return found.sort_values(["user", "timestamp", "row"])


def by_hand(log: pd.DataFrame, cuts: tuple[int, int] | None) -> list[int]:
    """The part of each row, in the order of users and their times."""
    parts: dict[int, int] = {}
    for (_, cold), mine in log.groupby(["user", COLD]):
        mine = mine.sort_values(["timestamp", "row"])
        if cuts is None:
            few = not cold and len(mine) <= 2
            for place, row in enumerate(mine["row"]):
                after = len(mine) - 1 - place
                parts[row] = LEFT if few else {0: 2, 1: 1}.get(after, LEFT)
            continue
        had: set[int] = set()
        for row, time in zip(mine["row"], mine["timestamp"], strict=True):
            span = sum(time >= cut for cut in cuts)
            parts[row] = LEFT if span == 0 else UNUSED if span in had else span
            had.add(span)
    in_order = log.sort_values(["user", "timestamp", "row"])["row"]
    return [parts[row] for row in in_order]


@pytest.mark.parametrize("cuts", [None, CUTS], ids=["last two", "by time"])
@pytest.mark.parametrize("cold", [False, True])
def test_each_row_has_the_part_that_it_has_by_hand_and_in_a_stream(cuts, cold):
    log = a_log(3)
    if not cold:
        log[COLD] = False
    found = by_windows(log, cuts)
    assert found["part"].tolist() == by_hand(log, cuts)
    assert set(found["part"]) == {LEFT, 1, 2} | ({UNUSED} if cuts else set())

    columns = (found[name].to_numpy() for name in ("user", "item", "timestamp"))
    kinds = (np.int32, np.int32, np.int64)
    stream = [Rows(*(c.astype(kind) for c, kind in zip(columns, kinds, strict=True)))]
    split = LeaveLastTwo(stream) if cuts is None else TimeSplit(stream, *cuts)
    split = ColdSplit(split, np.arange(ITEMS) % 3 == 0, False) if cold else split
    learned = Rows.joined(split.train())
    warm = found[~found[COLD]]
    for rows, part in ((learned, LEFT), (split.validation, 1), (split.test, 2)):
        expected = warm[warm["part"] == part]
        assert rows.user.tolist() == expected["user"].tolist()
        assert rows.item.tolist() == expected["item"].tolist()
    assert split.unused == (warm["part"] == UNUSED).sum()
    if cold:
        held = found[found[COLD]]["part"].replace(UNUSED, LEFT)
        assert split.cold()[1].tolist() == held.tolist()
