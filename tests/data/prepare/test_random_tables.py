"""Over random tables, the rows kept, the codes and the counts are those that pandas finds.

``CADC_REC_RANDOM_TABLES`` is the seconds to go on for, such as 3600; Hypothesis shrinks what fails.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.prepare.build_dataset import build_dataset
from cadc_rec.data.sources.raw_input import find_raw
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import Draft
from tests.data.prepare.prepared_by_pandas import expected
from tests.data.prepare.random_tables import Case, cases, write

SECONDS = "CADC_REC_RANDOM_TABLES"
COUNTS = (
    *("rows_read", "rejected", "below_min_rating", "outside_window", "duplicates_dropped"),
    *("removed_by_cap", "removed_by_k_core"),
)


def prepared(case: Case, folder: Path, **more: object) -> Draft | None:
    """The package's dataset; None where it says that no interaction is left."""
    (folder / "raw").mkdir()
    config = DataConfig.model_validate({**write(case, folder / "raw"), "memory": "256MiB", **more})
    (folder / "dataset").mkdir()
    draft = Draft(folder / "dataset")
    try:
        build_dataset(config, find_raw(config, folder / "raw"), draft)
    except CadcError as error:
        if any(words in str(error) for words in ("no good row", "no interaction at all")):
            return None
        raise
    return draft


def check(case: Case, **more: object) -> None:
    """Prepare a case twice, and compare."""
    folder = Path(tempfile.mkdtemp())
    try:
        draft, wanted = prepared(case, folder, **more), expected(case)
        event("nothing left" if wanted is None else f"{case.format}, rows left")
        if draft is None or wanted is None:
            assert (draft, wanted) == (None, None)
            return
        compare(draft, wanted)
    finally:
        shutil.rmtree(folder)


def compare(draft: Draft, wanted: dict) -> None:
    info = draft.info
    assert {name: info[name] for name in COUNTS if info.get(name)} == wanted["counts"]
    ids = {}
    for side in ("user", "item"):
        ids[side] = pq.read_table(draft.path / f"{side}s.parquet")[f"{side}_id"].to_pylist()
        assert ids[side] == wanted[side]
    for split, name in (("train", "train"), ("val", "val.parquet"), ("test", "test.parquet")):
        table = pq.read_table(draft.path / name).to_pydict()
        found = [
            (ids["user"][user], ids["item"][item], time)
            for user, item, time in zip(
                table["user"], table["item"], table["timestamp"], strict=True
            )
        ]
        assert len(found) == len(set(found)) == info[split]
        assert set(found) == wanted[split]
    total = sum(info.get(name, 0) for name in COUNTS[1:])
    assert info["rows_read"] == total + info["train"] + info["val"] + info["test"]
    if "kind" in wanted:
        items = pq.read_table(draft.path / "items.parquet").to_pydict()
        assert info.get("rejected_items", 0) == wanted["rejected_items"]
        for name in ("kind", "hash", "price"):
            assert items[name] == wanted[name], name
        assert [sorted(codes) for codes in items["tags"]] == wanted["tags"]


def searching(examples: int):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.slow
@searching(50)
@given(cases())
def test_random_tables_are_prepared_as_pandas_does(case):
    check(case)


@pytest.mark.skipif(SECONDS not in os.environ, reason=f"{SECONDS} is not set")
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_random_tables_for_as_long_as_is_asked():
    end, tried = time.monotonic() + float(os.environ[SECONDS]), 0

    @settings(searching(100), phases=[Phase.generate, Phase.shrink])
    @given(cases())
    def some(case):
        nonlocal tried
        tried += 1
        check(case)

    while time.monotonic() < end:
        some()
    print(f"{tried} tables")
