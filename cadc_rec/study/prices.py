"""What resources cost where the user runs: the prices that turn a study's costs into dollars.

In: a ``[prices]`` table of a TOML file, a study's own or another. Out: `Prices`. Dollars are
computed where they are shown, and stored nowhere: prices change, what was used does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from cadc_rec.config.errors import explain
from cadc_rec.config.file import read_toml
from cadc_rec.config.types import NonNegativeFloat, Section
from cadc_rec.errors import CadcError
from cadc_rec.store.costs import Costs


class Prices(Section):
    """Dollars, or units of any other currency; a price that is not set counts nothing."""

    cpu_hour: NonNegativeFloat | None = None
    """An hour of one core at work."""
    gib_hour: NonNegativeFloat | None = None
    """A GiB of memory for an hour: a stage's peak, as long as it runs."""
    gpu_hour: NonNegativeFloat | None = None
    """An hour of a GPU, idle or not, from a process's first use of it."""
    gb_read: NonNegativeFloat | None = None
    """Reading 10^9 bytes, whether a disk or the page cache has them."""
    kwh: NonNegativeFloat | None = None
    """A kilowatt-hour of the processor packages."""

    def broken_rules(self) -> Iterator[str]:
        """Prices that say nothing."""
        if not self.model_fields_set:
            yield f"[prices] is empty; set one of {', '.join(Prices.model_fields)}, or remove it."

    def dollars(self, seconds: float, costs: Costs) -> float | None:
        """What a stage cost; None where something that has a price is not known.

        Args:
            seconds: wall-clock seconds of the stage.
            costs: what it used, as `cadc_rec.store.costs` names it.
        """
        hours = seconds / 3600
        # A GPU's own energy is not measured, so that of such a stage is not known.
        joules = None if costs.get("gpu_seconds") else costs.get("package_joules")
        bought = {
            "cpu_hour": _times(costs.get("cpu_seconds"), 1 / 3600),
            "gib_hour": _times(costs.get("peak_memory_bytes"), hours / 2**30),
            "gpu_hour": _times(costs.get("gpu_seconds"), 1 / 3600),
            "gb_read": _times(costs.get("read_bytes"), 1e-9),
            "kwh": _times(joules, 1 / 3.6e6),
        }
        total = 0.0
        for name, amount in bought.items():
            price = getattr(self, name)
            if price is None:
                continue
            if amount is None:
                return None
            total += price * amount
        return total


class _Priced(Section):
    prices: Prices


def read_prices(path: Path) -> Prices:
    """The ``[prices]`` table of a TOML file; whatever else is in the file is not looked at.

    Raises:
        CadcError: the file cannot be read, has no such table, or a price is not allowed.
    """
    table = read_toml(path).get("prices")
    if not isinstance(table, dict):
        raise CadcError(
            f"{path}: has no table [prices]; add one, with one of {', '.join(Prices.model_fields)}."
        )
    try:
        return _Priced.model_validate({"prices": table}).prices
    except ValidationError as error:
        raise CadcError(explain(error, _Priced, str(path))) from None


def _times(amount: float | None, factor: float) -> float | None:
    return None if amount is None else amount * factor
