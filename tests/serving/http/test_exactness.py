"""MovieLens 100k: each user's answers, recomputed from the files (benchmarks.exactness)."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.exactness.__main__ import of_bundle
from benchmarks.exactness.cases import SOLD_OUT
from benchmarks.exactness.compare import Answer, Tally, listed
from benchmarks.exactness.files import Files, Question
from benchmarks.serving import Running
from cadc_rec.data.sources.raw_input import DATA_VARIABLE
from tests.serving.http.conftest import KEY, ROOT, Service, run_command

pytestmark = [pytest.mark.realdata, pytest.mark.slow, pytest.mark.timeout(900)]
CASES = (
    "plain, 100 places",
    "session, appended",
    "session in place of the record",
    "somebody new with a history",
    "filter: and, or, not",
    "candidates of each",
    "at most so many of a value",
    "all of these together",
    SOLD_OUT,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Of the method `prior`, whose answers have lists in them and change with a session."""
    data = os.environ.get(DATA_VARIABLE)
    if not data or not (Path(data) / "ml-100k" / "ratings.csv").exists():
        pytest.skip(f"no ml-100k in ${DATA_VARIABLE}")
    folder = tmp_path_factory.mktemp("ml-100k")
    asked = (ROOT / "configs" / "ml-100k.toml", "--method", "prior", "--workdir", folder / "work")
    run_command("run", *asked)
    run_command("export", *asked, "--out", folder / "bundle", "--precision", "none")
    return folder / "bundle"


def test_every_answer_is_the_one_that_the_files_say(bundle, tmp_path):
    service = Service(tmp_path, bundle, "--max-wait", "10", key=KEY, real=True)
    running = Running(service.http, service.grpc, service.pid, KEY)
    try:
        found = dict(of_bundle(Files(bundle), running, CASES))
    finally:
        service.stop()
    assert {name: tally.wrong for name, tally in found.items()} == {name: [] for name in CASES}
    assert {tally.users for tally in found.values()} == {943}
    assert max(tally.largest for tally in found.values()) < 1e-5


def test_an_answer_that_is_not_the_one_is_found(bundle):
    """What compares can fail: an item is left out, two change places, a score is another one."""
    files = Files(bundle)
    asked = Question(files.user_ids[:1], 10)
    expected = files.expected(asked)
    scores = np.where(expected.may[0], expected.scores[0], -np.inf)
    rows = listed(files, asked, scores, "known")
    items, right = [files.item_ids[row] for row in rows], scores[rows].tolist()

    def wrong(items, scores, source="known"):
        tally = Tally()
        tally.add(files, asked, expected, [Answer(items, scores, source)])
        return tally.wrong

    assert wrong(items, right) == []
    assert "has 9 items, not 10" in wrong(items[:-1], right[:-1])[0]
    swapped = [items[1], items[0], *items[2:]]
    assert "in place 1" in wrong(swapped, [right[1], right[0], *right[2:]])[0]
    assert "scores item" in wrong(items, [right[0] * 1.001, *right[1:]])[0]
    assert "is based on history" in wrong(items, right, "history")[0]
    mine = files.item_ids[files.known[0][0]]
    assert "none of the candidates" in wrong([mine, *items[1:]], right)[0]
