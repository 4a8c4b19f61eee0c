"""What every section of a configuration is made of: its base class and the types of values."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

RULE = "rule"
"""The type of pydantic's error for settings that contradict each other."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# A TOML array is a list; strictness would want a tuple. Its members are as strict as the rest.
PositiveInts = Annotated[tuple[PositiveInt, ...], Field(min_length=1, strict=False)]
Sharding = Literal[
    "auto",
    "data_parallel",
    "table_wise",
    "column_wise",
    "table_column_wise",
    "row_wise",
    "table_row_wise",
]
CPU_SHARDINGS: tuple[Sharding, ...] = (
    "data_parallel",
    "table_wise",
    "column_wise",
    "table_column_wise",
)
"""Those that a CPU can run, too: row-wise kernels need CUDA."""
# Where a model-parallel table is stored. TorchRec has more kernels; we plan with these.
Kernel = Literal["auto", "fused", "fused_uvm", "fused_uvm_caching"]
TrainedKernel = Literal["auto", "fused", "fused_uvm"]
MemorySize = Annotated[str, Field(pattern=r"^(\d+(\.\d+)? ?[KMGT]i?B)?$")]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class Section(BaseModel):
    """Base of every section: it refuses unknown keys and wrong types, and cannot be changed.

    Building one, from a file or in Python, raises pydantic's ``ValidationError`` if a value is not
    allowed or values contradict each other. ``model_copy`` alone checks nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        for sentence in self.broken_rules():
            raise PydanticCustomError(RULE, "{sentence}", {"sentence": sentence})
        return self

    def broken_rules(self) -> Iterator[str]:
        """A sentence for each rule between settings that these values break."""
        yield from ()

    def decisive(self) -> dict[str, Any]:
        """The settings of this section that can change a result, as JSON values.

        They enter the keys of the stages that read the section. A change of any other setting
        never causes work to be done again.
        """
        return self.model_dump(mode="json")


def needs_cuda(kind: str, table: str) -> str:
    """The sentence on a table that is to be sharded as no CPU can."""
    return (
        f"sharding {kind!r} of table {table} needs CUDA; on CPU choose one of "
        f"{', '.join(CPU_SHARDINGS)}."
    )


_PREFIXES = "KMGT"


def parse_memory(text: str) -> int:
    """Bytes of a `MemorySize`.

    >>> parse_memory("80GiB"), parse_memory("1.5 GB")
    (85899345920, 1500000000)
    """
    number, unit = text.rstrip("KMGTiB "), text.lstrip("0123456789. ")
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** (_PREFIXES.index(unit[0]) + 1))


_UNITS = {"K": 3, "M": 6, "B": 9}


def parse_number(text: str) -> float:
    """A number, which may be told in thousands, millions or billions.

    >>> parse_number("50M"), parse_number("2.5B"), parse_number("3000")
    (50000000.0, 2500000000.0, 3000.0)

    Raises:
        ValueError: it is no finite number.
    """
    power = _UNITS.get(text[-1:], 0)
    try:
        # Decimal, since 2.3 * 10**6 is no whole number in floating point.
        number = float(Decimal(text[:-1] if power else text).scaleb(power))
    except ArithmeticError:  # decimal's own, which is no ValueError
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"{text!r} is no number such as 50M, 2.5B or 3000")
    return number
