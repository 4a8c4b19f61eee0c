"""Cold items: a share of the items, taken out of everything that learns, so that one can measure.

In: typed rows of interactions. Out: the rows of all other items, which go their way as if there
were nothing else; those of the cold items, whose dense ids follow the others'; ``cold.parquet``.

Whether an item is cold depends on its id and on ``data.split_seed`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.cold_items import FILE
from cadc_rec.data.engine import Engine, count
from cadc_rec.data.prepare.interactions import DenseIds, drop_duplicates, in_window
from cadc_rec.data.prepare.split import TEST, VALIDATION, Rows
from cadc_rec.data.sources.raw_tables import RawTables
from cadc_rec.data.streams import write_parquet
from cadc_rec.errors import CadcError

COLD_ROWS = pa.schema(
    [("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64()), ("held_out", pa.int8())]
)
_DIGITS = 13  # of a hexadecimal threshold: a float64 has no more


@dataclass(frozen=True)
class ColdItems:
    """Rows of cold items, and how these are told from others.

    Attributes:
        rows: of cold items.
        others: of all other items.
        threshold: an item whose digest is below is cold.
        seed: of the digests.
        control: whether what is not held out of the cold items is learned from.
    """

    rows: ir.Table
    others: ir.Table
    threshold: str
    seed: int
    control: bool

    @classmethod
    def of(cls, config: DataConfig, tables: RawTables, engine: Engine, rows: ir.Table) -> ColdItems:
        """Draw them.

        Raises:
            CadcError: every item is drawn, or none; or items have no attributes.
        """
        if not tables.attributes_of("item"):
            raise CadcError(
                f"data.cold_items = {config.cold_items} ranks new items by the values of their "
                "attributes, and the items have none but numbers; name some that are categorical, "
                "multi, numeric or hashed in [data.tables.items], or leave it out."
            )
        threshold = f"{int(config.cold_items * 16**_DIGITS):0{_DIGITS}x}"
        made = cls(rows, rows, threshold, config.split_seed, config.cold_control)
        cold = made._is_cold(rows)
        made = replace(
            made,
            rows=engine.keep("rows_of_cold_items", rows.filter(cold)),
            others=engine.keep("rows_of_others", rows.filter(~cold)),
        )
        for part, drawn in ((made.rows, "none"), (made.others, "every one")):
            if not count(engine, part):
                raise CadcError(
                    f"data.cold_items = {config.cold_items} draws {drawn} of the items that were "
                    "taken; change it, or data.split_seed."
                )
        return made

    def chosen(
        self, config: DataConfig, tables: RawTables, engine: Engine, others: ir.Table
    ) -> ColdItems:
        """The rows that count: in the same window, each pair once, of users in `others`.

        Raises:
            CadcError: there are none.
        """
        rows = drop_duplicates(in_window(config, tables, self.rows), config.duplicates)
        rows = engine.keep("chosen_of_cold_items", rows.semi_join(others, "user_id"))
        if not count(engine, rows):
            raise CadcError(
                f"data.cold_items = {config.cold_items} leaves no interaction of a cold item and a "
                "user that is learned from; raise it, or change data.split_seed."
            )
        return replace(self, rows=rows, others=others)

    def with_others(self, others: ir.Table) -> ir.Table:
        """The rows of both, in any order."""
        return others.union(self.rows.select(*others.columns))

    def ids(self, engine: Engine, warm: DenseIds, both: ir.Table) -> tuple[DenseIds, int]:
        """Dense ids of all, and how many items the model is to know, the first ones.

        Args:
            engine: that made `warm`.
            warm: ids of all others.
            both: the rows of both.
        """
        if self.control:
            items = engine.ranked("every_item_id", both, "item_id", "item")
            return replace(warm, items=items), count(engine, items)
        known = count(engine, warm.items)
        cold = engine.ranked("cold_item_ids", self.rows, "item_id", "item")
        after = cold.mutate(item=(cold.item + known).cast("int32"))
        every = warm.items.union(after.select(*warm.items.columns))
        return replace(warm, items=engine.keep("every_item_id", every)), known

    def marked(self, items: ir.Table) -> ir.Table:
        """The items (item_id, item) with a column that says whether each is cold."""
        return items.mutate(cold=self._is_cold(items))

    def among(self, items: ir.Table) -> NDArray[np.bool_]:
        """Which of the items (item_id, item) are cold, by their dense ids."""
        found = self.marked(items).order_by("item").select("cold")
        return np.asarray(found.to_pyarrow()["cold"].to_numpy(), bool)

    def _is_cold(self, rows: ir.Table) -> ir.BooleanColumn:
        named = ibis.literal(f"{self.seed}:cold:") + rows.item_id.cast("string")
        cold: ir.BooleanColumn = named.hexdigest("md5") < self.threshold
        return cold


def write_cold(rows: Rows, held: NDArray[np.int8], folder: Path) -> dict[str, Any]:
    """Write ``cold.parquet``; what the manifest says of it.

    Args:
        rows: of cold items.
        held: as which each is held out, see `cadc_rec.data.prepare.split.ColdSplit`.
        folder: the artifact's.
    """
    columns = [rows.user, rows.item, rows.timestamp, held]
    write_parquet(folder / FILE, pa.table(columns, schema=COLD_ROWS))
    return {
        "cold_items": len(np.unique(rows.item)),
        "cold_interactions": len(rows),
        "cold_val": int((held == VALIDATION).sum()),
        "cold_test": int((held == TEST).sum()),
    }
