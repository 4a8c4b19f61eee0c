"""Which rows are interactions, and in which order: Ibis expressions, the same for every engine.

In: typed rows of user_id, item_id, timestamp, row (the place in the file, which breaks ties) and
perhaps weight. Out: the rows that are kept; dense ids; the rows in each user's order.

Nothing here depends on the order in which an engine adds numbers, on how it rounds, or on a
language's order of letters (text is compared by its bytes): two engines give the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ibis
import ibis.expr.types as ir

from cadc_rec.config.data import out_of_order
from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.engine import Engine, count
from cadc_rec.data.sources.raw_tables import RawTables, parse_time
from cadc_rec.errors import CadcError

WEIGHT_UNIT = 1_000_000
"""Weights are whole millionths while they are added up: sums of floats depend on their order."""
_CANDIDATES = 63


@dataclass(frozen=True)
class Order:
    """How a user's interactions follow each other."""

    has_time: bool
    split_seed: int

    def keys(self, rows: ir.Table) -> list[ir.Column]:
        """What to sort a user's rows by, ascending; no two rows have the same."""
        if self.has_time:
            return [rows.timestamp, rows.row]
        # md5 of seed and file row: the same order on every engine and for any number of threads,
        # and one that no item id takes part in.
        return [(ibis.literal(f"{self.split_seed}:") + rows.row.cast("string")).hexdigest("md5")]


@dataclass(frozen=True)
class Kept:
    """The rows that are kept as interactions, and how many were left out."""

    rows: ir.Table
    at_most: int
    """How many there are at most; the stream may still drop repeated pairs."""
    removed: dict[str, int]
    """How many rows were left out, by reason."""
    cuts: tuple[int, int] | None
    """Where validation and test begin, of a split by time."""


def choose_interactions(
    config: DataConfig,
    tables: RawTables,
    engine: Engine,
    rows: ir.Table,
    raw_rows: int,
    order: Order,
    *,
    late_duplicates: bool,
) -> Kept:
    """Window, repeated pairs, cap, k-core and, of a split by time, users that begin in time.

    With `late_duplicates`, who reads the rows in order drops repeated pairs, where that is the same
    and cheaper.
    """
    removed: dict[str, int] = {}
    before = raw_rows

    def left(kept: ir.Table, why: str, key: str) -> ir.Table:
        """Count what `kept` lacks."""
        nonlocal before
        now = count(engine, kept)
        removed[why] = before - now
        if now == 0:
            raise CadcError(f"{key} leaves no interaction at all; change it.")
        before = now
        return kept

    if config.since or config.until:
        inside = in_window(config, tables, rows)
        rows = left(inside, "outside_window", "data.since and data.until")
    # A k-core counts distinct pairs, as does a cap; and without times the order in which the
    # stream drops repetitions is not that of the file.
    late = late_duplicates and order.has_time and config.duplicates == "first"
    if not (late and config.k_core <= 1 and not config.max_per_user and config.split != "time"):
        rows = engine.keep("distinct_pairs", drop_duplicates(rows, config.duplicates))
        rows = left(rows, "duplicates_dropped", "data.duplicates")
    if config.max_per_user:
        rows = engine.keep("latest", keep_latest(rows, config.max_per_user, order))
        rows = left(rows, "removed_by_cap", "data.max_per_user")
    rows = k_core(engine, rows, config.k_core)
    rows = left(rows, "removed_by_k_core", "data.k_core")
    # As in an update: items first, so that users are counted by what can be learned of them.
    for side in ("item", "user"):
        if most := config.ids.rows(side):
            kept = with_most_rows(rows, side, most, config.ids.admission)
            rows = engine.keep(f"{side}_with_row", kept)
            rows = left(rows, f"{side}_without_row", f"data.ids.{side}_rows")
    cuts = _cuts(config, tables, engine, rows)
    if cuts is not None:
        rows = engine.keep("begun", begun_before(rows, cuts[0]))
        rows = left(rows, "removed_by_late_start", "data.validation_from")
    return Kept(rows, before, removed, cuts)


def _cuts(
    config: DataConfig, tables: RawTables, engine: Engine, rows: ir.Table
) -> tuple[int, int] | None:
    """Where validation and test begin; None where the split is not by time."""
    if config.split != "time":
        return None
    first, second = (
        parse_time(text, f"data.{key}", tables.time_unit)
        for key, text in (
            ("validation_from", config.validation_from),
            ("test_from", config.test_from),
        )
    )
    if first is None or second is None:
        validation, test = config.time_shares
        first = time_before_latest(engine, rows, validation + test)
        second = time_before_latest(engine, rows, test)
    if first >= second:
        raise CadcError(out_of_order(first, second))
    return first, second


def in_window(config: DataConfig, tables: RawTables, rows: ir.Table) -> ir.Table:
    """The rows of the time that ``data.since`` and ``data.until`` leave."""
    since, until = (
        parse_time(text, f"data.{key}", tables.time_unit)
        for key, text in (("since", config.since), ("until", config.until))
    )
    return within(rows, since, until)


def within(rows: ir.Table, since: int | None, until: int | None) -> ir.Table:
    """The rows of a span of time, in the source's own unit: from `since`, and before `until`."""
    if since is not None:
        rows = rows.filter(rows.timestamp >= since)
    if until is not None:
        rows = rows.filter(rows.timestamp < until)
    return rows


def drop_duplicates(rows: ir.Table, keep: Literal["first", "last", "sum"] = "first") -> ir.Table:
    """Keep one row of a (user, item) pair: its first or last by time and then file order.

    Sorting a user's rows by item brings a pair's rows together, so the window needs no partition
    by pair. `sum` keeps the first, with the weights of all.
    """
    if keep == "sum":
        pair = ibis.window(group_by=[rows.user_id, rows.item_id])
        rows = rows.mutate(weight=rows.weight.sum().over(pair).cast("int64"))
    window = ibis.window(group_by=rows.user_id, order_by=[rows.item_id, rows.timestamp, rows.row])
    beside = rows.item_id.lead() if keep == "last" else rows.item_id.lag()
    marked = rows.mutate(item_beside=beside.over(window))
    outermost = marked.item_beside.isnull() | (marked.item_beside != marked.item_id)
    return marked.filter(outermost).drop("item_beside")


def keep_latest(rows: ir.Table, most: int, order: Order) -> ir.Table:
    """At most a user's latest `most` rows."""
    latest_first = [key.desc() for key in order.keys(rows)]
    place = ibis.row_number().over(group_by=rows.user_id, order_by=latest_first)
    marked = rows.mutate(rows_after=place)
    return marked.filter(marked.rows_after < most).drop("rows_after")


def keep_frequent(rows: ir.Table, k: int) -> ir.Table:
    """One pass of the k-core: rows whose user and whose item both have at least `k`."""
    users = rows.group_by("user_id").having(ibis._.count() >= k).agg()
    items = rows.group_by("item_id").having(ibis._.count() >= k).agg()
    return rows.semi_join(users, "user_id").semi_join(items, "item_id")


def k_core(engine: Engine, rows: ir.Table, k: int) -> ir.Table:
    """Repeat `keep_frequent` until it removes nothing.

    Raises:
        CadcError: nothing is left.
    """
    before, passes = count(engine, rows), 0
    while k > 1:
        rows = engine.keep(f"core_{passes}", keep_frequent(rows, k))
        left = count(engine, rows)
        if left == before:
            break
        before, passes = left, passes + 1
    if before == 0:
        raise CadcError(f"data.k_core = {k} leaves no interaction at all; lower it.")
    return rows


def with_most_rows(rows: ir.Table, side: str, most: int, admission: int) -> ir.Table:
    """The rows of the `most` users or items that have most rows, and at least `admission`.

    Of ids with equally many rows, those seen later come first, and then the smaller.
    """
    key = f"{side}_id"
    of_ids = rows.group_by(key).agg(n=ibis._.count(), newest=ibis._.timestamp.max())
    of_ids = of_ids.filter(of_ids.n >= admission)
    order = [of_ids.n.desc(), of_ids.newest.desc(), of_ids[key]]
    placed = of_ids.mutate(place=ibis.row_number().over(order_by=order))
    return rows.semi_join(placed.filter(placed.place < most), key)


def begun_before(rows: ir.Table, time: int) -> ir.Table:
    """The rows of users that have one before `time`."""
    return rows.semi_join(rows.filter(rows.timestamp < time).select("user_id"), "user_id")


def time_before_latest(engine: Engine, rows: ir.Table, share: float) -> int:
    """The time from which on a share of the rows lies: that of row n - round(share * n), from 0.

    Found by counting, many candidates in one pass: no engine has to sort or hold all times.
    """
    found = engine.only_row(
        rows.aggregate(n=rows.count(), low=rows.timestamp.min(), high=rows.timestamp.max())
    )
    n, low, high = int(found["n"]), int(found["low"]), int(found["high"])
    wanted = min(n - round(share * n), n - 1)
    while low < high:  # the time sought is in [low, high]
        step = max(1, (high - low) // _CANDIDATES)
        times = range(low, high, step)
        counted = engine.only_row(
            rows.aggregate(
                **{f"t{k}": (rows.timestamp <= time).sum() for k, time in enumerate(times)}
            )
        )
        reached = [time for k, time in enumerate(times) if int(counted[f"t{k}"]) > wanted]
        missed = [time for k, time in enumerate(times) if int(counted[f"t{k}"]) <= wanted]
        low = max(missed) + 1 if missed else low
        high = min(reached) if reached else high
    return low


@dataclass(frozen=True)
class DenseIds:
    """Original and dense ids: a dense id is the original one's rank in ascending order.

    The rank depends on which ids occur and on nothing else: not on file order, and not on which
    of a user's interactions are held out.
    """

    users: ir.Table
    """user_id, user (int32, from 0)."""
    items: ir.Table
    """item_id, item (int32, from 0)."""

    @staticmethod
    def of(engine: Engine, rows: ir.Table) -> DenseIds:
        """The ids that occur in `rows`."""
        return DenseIds(
            users=engine.ranked("user_ids", rows, "user_id", "user"),
            items=engine.ranked("item_ids", rows, "item_id", "item"),
        )


def dense_rows(
    rows: ir.Table, ids: DenseIds, order: Order, values: Mapping[str, ir.Table] | None = None
) -> tuple[ir.Table, list[str]]:
    """Dense ids in place of the original ones, in any order.

    Args:
        rows: that are kept.
        ids: dense ids; further columns of the items' table are the rows', too.
        order: of a user's rows.
        values: of each column of a context, its values and their ``rank`` from 0.

    Returns:
        user, item (int32), timestamp (int64) and, where rows have one, weight (float32); for
        each column of a context 1 + the rank of its value, int32, 0 where it is missing; and the
        columns by which a user's rows are sorted, with their names.
    """
    keys = {f"key_{n}": key for n, key in enumerate(order.keys(rows))}
    dense = rows.mutate(**keys).join(ids.users, "user_id").join(ids.items, "item_id")
    for name, ranked in (values or {}).items():
        renamed = ranked.rename({f"{name}_rank": "rank"})
        dense = dense.left_join(renamed, name).drop(f"{name}_right")
    further = [name for name in ids.items.columns if name not in ("item_id", "item")]
    columns = {name: dense[name] for name in ("user", "item", "timestamp", *further, *keys)}
    if "weight" in rows.columns:
        columns["weight"] = (dense["weight"] / float(WEIGHT_UNIT)).cast("float32")
    for name in values or {}:
        columns[name] = (dense[f"{name}_rank"].fill_null(-1) + 1).cast("int32")
    return dense.select(**columns), list(keys)


def order_interactions(
    rows: ir.Table, ids: DenseIds, order: Order, values: Mapping[str, ir.Table] | None = None
) -> ir.Table:
    """The same, sorted by user and then by the user's order, without the columns of the order."""
    dense, keys = dense_rows(rows, ids, order, values)
    return dense.order_by(["user", *keys]).drop(*keys)
