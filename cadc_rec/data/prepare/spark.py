"""Spark as the preparation's engine; it keeps every table as a folder of Parquet files.

In: typed rows from the reader's DuckDB, as Parquet. Out: the same tables that DuckDB gives, and
sorted rows as files that follow each other. Nothing is numbered by a window over all rows, which
Spark carries out in one task: sorted rows are written by many tasks, and a row's place is its
file's start plus its place in the file. So is a value's rank.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from cadc_rec.config.experiment import DataConfig
from cadc_rec.config.types import parse_memory
from cadc_rec.data import streams
from cadc_rec.data.engine import memory_limit
from cadc_rec.data.prepare import part_tasks
from cadc_rec.data.prepare.part_tasks import UNFIT, SortedRows
from cadc_rec.data.streams import ROW_GROUP_ROWS
from cadc_rec.data.tables.scan import first_line
from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    from ibis.backends.pyspark import Backend as SparkBackend
    from pyspark.sql import SparkSession

_QUIET = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = spark: %m%n
"""
_JAVA = (
    "data.engine = 'spark' needs Java 17 or later, and {what}; install it (openjdk-17-jre-headless "
    "on Debian) and set JAVA_HOME, or set data.engine = 'duckdb'."
)


PLACE = "place"
"""The column of a row's place among sorted rows."""


class SparkEngine:
    """A session; see `cadc_rec.data.engine.Engine`.

    Args:
        session: carries the expressions out.
        reader: the DuckDB that reads the raw input.
        folder: receives a folder for each table; every machine of a cluster has to see it.
    """

    def __init__(self, session: SparkSession, reader: Backend, folder: Path) -> None:
        self._session, self._reader, self._folder = session, reader, folder
        self._tables: set[str] = set()
        self._backend: SparkBackend = ibis.pyspark.connect(session)

    def adopt(self, rows: ir.Table) -> ir.Table:
        """Hand the rows over as Parquet, whose row groups Spark reads side by side."""
        folder = self._folder / "raw"
        folder.mkdir()
        self._tables.add("raw")
        relation = self._reader.con.sql(self._reader.compile(rows))
        relation.write_parquet(
            str(folder / "rows.parquet"), compression="zstd", row_group_size=ROW_GROUP_ROWS
        )
        return self._table("raw")

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Written and read back, so that no later step computes it again."""
        self._write(name, rows)
        return self._table(name)

    def only_row(self, rows: ir.Table) -> dict[str, Any]:
        """See `Engine`."""
        return self.few_rows(rows)[0]

    def ranked(self, name: str, rows: ir.Table, original: str, dense: str) -> ir.Table:
        """See `Engine`; the sort is Spark's by ranges of values, a file each."""
        self.sort(f"{name}_sorted", rows.select(original).distinct().order_by(original))
        placed = self.placed(f"{name}_sorted")
        rank = placed[PLACE].cast("int32")
        return self.keep(name, placed.select(original, **{dense: rank}))

    def few_rows(self, rows: ir.Table) -> list[dict[str, Any]]:
        """The rows of an expression that has few, in its order."""
        return [row.asDict() for row in self._sql(rows).collect()]

    def sort(self, name: str, in_order: ir.Table) -> SortedRows:
        """The rows of a sorted expression, kept as files of its order."""
        files = self._write(name, in_order)
        counts = [pq.read_metadata(file).num_rows for file in files]
        found = SortedRows([str(file) for file in files], list(accumulate(counts, initial=0)))
        starts = pa.array(found.starts[:-1], pa.int64())
        table = pa.table({"file": [file.name for file in files], "start": starts})
        pq.write_table(table, self._folder / f"{name}_starts.parquet")
        return found

    def placed(self, name: str) -> ir.Table:
        """The rows that were sorted, in any order, with their `PLACE` in it: int64, from 0."""
        read = self._session.read.parquet(str(self._folder / name))
        columns = [f"`{column}`" for column in read.columns]
        place = ["_metadata.file_name AS __file", "_metadata.row_index AS __index"]
        read.selectExpr(*columns, *place).createOrReplaceTempView(f"{name}_placed")
        begun = self._session.read.parquet(str(self._folder / f"{name}_starts.parquet"))
        begun.createOrReplaceTempView(f"{name}_starts")
        rows, start = self._backend.table(f"{name}_placed"), self._backend.table(f"{name}_starts")
        joined = rows.join(start, rows["__file"] == start["file"])
        place_of = joined["start"] + joined["__index"]
        return joined.mutate(**{PLACE: place_of}).select(*read.columns, PLACE)

    def keep_only(self, *tables: ir.Table) -> None:
        """Remove all other tables, for the room that they take."""
        for name in self._tables - {table.get_name() for table in tables}:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Remove a table that nothing reads any more."""
        self._tables.discard(name)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def each(self, task: Callable[[int], None], count: int) -> None:
        """Have the machines carry out a task for each of the numbers ``0 .. count - 1``.

        Its code and that of `cadc_rec.data.streams` is sent with it.
        """
        from pyspark import cloudpickle

        if not count:
            return
        sent = (part_tasks, streams)  # the machines need not have this package
        for module in sent:
            cloudpickle.register_pickle_by_value(module)
        try:
            self._session.sparkContext.parallelize(range(count), count).foreach(task)
        finally:
            for module in sent:
                cloudpickle.unregister_pickle_by_value(module)

    def to_reader(self, kept: ir.Table) -> ir.Table:
        """See `Engine`."""
        name = kept.get_name()
        files = [str(file) for file in _parts(self._folder / name)]
        return self._reader.read_parquet(files, table_name=f"from_spark_{name}")

    def _sql(self, rows: ir.Table) -> Any:
        return self._session.sql(self._backend.compile(rows))

    def _write(self, name: str, rows: ir.Table) -> list[Path]:
        folder = self._folder / name
        self._tables.add(name)
        self._sql(rows).write.parquet(str(folder), compression="zstd")
        return _parts(folder)

    def _table(self, name: str) -> ir.Table:
        self._session.read.parquet(str(self._folder / name)).createOrReplaceTempView(name)
        return self._backend.table(name)


def _parts(folder: Path) -> list[Path]:
    """A table's files, in the order of the tasks that wrote them."""
    return sorted(folder.glob("part-*.parquet"))


@contextlib.contextmanager
def open_spark(config: DataConfig, reader: Backend, scratch: Path) -> Iterator[SparkEngine]:
    """A Spark session for one preparation.

    Args:
        config: address, memory, spill folder and further settings.
        reader: the DuckDB that reads the raw input.
        scratch: an existing folder for tables and spilling.

    Raises:
        CadcError: Spark or Java is not there, or the work failed.
        OSError: the disk is full (ENOSPC).
    """
    _require_spark()
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    folder = (scratch / "spark").absolute()
    folder.mkdir()
    master = config.spark.master
    try:
        with warnings.catch_warnings():
            # that PySpark 4 does not yet know pandas 3, which nothing here asks it for
            warnings.simplefilter("ignore", FutureWarning)
            session = _session(config, folder)
            try:
                yield SparkEngine(session, reader, folder)
            finally:
                session.stop()
    except (Py4JError, PySparkException) as error:
        if UNFIT in str(error):
            said = str(error).split(UNFIT, 1)[1].splitlines()[0].strip()
            raise CadcError(f"Spark at {master}: {said}.") from None
        lacked = _lacked(error)
        if lacked == "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch)) from None
        if lacked == "memory":
            raise CadcError(
                f"Spark at {master} ran out of memory; raise data.memory (its driver's), or "
                "spark.executor.memory in data.spark.settings."
            ) from None
        raise CadcError(
            f"Spark at {master} failed ({first_line(error)[:300]}); --debug shows all it said."
        ) from error


def _lacked(error: Exception) -> Literal["disk", "memory"] | None:
    """What Spark ran out of, if that is why it failed."""
    # Py4JError and PySparkException have no field for what a task on another machine raised: of
    # that, only Java's text reaches us.
    if os.strerror(errno.ENOSPC) in str(error):
        return "disk"
    return "memory" if "java.lang.OutOfMemoryError" in str(error) else None


def _require_spark() -> None:
    try:
        import pyspark  # noqa: F401  whether it is there
    except ModuleNotFoundError:
        raise CadcError(
            "data.engine = 'spark' needs PySpark; pip install 'cadc-rec[spark]', or set "
            "data.engine = 'duckdb'."
        ) from None
    home = os.environ.get("JAVA_HOME")
    if home and not (Path(home) / "bin" / "java").is_file():
        raise CadcError(_JAVA.format(what=f"JAVA_HOME = {home} has no bin/java"))
    if not home and shutil.which("java") is None:
        raise CadcError(_JAVA.format(what="there is no java on the path"))


def _session(config: DataConfig, folder: Path) -> SparkSession:
    from pyspark.sql import SparkSession

    log_file = folder / "log4j2.properties"
    log_file.write_text(_QUIET, "utf-8")
    memory = parse_memory(config.memory) if config.memory else memory_limit()
    settings = {
        "spark.driver.memory": f"{memory >> 20}m",
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log_file}",
        "spark.local.dir": str(Path(config.spill).absolute() if config.spill else folder / "spill"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if config.spark.master.startswith("local"):
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    for setting in config.spark.settings:
        key, _, value = setting.partition("=")
        settings[key] = value
    builder = SparkSession.builder.master(config.spark.master).appName("cadc-rec prepare")
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    if config.spark.master.startswith("local") and "PYSPARK_PYTHON" not in os.environ:
        session.sparkContext.pythonExec = sys.executable  # and not the first one on the path
    return session
