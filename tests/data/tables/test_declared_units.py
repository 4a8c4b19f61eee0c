"""A unit of times that are no whole numbers has no effect, and is refused; whole ones are read."""

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError

pytestmark = pytest.mark.slow  # together; each by itself is quick

DAY = 1_700_000_000  # 2023-11-14T22:13:20Z
TIMES = [DAY + 60 * n for n in range(12)]


@pytest.fixture
def log(tmp_path):
    """log(times): a Parquet file of three users' interactions at these times."""

    def write(times):
        users = [n % 3 for n in range(len(times))]
        table = pa.table({"user_id": users, "item_id": list(range(len(times))), "at": times})
        pq.write_table(table, tmp_path / "log.parquet")
        return str(tmp_path / "log.parquet")

    return write


@pytest.fixture
def prepare_own(prepare):
    def run(path, **data):
        keys = {"path": path, "timestamp": "at", "unit": "ms"}
        return prepare(source="tables", tables={"interactions": keys}, **data)

    return run


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (
            [1000.0 * t for t in TIMES],
            "log.parquet: its column at holds numbers, taken as seconds, so "
            "data.tables.interactions.unit = 'ms' has no effect; write whole numbers, or, if they "
            "are seconds, leave it out.",
        ),
        (
            [dt.datetime.fromtimestamp(t, dt.UTC) for t in TIMES],
            "holds dates or datetimes, so data.tables.interactions.unit = 'ms' has no effect; "
            "leave it out.",
        ),
        (
            [dt.datetime.fromtimestamp(t, dt.UTC).isoformat() for t in TIMES],
            "holds dates or datetimes, so data.tables.interactions.unit = 'ms'",
        ),
        ([f"{t}.5" for t in TIMES], "holds numbers, taken as seconds, so"),
    ],
    ids=["floats", "datetimes", "dates as text", "numbers as text"],
)
def test_it_is_refused_for_times_that_are_no_whole_numbers(prepare_own, log, times, words):
    with pytest.raises(CadcError) as refused:
        prepare_own(log(times))
    assert words in str(refused.value)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    ("since", "until", "kept"),
    [("2023-11-14", "2023-11-16", 12), ("2023-11-14T22:20", "", 5), ("", "2023-11-14T22:20", 7)],
)
def test_whole_numbers_are_read_in_it(prepare_own, log, text, since, until, kept):
    times = [1000 * t for t in TIMES]
    path = log(list(map(str, times)) if text else times)
    artifact = prepare_own(path, since=since, until=until)
    assert artifact.info["rows_read"] - artifact.info.get("outside_window", 0) == kept
