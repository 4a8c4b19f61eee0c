"""The section ``[data]``: where interactions come from, which are kept, and what is held out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from cadc_rec.config.dense import TextConfig
from cadc_rec.config.ids import IdsConfig
from cadc_rec.config.tables import IdForm, TablesConfig
from cadc_rec.config.types import MemorySize, Names, NonNegativeFloat, PositiveInt, Section, Seed

SourceName = Literal[
    "movielens-1m", "movielens-10m", "movielens-20m", "epinions", "generated", "tables"
]
Share = Annotated[float, Field(gt=0, lt=1)]


class GeneratedConfig(Section):
    """A dataset drawn from a latent-factor model, for demonstrations and for any size you want."""

    users: PositiveInt = 2000
    """Number of users."""
    items: PositiveInt = 1000
    """Number of items."""
    interactions: PositiveInt = 100_000
    """Exact number of interactions. Each user must have at least three, and on average at most half
    of the items."""
    factors: Annotated[int, Field(ge=2)] = 8
    """Dimension of the hidden taste vectors."""
    popularity_skew: NonNegativeFloat = 0.8
    """Exponent of the items' Zipf popularity; 0 makes every item equally popular."""
    drift: Annotated[float, Field(ge=0, le=1)] = 0.3
    """How far a user's taste moves from the first interaction to the last; 0 keeps it fixed."""
    seed: Seed = 0
    """Seed of the generated data. It is separate from `seed`, so that every `seed` uses the same
    data."""


class SparkConfig(Section):
    """Spark as the engine of data preparation (`data.engine = "spark"`); it changes no result."""

    master: Annotated[str, Field(min_length=1)] = "local[*]"
    """Address of Spark, such as `spark://host:7077`; `local[*]` starts Spark on all cores of this
    machine. The machines of a cluster must see the work folder under the same path."""
    settings: Names = ()
    """Spark's own settings, such as `["spark.executor.memory=8g"]`."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        for setting in self.settings:
            key, equals, _ = setting.partition("=")
            if not equals or not key.startswith("spark."):
                yield (
                    f"data.spark.settings: {setting!r} is not a setting of Spark; write it as "
                    "spark.some.key=value."
                )


class DataConfig(Section):
    """Where the interactions come from and how they are split."""

    source: SourceName = "generated"
    """Where the interactions come from; see [protocol.md](protocol.md#data)."""
    since: str = ""
    """Leave out interactions before this time: a date or datetime (UTC), such as `"2024-01-31"`, or
    a whole number in the source's own unit, such as `"1706659200"`. Empty sets no bound."""
    until: str = ""
    """Leave out interactions at or after this time, written as in `since`."""
    duplicates: Literal["first", "last", "sum"] = "first"
    """Which row to keep if a (user, item) pair repeats: the first or the last, by time and then by
    file order. `sum` keeps the first row and adds up the weights of all of them (1 each, if rows
    have no weights)."""
    max_per_user: Annotated[int, Field(ge=0)] = 0
    """Keep at most this many of each user's latest interactions; 0 keeps all. This comes before the
    k-core."""
    k_core: Annotated[int, Field(ge=0)] = 0
    """Keep only users and items with at least this many interactions, repeated until nothing
    changes; 0 and 1 keep everything."""
    split: Literal["leave-last-two", "time"] = "leave-last-two"
    """What is held out for validation and test. `leave-last-two`: each user's last two
    interactions. `time`: each user's first interaction in each of two periods that follow the
    training data."""
    validation_from: str = ""
    """`split = "time"`: start of the validation period, written as in `since`. If this and
    `test_from` are empty, `time_shares` decides."""
    test_from: str = ""
    """`split = "time"`: start of the test period."""
    time_shares: Annotated[tuple[Share, Share], Field(strict=False)] = (0.1, 0.1)
    """`split = "time"` without start times: the shares of all interactions that fall into the
    validation period and into the test period."""
    split_seed: Seed = 0
    """Seed of the order of each user's interactions, if the source has no time. It is separate from
    `seed`, so that every method and seed is judged on the same held-out items."""
    cold_items: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Measure what the model does for new items: about this share of the items, drawn with
    `split_seed`, is taken out of everything that learns, and ranked for the users who took them;
    see [protocol.md](protocol.md#cold-items). 0 takes none out."""
    cold_control: bool = False
    """`cold_items`: measure what the same items reach when they are not new. The same rows are held
    out and ranked, and the items' other interactions are learned from."""
    engine: Literal["duckdb", "spark"] = "duckdb"
    """What prepares the data: DuckDB in this process, or Spark. Both write the same bytes."""
    memory: MemorySize = ""
    """Memory of DuckDB, or of Spark's driver, such as `"3GiB"`; data beyond it are spilled to disk.
    Empty takes half of the machine's memory, at most 3 GiB."""
    spill: str = ""
    """Folder to spill to; empty takes the work folder."""
    generated: GeneratedConfig = GeneratedConfig()
    spark: SparkConfig = SparkConfig()
    tables: TablesConfig = TablesConfig()
    text: TextConfig = TextConfig()
    ids: IdsConfig = IdsConfig()

    def broken_rules(self) -> Iterator[str]:
        """See `Section`: settings that nothing would read, and times that do not fit."""
        for rule in (self._of_another_source, self._of_another_split, self._of_times):
            yield from rule()
        if self.cold_control and not self.cold_items:
            yield (
                "data.cold_control = true compares with data.cold_items, which is 0; set "
                "data.cold_items to a share such as 0.1, or leave data.cold_control out."
            )
        yield from self._of_living_ids()

    def _of_living_ids(self) -> Iterator[str]:
        """What has no meaning where ids come and go."""
        others = [("k_core", self.k_core > 1), ("cold_items", bool(self.cold_items))]
        for key, given in others if self.ids.living else []:
            if given:
                yield (
                    f"data.{key} is about a closed set of ids, and data.ids gives rows to ids that "
                    f"come and go; leave data.{key} or [data.ids] out (data.ids.admission leaves "
                    "rare ids out)."
                )

    def _of_another_source(self) -> Iterator[str]:
        for section, source in (("tables", "tables"), ("generated", "generated")):
            default = type(self).model_fields[section].default
            if self.source != source and getattr(self, section) != default:
                named = "source" in self.model_fields_set
                given = f"and data.source = {self.source!r}" if named else "which is not set"
                yield (
                    f"[data.{section}] is read with data.source = {source!r} alone, {given}; set "
                    f"data.source = {source!r}, or leave the section out."
                )
        if self.text != TextConfig() and not self.reads_text:
            yield (
                "[data.text] is about columns of text, and none is named; name them in "
                "data.tables.items.text or data.tables.users.text, or leave the section out."
            )
        for role in ("users", "items") if self.source == "tables" else ():
            table = getattr(self.tables, role)
            # Files of vectors say themselves which ids they are of.
            own = table.model_copy(update={"vector_files": {}, "vector_precision": "float32"})
            if not (table.path or table.query) and own != type(table)():
                yield (
                    f"[data.tables.{role}] describes a table, and names none; set "
                    f"data.tables.{role}.path or .query, or leave the section out."
                )

    def _of_another_split(self) -> Iterator[str]:
        shares = self.time_shares != type(self).model_fields["time_shares"].default
        for key, given in (
            ("validation_from", bool(self.validation_from)),
            ("test_from", bool(self.test_from)),
            ("time_shares", shares),
        ):
            if given and self.split != "time":
                yield (
                    f"data.{key} is read with data.split = 'time' alone, and data.split = "
                    f"{self.split!r}; set data.split = 'time', or leave {key} out."
                )
        if shares and self.validation_from:
            yield (
                "data.time_shares is read where no times are named, and data.validation_from names "
                "one; leave one of them out."
            )

    def _of_times(self) -> Iterator[str]:
        """Times that the source has not, and a split by time without its times."""
        by_time = [key for key in ("since", "until") if getattr(self, key)]
        by_time += ["split = 'time'"] if self.split == "time" else []
        if by_time and not self.has_time:
            yield f"data.{by_time[0]} needs times, and the source has none; leave it out."
        declared = self.source == "tables" and self.tables.interactions.timestamp_kind == "order"
        if declared and self.by_clock:
            why = "data.tables.interactions.timestamp_kind says so"
            yield is_only_an_order(self.by_clock[0], why, own_tables=True)
        if self.split != "time":
            return
        first, second = self.validation_from, self.test_from
        if bool(first) != bool(second) or (not first and sum(self.time_shares) >= 1):
            yield (
                "data.split = 'time' needs both data.validation_from and data.test_from, or two "
                "data.time_shares whose sum is below 1."
            )
        elif _not_before(first, second):
            yield out_of_order(first, second)

    @property
    def has_time(self) -> bool:
        """Whether interactions have a time; if not, each user's order is drawn with a seed."""
        if self.source == "tables":
            return bool(self.tables.interactions.timestamp)
        return self.source != "epinions"

    @property
    def by_clock(self) -> list[str]:
        """The settings that mean times of the world: a split by time, and bounds that are dates.

        A bound that is a whole number is one of the source's own numbers, whatever they mean.
        """
        bounds = [(key, getattr(self, key)) for key in ("since", "until")]
        dates = [f"data.{key} = {text!r}" for key, text in bounds if text and not _is_whole(text)]
        return ["data.split = 'time'"] * (self.split == "time") + dates

    @property
    def reads_text(self) -> bool:
        """Whether any column of text is encoded."""
        texts = (*self.tables.users.text, *self.tables.items.text)
        return self.source == "tables" and bool(texts)

    @property
    def id_forms(self) -> tuple[IdForm, ...]:
        """What is done to ids as they are read; see `TablesConfig.normalize_ids`."""
        return self.tables.normalize_ids if self.source == "tables" else ()

    def decisive(self) -> dict[str, Any]:
        """See `Section`; engine, memory and spilling change no result.

        The settings of the generated dataset enter through the raw input's fingerprint.
        """
        names = {"source", "since", "until", "duplicates", "max_per_user", "split"}
        if self.split == "time":
            names |= {"validation_from", "test_from"}
            if not self.validation_from:  # with given times the shares have no effect
                names.add("time_shares")
        if not self.has_time or self.cold_items:
            names.add("split_seed")
        if self.cold_items:
            names |= {"cold_items", "cold_control"}
        settings = self.model_dump(mode="json", include=names)
        settings["k_core"] = max(self.k_core, 1)  # 0 and 1 keep the same
        if self.source == "tables":
            settings["tables"] = self.tables.decisive()
        if self.reads_text:
            settings["text"] = self.text.decisive()
        if self.ids.living:
            settings["ids"] = self.ids.decisive()
        return settings


def is_only_an_order(setting: str, why: str, *, own_tables: bool) -> str:
    """The sentence on a setting that needs a clock where times are only an order.

    Args:
        setting: the setting, as a person would write it.
        why: the times are taken for an order.
        own_tables: whether the source has a setting that says otherwise.
    """
    remedy = "leave it out"
    if own_tables:
        remedy += ", or, if these are times, set data.tables.interactions.timestamp_kind = 'clock'"
    return (
        f"{setting} needs the times of a clock, and these are only each user's order ({why}); "
        f"{remedy}."
    )


def out_of_order(validation: str | int, test: str | int) -> str:
    """The sentence on a split by time whose validation does not begin before its test."""
    return (
        f"data.split = 'time': validation begins at {validation} and test at {test}; the test has "
        "to begin later."
    )


def _not_before(first: str, second: str) -> bool:
    """Whether a time is at another or after it; False where only the source's unit can tell."""
    numbers = [_is_whole(text) for text in (first, second)]
    if all(numbers):
        return int(first) >= int(second)
    try:
        return not any(numbers) and _date(first) >= _date(second)
    except ValueError:
        return False  # a text that is no time: the preparation says so


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _date(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
