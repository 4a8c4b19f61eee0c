"""The section ``[data]``: where interactions come from, which are kept, and what is held out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cadc_rec.config.tables import IdForm, TablesConfig
from cadc_rec.config.types import MemorySize, Names, NonNegativeFloat, PositiveInt, Section, Seed

SourceName = Literal["movielens-1m", "movielens-10m", "epinions", "generated", "tables"]
Share = Annotated[float, Field(gt=0, lt=1)]


class GeneratedConfig(Section):
    """A latent-factor world, for demonstrations and for sizes no public archive has."""

    users: PositiveInt = 2000
    """Users of the world."""
    items: PositiveInt = 1000
    """Items of the world."""
    interactions: PositiveInt = 100_000
    """Rows of the world, exactly: at least three and at most half the items for each user."""
    factors: Annotated[int, Field(ge=2)] = 8
    """Dimension of the world's hidden taste vectors."""
    popularity_skew: NonNegativeFloat = 0.8
    """Exponent of the items' Zipf popularity; 0 makes every item equally popular."""
    drift: Annotated[float, Field(ge=0, le=1)] = 0.3
    """How far a user's taste moves from the first interaction to the last; 0 stands still."""
    seed: Seed = 0
    """Seed of the world; apart from `seed`, so that every seed sees one world."""


class SparkConfig(Section):
    """The Spark that prepares the data (`data.engine = "spark"`); no result depends on it."""

    master: Annotated[str, Field(min_length=1)] = "local[*]"
    """Its address, such as `spark://host:7077`; `local[*]` starts one on all cores here. The
    machines of a cluster must see the work folder under the same path."""
    settings: Names = ()
    """Spark's own settings, such as `["spark.executor.memory=8g"]`."""


class DataConfig(Section):
    """Where the interactions come from and how they are split."""

    source: SourceName = "generated"
    """Where the interactions come from; see [protocol.md](protocol.md#data)."""
    since: str = ""
    """Interactions before this time are left out: a date or datetime (UTC), such as `"2024-01-31"`,
    or a whole number in the source's own unit, such as `"1706659200"`; empty is no bound."""
    until: str = ""
    """Interactions at this time and after it are left out; written as `since`."""
    duplicates: Literal["first", "last", "sum"] = "first"
    """Which row of a repeated (user, item) pair is kept, by time and then file order. `sum` keeps
    the first with the weights of all (1 each, where rows have none) added up."""
    max_per_user: Annotated[int, Field(ge=0)] = 0
    """Keep no more than a user's latest so many interactions; 0 keeps all. Before the k-core."""
    k_core: Annotated[int, Field(ge=0)] = 0
    """Keep only users and items with at least this many interactions, repeated until stable;
    0 and 1 keep everything."""
    split: Literal["leave-last-two", "time"] = "leave-last-two"
    """What is held out: each user's last two interactions; or the first that a user has in each of
    two spans of time after everything that is learned from."""
    validation_from: str = ""
    """`split = "time"`: where the first span begins, as `since`; empty goes by `time_shares`."""
    test_from: str = ""
    """`split = "time"`: where the second span begins."""
    time_shares: Annotated[tuple[Share, Share], Field(strict=False)] = (0.1, 0.1)
    """`split = "time"` without times: shares of all interactions in the two spans."""
    split_seed: Seed = 0
    """Seed of the order of each user's interactions, where the source has no time. Apart from
    `seed`, so that every method and seed is judged on the same held-out items."""
    engine: Literal["duckdb", "spark"] = "duckdb"
    """What prepares the data: DuckDB in this process, or Spark. Both give the same bytes."""
    memory: MemorySize = ""
    """Memory for DuckDB, or for Spark's driver, such as `"3GiB"`; more than that is spilled to
    disk. Empty is half of the machine's memory, at most 3 GiB."""
    spill: str = ""
    """A folder to spill to; empty is the work folder."""
    generated: GeneratedConfig = GeneratedConfig()
    spark: SparkConfig = SparkConfig()
    tables: TablesConfig = TablesConfig()

    @property
    def has_time(self) -> bool:
        """Whether interactions have a time; without one, a user's order is drawn."""
        if self.source == "tables":
            return bool(self.tables.interactions.timestamp)
        return self.source != "epinions"

    @property
    def id_forms(self) -> tuple[IdForm, ...]:
        """What is done to ids as they are read; see `TablesConfig.normalize_ids`."""
        return self.tables.normalize_ids if self.source == "tables" else ()

    def decisive(self) -> dict[str, Any]:
        """See `Section`; engine, memory and spilling decide nothing.

        The settings of the generated world are the raw input's fingerprint.
        """
        names = {"source", "since", "until", "duplicates", "max_per_user", "split"}
        if self.split == "time":
            names |= {"validation_from", "test_from"}
            if not self.validation_from:  # else the shares change nothing
                names.add("time_shares")
        if not self.has_time:
            names.add("split_seed")
        settings = self.model_dump(mode="json", include=names)
        settings["k_core"] = max(self.k_core, 1)  # 0 and 1 keep the same
        if self.source == "tables":
            settings["tables"] = self.tables.decisive()
        return settings
