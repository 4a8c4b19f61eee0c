"""Where ids come and go, forgotten ones leave the map too, and a newcomer has their row."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import open_artifact
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import write_table
from tests.updates.test_forget import (
    ITEM,
    ITEMS,
    USER,
    USERS,
    experiment,
    found,
    lists,
    marked,  # noqa: F401  (a fixture)
    planted,
)

pytestmark = pytest.mark.slow

WAITS = "zq-WAITS-3301"
COLUMNS = ("user_id", "item_id", "at")


def living(folder, eviction="lru", counting="exact"):
    """Rows for exactly those who are there; a newcomer needs two interactions."""
    ids = {"user_rows": len(USERS), "item_rows": len(ITEMS), "admission": 2}
    ids |= {"eviction": eviction, "counting": counting}
    e = experiment(folder).model_dump(mode="json", exclude_unset=True)
    return Experiment.model_validate(e | {"data": {**e["data"], "ids": ids}})


@pytest.mark.parametrize(("eviction", "counting"), [("lru", "exact"), ("lfu", "sketch")])
def test_no_file_has_the_forgotten_and_a_newcomer_takes_the_row(
    marked,  # noqa: F811
    tmp_path,
    eviction,
    counting,
):
    e, workdir, day = living(marked, eviction, counting), tmp_path / "work", tmp_path / "days"
    patterns = planted(Pipeline(e, workdir).run())
    patterns[WAITS] = WAITS.encode()
    # Somebody comes once, and waits for a row.
    write_table(
        day / "1" / "interactions.parquet", [(WAITS, "i1", 800), ("u1", "i2", 801)], COLUMNS
    )
    if not carry_on(e, workdir, day / "1").update:
        raise AssertionError("u1 took i2 before: choose another item")
    here = {name for name, _ in found([workdir], patterns)}
    assert here == set(patterns) - ({WAITS} if counting == "sketch" else set())

    files = lists(tmp_path, user=f"{USER}\n{WAITS}")
    outcome = carry_on(e, workdir, None, forget=files, purge_holders=True)
    assert found([workdir], patterns) == set()
    forgot = Dataset.open(open_artifact(workdir / outcome.update.artifacts["prepare"]))
    rows = {side: forgot.forgotten.rows[side].tolist() for side in ("user", "item")}
    assert [len(of) for of in rows.values()] == [1, 1]
    assert len(forgot.user_ids()) == len(USERS)

    # All three come back among others, often enough for a row; a newcomer gets that of USER.
    back = [
        (u, i, 900 + n) for n, (u, i) in enumerate((u, i) for u in (USER, WAITS) for i in ITEMS)
    ]
    fresh = [("new", i, 990 + n) for n, i in enumerate(["i3", "i4", "i5", "fresh", "fresh"])]
    fresh += [("u7", "fresh", 995), ("u8", "fresh", 996), ("u3", ITEM, 997)]
    write_table(day / "2" / "interactions.parquet", [*back, *fresh], COLUMNS)
    update = carry_on(e, workdir, day / "2").update
    assert update.report["day"]["of_forgotten"] == len(back) + 1
    after = Dataset.open(open_artifact(workdir / update.artifacts["prepare"]))
    assert after.user_ids()[rows["user"][0]].as_py() == "new"
    assert after.item_ids()[rows["item"][0]].as_py() == "fresh"
    assert {side: of.tolist() for side, of in after.forgotten.rows.items()} == {
        "user": [],
        "item": [],
    }
    for side in ("user", "item"):
        row = rows[side][0]
        assert after.generation(side)[row] == forgot.generation(side)[row] + 1
        served = workdir / update.artifacts["evaluate"] / f"{side}_ids.parquet"
        assert pq.read_table(served)[f"{side}_id"][row].as_py() in ("new", "fresh")
    taken = after.train_item[after.train_user == rows["user"][0]]
    assert np.isin(taken, np.arange(len(ITEMS))).all()
    assert len(taken)
    assert found([workdir], patterns) == set()
