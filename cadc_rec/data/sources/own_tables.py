"""The user's own tables as raw tables; `cadc_rec.data.tables` reads their formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.config.tables import EntityTable, InteractionsTable, ItemsTable, TablesConfig
from cadc_rec.data.engine import DuckdbEngine
from cadc_rec.data.formats.lines import TextFormat
from cadc_rec.data.formats.open import open_table
from cadc_rec.data.sources.id_kinds import IdKind, id_kind
from cadc_rec.data.sources.raw_tables import (
    AttributeColumn,
    DenseColumn,
    RawTables,
    Side,
    TimeUnit,
    context_column,
    guess_unit,
)
from cadc_rec.data.sources.times import Gaps
from cadc_rec.data.tables.attributes import attribute_column, declared, with_types, without
from cadc_rec.data.tables.columns import (
    TimeKind,
    Typed,
    as_number,
    formatted_time,
    id_column,
    in_id_form,
    number_column,
    time_column,
    time_kind,
    weight_column,
)
from cadc_rec.data.tables.dense import declared_dense, dense_column, with_width
from cadc_rec.data.tables.files import FileSet, TableFiles
from cadc_rec.data.tables.forms import Form
from cadc_rec.data.tables.scan import FILE, FILE_ROW, ROW, Scan, good_rows, whole
from cadc_rec.errors import CadcError
from cadc_rec.log import log

_COLUMNS = ("user", "item", "timestamp", "rating", "weight")
_TIMES = {
    "integer": "whole numbers, used unchanged",
    "number": "numbers, taken as seconds",
    "timestamp": "dates or datetimes",
}


def read_tables(
    config: TablesConfig,
    files: TableFiles,
    backend: Backend,
    scratch: Path,
    forms: Mapping[tuple[str, str], Form] | None = None,
    widths: Mapping[tuple[str, str], int] | None = None,
) -> RawTables:
    """The raw tables of the user's files.

    Args:
        config: names the columns.
        files: from `find_tables`.
        backend: will run the expressions.
        scratch: a folder for what is unpacked or converted.
        forms: of a day, how the dataset writes the values of its attributes, by side and name, and
            those of its context, by ``interaction`` and name.
        widths: of a day, those of the dataset's vectors, by side and name.

    Raises:
        CadcError: a file, column or row that cannot be read as declared; names file, line or row
            and column.
    """
    backend.raw_sql("SET TimeZone = 'UTC'")  # a datetime that names no zone is meant as UTC
    return _Reader(config, backend, scratch, forms or {}, widths or {}).read(files)


def read_side(
    config: TablesConfig, side: Side, files: FileSet, backend: Backend, scratch: Path,
    forms: Mapping[tuple[str, str], Form], widths: Mapping[tuple[str, str], int],
) -> pa.Table:  # fmt: skip
    """Ids and attributes of one file of users or items, in its order; see `read_tables`."""
    backend.raw_sql("SET TimeZone = 'UTC'")
    reader = _Reader(config, backend, scratch, forms, widths)
    read = reader._side(side, getattr(config, f"{side}s"), files)
    untyped = "integer-like" in config.normalize_ids
    kind = id_kind(side, getattr(config, f"{side}_ids"), [read.ids], untyped=untyped)
    rows = reader._entities(read, kind, {})
    assert rows is not None
    return rows.to_pyarrow()


@dataclass(frozen=True)
class _Reader:
    """What every table is read with."""

    config: TablesConfig
    backend: Backend
    scratch: Path
    forms: Mapping[tuple[str, str], Form]
    widths: Mapping[tuple[str, str], int]

    def read(self, files: TableFiles) -> RawTables:
        config = self.config
        keys = config.interactions
        interactions = self._scan(files.interactions, "interactions", _wanted_interactions(keys))
        interactions = self._with_ids(interactions, keys.user, keys.item)
        users = self._side("user", config.users, files.users)
        items = self._side("item", config.items, files.items)
        untyped = "integer-like" in config.normalize_ids
        user_kind = id_kind(
            "user", config.user_ids, [(interactions, keys.user), users.ids], untyped=untyped
        )
        item_kind = id_kind(
            "item", config.item_ids, [(interactions, keys.item), items.ids], untyped=untyped
        )
        rows, counts, gaps = self._interactions(interactions, user_kind, item_kind)
        return RawTables(
            interactions=rows,
            users=self._entities(users, user_kind, counts),
            items=self._entities(items, item_kind, counts),
            context=(*keys.context, *keys.context_lagged),
            attributes=(*users.attributes.values(), *items.attributes.values()),
            dense=(*users.dense, *items.dense),
            has_time=bool(keys.timestamp),
            time_unit=self._unit(interactions),
            timestamp_kind=keys.timestamp_kind or (gaps.kind if gaps else ""),
            why_order=gaps.why if gaps else "",
            counts=counts,
            rejected=self._rejected,
        )

    def _unit(self, scan: Scan) -> TimeUnit:
        """What the timestamps count once they are converted."""
        keys = self.config.interactions
        if keys.format:
            return "us"
        if not keys.timestamp or time_kind(scan.rows, keys.timestamp, "") == "integer":
            return keys.unit
        return "us"

    @property
    def _rejected(self) -> Path | None:
        """The folder for rows that are not as declared; None where they are errors."""
        return self.scratch / "rejected" if self.config.on_bad_row == "reject" else None

    def _scan(self, found: FileSet, role: str, wanted: Mapping[str, str]) -> Scan:
        columns = getattr(self.config, role).columns
        layout = TextFormat(self.config.delimiter, self.config.encoding, columns)
        reject = self._rejected is not None
        return open_table(self.backend, found, role, wanted, layout, self.scratch, reject=reject)

    def _side(self, side: Side, config: EntityTable, found: FileSet | None) -> _Side:
        if found is None:
            return _Side(side, config, None, {}, ())
        attributes = declared(config, side)
        dense = declared_dense(config, side, attributes)
        scan = self._scan(found, f"{side}s", _wanted_entities(config, attributes, dense, side))
        typed = with_types(attributes, scan.rows)
        with whole(scan):
            sized = tuple(
                with_width(
                    column, scan.rows, _where(scan, column), self.widths.get((side, column.name), 0)
                )
                for column in dense
            )
        return _Side(side, config, self._with_ids(scan, config.id), typed, sized)

    def _with_ids(self, scan: Scan, *columns: str) -> Scan:
        """The same with columns of ids in the form that the configuration asks for."""
        forms = self.config.normalize_ids
        if not forms:
            return scan
        ids = {column: in_id_form(scan.rows[column], forms) for column in columns}
        return replace(scan, rows=scan.rows.mutate(**ids))

    def _good(
        self, scan: Scan, typed: Mapping[str, Typed], unique: str | None = None
    ) -> tuple[ir.Table, dict[str, int]]:
        folder = self._rejected
        file = folder and folder / f"{scan.role}.parquet"
        with whole(scan):
            return good_rows(self.backend, scan, typed, unique=unique, rejected=file)

    def _interactions(
        self, scan: Scan, user_kind: IdKind, item_kind: IdKind
    ) -> tuple[ir.Table, dict[str, int], Gaps | None]:
        """user_id, item_id, row and, where there is time, timestamp; counts of the other rows.

        And the times' gaps, where they would be other ones without the rows below `min_rating`.
        """
        keys, raw = self.config.interactions, scan.rows
        typed = {
            "user_id": id_column(raw[keys.user], keys.user, user_kind),
            "item_id": id_column(raw[keys.item], keys.item, item_kind),
        }
        if keys.timestamp:
            where = f"{scan.files[0]}: its column {keys.timestamp}"
            time = raw[keys.timestamp]
            if keys.format:
                typed["timestamp"] = formatted_time(time, keys.timestamp, keys.format, where)
            else:
                with whole(scan):
                    kind = time_kind(raw, keys.timestamp, where)
                _require_unit(keys, kind, where)
                if kind == "number":
                    with whole(scan):
                        _warn_of_small_units(raw, keys.timestamp)
                log.info("%s holds the time as %s", keys.timestamp, _TIMES[kind])
                typed["timestamp"] = time_column(time, keys.timestamp, kind)
        if keys.weight:
            typed["weight"] = weight_column(raw[keys.weight], keys.weight)
        for column in (*keys.context, *keys.context_lagged):
            where = f"{scan.files[0]}: its column {column}"
            form = self.forms.get(("interaction", column))
            value = attribute_column(raw[column], column, "categorical", None, where, form)
            typed[context_column(column)] = value
        least = keys.min_rating
        if keys.rating:
            rating = raw[keys.rating]
            typed["rating"] = number_column(rating, keys.rating, required=least is not None)
        rows, counts = self._good(scan, typed)
        gaps = None
        if least is not None:
            if keys.timestamp and not keys.timestamp_kind:
                gaps = Gaps.of(DuckdbEngine(self.backend), rows)
            good = counts["rows_read"] - counts.get("rejected", 0)
            rows = rows.filter(rows["rating"] >= least)
            counts["below_min_rating"] = good - int(rows.count().to_pyarrow().as_py())
            if counts["below_min_rating"] == good:
                raise CadcError(
                    f"data.tables.interactions.min_rating = {least} leaves no interaction at all; "
                    "lower it."
                )
        return rows.rename(row=ROW).drop(FILE, FILE_ROW), counts, gaps

    def _entities(self, side: _Side, kind: IdKind, counts: dict[str, int]) -> ir.Table | None:
        """The id, the title where there is one, and the attributes, as the dataset calls them.

        Adds to `counts` how many rows were rejected.
        """
        if side.scan is None:
            return None
        scan, config, raw = side.scan, side.config, side.scan.rows
        typed = {f"{side.side}_id": id_column(raw[config.id], config.id, kind)}
        if isinstance(config, ItemsTable) and config.title:
            title = raw[config.title].cast("string").nullif("")
            typed["title"] = Typed(config.title, title, ibis.null("string"))
        for column, attribute in side.attributes.items():
            where = f"{scan.files[0]}: its column {column}"
            known = without(raw[column], config.missing)
            separator = None if column in config.lists else config.separator
            typed[attribute.name] = attribute_column(
                known,
                column,
                attribute.kind,
                separator,
                where,
                self.forms.get((side.side, attribute.name)),
            )
        for dense in side.dense:
            known = without(raw[dense.column], config.missing)
            typed[dense.name] = dense_column(known, dense, _where(scan, dense))
        rows, found = self._good(scan, typed, unique=f"{side.side}_id")
        if "rejected" in found:
            counts[f"rejected_{side.side}s"] = found["rejected"]
        with whole(scan):  # also the columns that cannot have a fault
            return self.backend.create_table(f"good_{scan.role}", rows.drop(ROW, FILE, FILE_ROW))


@dataclass(frozen=True)
class _Side:
    """The users' or the items' table, before its rows are converted."""

    side: Side
    config: EntityTable
    scan: Scan | None
    attributes: Mapping[str, AttributeColumn]
    dense: tuple[DenseColumn, ...]

    @property
    def ids(self) -> tuple[Scan | None, str]:
        """The table and its column of ids."""
        return self.scan, self.config.id


def _where(scan: Scan, column: DenseColumn) -> str:
    return f"{scan.files[0]}: its column {column.column}"


def _require_unit(keys: InteractionsTable, kind: TimeKind, where: str) -> None:
    """Refuse a unit that has no effect.

    Raises:
        CadcError: the times are not whole numbers, the only ones that a unit is about.
    """
    if not keys.unit or kind == "integer":
        return
    remedy = "leave it out"
    if kind == "number":
        remedy = "write whole numbers, or, if they are seconds, leave it out"
    raise CadcError(
        f"{where} holds {_TIMES[kind]}, so data.tables.interactions.unit = {keys.unit!r} has no "
        f"effect; {remedy}."
    )


def _wanted_interactions(config: InteractionsTable) -> dict[str, str]:
    """The setting that names each column."""
    named = {key: getattr(config, key) for key in _COLUMNS}
    wanted = {column: key for key, column in named.items() if column}
    for key in ("context", "context_lagged"):
        wanted |= {column: key for column in getattr(config, key) if column not in wanted}
    return {column: f"data.tables.interactions.{key}" for column, key in wanted.items()}


def _wanted_entities(
    config: EntityTable,
    attributes: Mapping[str, AttributeColumn],
    dense: Sequence[DenseColumn],
    side: Side,
) -> dict[str, str]:
    """The setting that names each column of a side's table."""
    section = f"data.tables.{side}s"
    wanted = {config.id: f"{section}.id"}
    if isinstance(config, ItemsTable) and config.title:
        wanted[config.title] = f"{section}.title"
    wanted |= {column: f"{section}.{a.kind}" for column, a in attributes.items()}
    return wanted | {each.column: f"{section}.{each.kind}" for each in dense}


def _warn_of_small_units(rows: ir.Table, column: str) -> None:
    """Tell that numbers taken as seconds are of the size of milliseconds or less."""
    number = as_number(rows[column])
    there = ~number.isnan()
    ends = rows.aggregate(least=number.min(where=there), most=number.max(where=there))
    least, most = ends.to_pyarrow().to_pylist()[0].values()
    unit = guess_unit(least, most) if least is not None else ""
    if unit not in ("", "s"):
        log.warning(
            "%s holds numbers from %.0f to %.0f: of the size of %s since 1970, but numbers with a "
            "point are taken as seconds; write whole numbers and set "
            "data.tables.interactions.unit = '%s'",
            column,
            least,
            most,
            unit,
            unit,
        )
