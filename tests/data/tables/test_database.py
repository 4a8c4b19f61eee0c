"""Tables that a query gives: the dataset of the same rows in a file, and nothing but these rows."""

from __future__ import annotations

import random
import sqlite3
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.sources.raw_input import raw_input
from cadc_rec.data.tables.connections import load_extension
from cadc_rec.data.tables.database import checked_query
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from tests.data import postgres_server
from tests.data.own_tables import COLUMNS, arrow, ids

SELECT = 'SELECT who, what, moment AS "when" FROM log'
NAMES = {"user": "who", "item": "what", "timestamp": "when"}


def a_log(seed: int = 0, rows: int = 300) -> list[tuple[str, int, int]]:
    """Ties in time, so that the order of rows matters."""
    draw = random.Random(seed)
    return [(f"u{draw.randrange(30)}", draw.randrange(20), draw.randrange(9)) for _ in range(rows)]


def sqlite(path: Path, rows) -> None:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE log (who TEXT, what INTEGER, moment INTEGER)")
        connection.execute("CREATE TABLE secret (word TEXT)")
        connection.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)


@pytest.fixture
def asked(tmp_path, raw_folder):
    """asked(query, ...): the prepare stage on what the database answers."""

    def run(query=SELECT, database="sqlite:///shop.db", workdir="work", **tables):
        config = {"database": database, "interactions": {"query": query, **NAMES}, **tables}
        experiment = Experiment.model_validate({"data": {"source": "tables", "tables": config}})
        return Pipeline(experiment, tmp_path / workdir, raw_folder).artifact("prepare")

    return run


def test_the_rows_of_a_query_are_the_dataset_of_a_file_in_the_order_of_its_columns(
    asked, tables, raw_folder
):
    rows = a_log()
    sqlite(raw_folder / "shop.db", rows)
    found = asked()
    pq.write_table(arrow(sorted(rows)), raw_folder / "log.parquet")
    assert found.fingerprint == tables("log.parquet").fingerprint
    shuffled = random.Random(1).sample(rows, len(rows))
    sqlite(raw_folder / "shop.db", shuffled)
    assert asked(workdir="again").fingerprint == found.fingerprint
    assert asked(workdir="again").path.name == found.path.name


@pytest.mark.slow
def test_the_order_that_a_query_asks_for_is_kept(asked, tables, raw_folder):
    rows = a_log()
    sqlite(raw_folder / "shop.db", rows)
    found = asked(f"{SELECT} ORDER BY log.rowid DESC")
    pq.write_table(arrow(rows[::-1]), raw_folder / "log.parquet")
    assert found.fingerprint == tables("log.parquet").fingerprint
    assert found.fingerprint != asked(workdir="unordered").fingerprint


def test_an_artifact_is_found_again_until_the_rows_change(asked, raw_folder, tmp_path):
    rows = a_log()
    sqlite(raw_folder / "shop.db", rows)
    first = asked()
    assert asked().cached
    assert asked('SELECT * FROM (SELECT who, what, moment AS "when" FROM log)').cached
    sqlite(raw_folder / "shop.db", [*rows, ("new", 1, 1)])
    assert asked().path != first.path
    assert not list((tmp_path / "work/.tmp").glob("*/")), "what was read is not left behind"


@pytest.mark.slow
def test_a_bad_row_and_an_attribute_are_named_by_their_query(asked, raw_folder):
    sqlite(raw_folder / "shop.db", [("a", 1, 1), (None, 2, 2)])
    with pytest.raises(CadcError, match=r"^data\.tables\.interactions\.query, row \d: who is miss"):
        asked()
    found = asked(on_bad_row="reject")
    assert (found.info["rows_read"], found.info["rejected"]) == (2, 1)
    listed = pq.read_table(found.path / "rejected/interactions.parquet").to_pylist()
    assert [row["file"] for row in listed] == ["data.tables.interactions.query"]
    users = {"query": "SELECT who AS user_id, 'pro' AS plan FROM log", "categorical": ["plan"]}
    found = asked(on_bad_row="reject", users=users)
    assert pq.read_table(found.path / "users.parquet")["plan"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("DROP TABLE log", "has to be one SELECT"),
        ("SELECT 1; SELECT 2", "has to be one SELECT"),
        ("", "has to be one SELECT"),
        ("ATTACH 'other.db' AS other", "cannot be parsed as SQL"),
        ("PRAGMA table_info(log)", "has to be one SELECT"),
        ("COPY log TO '/tmp/log'", "has to be one SELECT"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "has to be one SELECT"),
        ("COMMIT", "has to be one SELECT"),
        ("EXPLAIN ANALYZE DELETE FROM log", "has to be one SELECT"),
        ("WITH gone AS (DELETE FROM log RETURNING *) SELECT * FROM gone", "holds DELETE"),
        ("SELECT * FROM (SELECT 1) s, LATERAL (INSERT INTO log VALUES (1)) t", "cannot be parsed"),
        ("SELECT * INTO other FROM log", "holds INTO"),
        ("SELECT * FROM log FOR UPDATE", "holds LOCK"),
        ("SELECT pg_read_file('/etc/passwd')", "calls pg_read_file"),
        ("SELECT pg_catalog.pg_read_file('/etc/passwd')", "calls pg_read_file"),
        ("SELECT \"query_to_xml\"('SELECT * FROM secret', true, true, '')", "calls query_to_xml"),
        ("SELECT * FROM log WHERE EXISTS (SELECT lo_export(1, '/x'))", "calls lo_export"),
        ("SELECT * FROM dblink('other', 'SELECT 1') AS t(a int)", "calls dblink"),
        ("SELECT load_extension('x')", "calls load_extension"),
        ("SELECT set_config('transaction_read_only', 'off', false)", "calls set_config"),
        ("SELECT FROM WHERE", "cannot be parsed as SQL"),
    ],
)
def test_a_query_that_may_do_more_than_read_is_refused(text, sentence):
    with pytest.raises(CadcError) as caught:
        checked_query(text, "postgres", "data.tables.users.query")
    assert str(caught.value).startswith(f"data.tables.users.query: {sentence}"), caught.value


def test_queries_that_only_read_are_taken():
    for text in (
        "SELECT lower(u), count(*) FROM a JOIN b USING (x) GROUP BY 1 HAVING count(*) > 2",
        "WITH t AS (SELECT * FROM a UNION ALL SELECT * FROM b) SELECT * FROM t ORDER BY 1 LIMIT 5",
        "SELECT date_trunc('day', at)::date, extract(epoch FROM at) FROM log",
        "SELECT a FROM x UNION SELECT a FROM y",
    ):
        assert checked_query(text, "postgres", "key").sql()


@pytest.mark.parametrize(
    ("database", "query", "sentence"),
    [
        (
            "mysql://host/db",
            SELECT,
            "is no kind of database that is known; write it as postgresql://",
        ),
        ("sqlite:///nowhere.db", SELECT, "nowhere.db: no such file; correct data.tables.database"),
        ("postgresql://me:pw123@host/db", SELECT, "holds a password"),
        ("postgresql://host/db?password=pw123", SELECT, "holds a password"),
        ("postgresql://127.0.0.1:1/db", SELECT, "postgresql://127.0.0.1/db cannot be reached"),
        ("sqlite:///shop.db", "SELECT * FROM nowhere", "no such table: nowhere"),
        ("sqlite:///shop.db", "SELECT what AS who, what FROM log", "has no column 'when'"),
        ("sqlite:///shop.db", f"{SELECT} LIMIT 0", "query: has no rows"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(asked, raw_folder, database, query, sentence):
    sqlite(raw_folder / "shop.db", a_log())
    with pytest.raises(CadcError) as caught:
        asked(query, database)
    assert sentence in str(caught.value)
    assert "pw123" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_of_several_types_is_refused(asked, raw_folder):
    with sqlite3.connect(raw_folder / "shop.db") as connection:
        connection.execute("CREATE TABLE log (who, what, moment)")
        rows = ((n, n, n if n < 70_000 else "noon") for n in range(70_001))
        connection.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
    with pytest.raises(CadcError, match="a column of a query has one type: CAST it"):
        asked()


def test_an_attachment_is_postgresqls_and_needs_its_extension(asked, raw_folder, monkeypatch):
    sqlite(raw_folder / "shop.db", a_log())
    with pytest.raises(CadcError, match="'duckdb' is for PostgreSQL"):
        asked(driver="duckdb")
    monkeypatch.setattr("cadc_rec.data.engine._PACKAGES", "no_such_package_")
    monkeypatch.setattr("duckdb.connect", _no_extensions(duckdb.connect, raw_folder / "none"))
    with pytest.raises(CadcError, match="there is no PostgreSQL extension of DuckDB"):
        asked(database="postgresql://127.0.0.1:1/db", driver="duckdb")


def _no_extensions(connect, folder):
    """Connections whose DuckDB looks for extensions in an empty folder."""

    def connected():
        return connect(config={"extension_directory": str(folder)})

    return connected


def _attachable() -> bool:
    with duckdb.connect() as connection:
        try:
            load_extension(connection)
        except CadcError:
            return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not postgres_server.installed(), reason="PostgreSQL is not installed")
@pytest.mark.parametrize("driver", ["adbc", "duckdb"])
def test_a_million_rows_of_a_real_postgresql(
    driver, asked, tables, raw_folder, monkeypatch, tmp_path
):
    from adbc_driver_postgresql import dbapi

    if driver == "duckdb" and not _attachable():
        pytest.skip("no extension of this DuckDB: pip install 'cadc-rec[attachment]'")
    ask = partial(asked, driver=driver)
    with postgres_server.running_server() as address:
        with pytest.raises(CadcError, match="cannot be reached"):
            ask(database=address)
        monkeypatch.setenv("PGPASSWORD", postgres_server.PASSWORD)
        with dbapi.connect(address, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE log AS SELECT 'u' || n % 6007 AS who, n * 1709 % 1009 AS what, "
                "timestamptz '2024-01-01 00:00+00' + n % 997 * interval '1 hour' AS moment "
                "FROM generate_series(0, 999999) n"
            )
        found = ask(database=address)
        with pytest.raises(CadcError, match="holds DELETE"):
            ask("WITH gone AS (DELETE FROM log RETURNING *) SELECT * FROM gone", address)
        with pytest.raises(CadcError, match='relation "nothing" does not exist'):
            ask("SELECT * FROM nothing", address)
    numbers = range(1_000_000)
    start = 1_704_067_200 * 10**6
    table = pa.table(
        {
            "who": [f"u{n % 6007}" for n in numbers],
            "what": pa.array([n * 1709 % 1009 for n in numbers], pa.int32()),
            "when": pa.array(
                [start + n % 997 * 3_600_000_000 for n in numbers], pa.timestamp("us", "UTC")
            ),
        }
    )
    pq.write_table(
        table.sort_by([(name, "ascending") for name in COLUMNS]), raw_folder / "log.parquet"
    )
    assert found.info["rows_read"] == 1_000_000
    assert found.fingerprint == tables("log.parquet").fingerprint
    assert len(ids(found, "user")) == 6007
    for file in (tmp_path / "work").rglob("*.json"):
        kept = file.read_text()
        assert postgres_server.PASSWORD not in kept
        assert postgres_server.USER not in kept


def test_rank_zero_alone_keeps_the_rows_while_they_are_needed(tmp_path, raw_folder):
    sqlite(raw_folder / "shop.db", a_log())
    section = {"database": "sqlite:///shop.db", "interactions": {"query": SELECT, **NAMES}}
    config = Experiment.model_validate({"data": {"source": "tables", "tables": section}}).data
    with raw_input(config, raw_folder, tmp_path) as raw:
        assert raw.tables is not None
        (file,) = raw.tables.interactions.read_from
        assert pq.read_metadata(file).num_rows == 300
    assert not file.exists()
