"""A study's table of costs: what each method took of time, processors, memory, disks and money.

In: a study, and the costs of its cells by stage. Out: a `TableView`; None where nothing is done.
Numbers are medians over seeds, of pre-training, selection and training; validation is a part of the
last, but for the seconds. A column that no cell has a number for is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cadc_rec.store.costs import Costs, of_stages
from cadc_rec.study.prices import Prices
from cadc_rec.study.report import formatting
from cadc_rec.study.report.groups import Comparisons, Group, datasets, label, order
from cadc_rec.study.report.sizes import SIZES, sizes
from cadc_rec.study.report.study_data import Cell, Study
from cadc_rec.study.report.table_view import Column, Entry, Row, TableView

LEARNING = ("pretrain", "transitions", "prior", "select", "train")
"""The stages that a method differs in: the data is prepared and everybody ranked for all alike."""
_NONE = Entry("–", tone="word")
_ALL = "of pre-training, selection and training, validation included"


def learning_costs(cell: Cell) -> dict[str, float]:
    """What a cell's `LEARNING` took, all stages together; nothing where that is not known."""
    return of_stages(cell.costs[stage] for stage in LEARNING if stage in cell.costs)


def dollars(cell: Cell, prices: Prices | None) -> float | None:
    """What they cost; None without prices, or where something that has a price is not known."""
    if prices is None or cell.seconds is None or not learning_costs(cell):
        return None
    parts = [
        prices.dollars(getattr(cell.seconds, stage), cell.costs[stage])
        for stage in LEARNING
        if stage in cell.costs
    ]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


@dataclass(frozen=True)
class _Kind:
    """A column: its heading, its number of a cell, and how that is written.

    `beside` gives the number of the second line.
    """

    column: Column
    of: Callable[[Cell, Costs], float | None]
    text: Callable[[float], str]
    beside: Callable[[Cell, Costs], float | None] = lambda *_: None


_KINDS = (
    _Kind(
        Column("CPU s", "", f"processor seconds, user and system, of all ranks, {_ALL}"),
        lambda _, used: used.get("cpu_seconds"),
        formatting.seconds,
    ),
    _Kind(
        Column(
            "memory",
            "",
            "the most that all ranks held in a stage (each rank's peak, added up), libraries "
            "included",
        ),
        lambda _, used: used.get("peak_memory_bytes"),
        formatting.size,
    ),
    _Kind(
        Column(
            "read",
            "from disk",
            f"bytes that read calls gave, {_ALL}; what of it, and of mapped files, came from a "
            "disk and not from the page cache",
        ),
        lambda _, used: used.get("read_bytes"),
        formatting.size,
        lambda _, used: used.get("disk_read_bytes"),
    ),
    _Kind(
        Column("GPU s", "", "seconds, times the GPUs that ranks held"),
        lambda _, used: used.get("gpu_seconds") or None,
        formatting.seconds,
    ),
    _Kind(
        Column(
            "energy kJ",
            "",
            f"what the processor packages used, whoever else worked on the machine, {_ALL}; "
            "without that of GPUs",
        ),
        lambda _, used: _thousands(used.get("package_joules")),
        formatting.seconds,
    ),
)


def costs_table(study: Study, comparisons: Comparisons) -> TableView | None:
    """The table of costs; None where no cell is done."""
    groups = {(g.dataset, g.contender): g for g in comparisons.groups(study) if g.done}
    if not groups:
        return None
    kinds = _shown(study)
    columns = (*SIZES, *_seconds_columns(study), *(kind.column for kind in kinds))
    having = {dataset for dataset, _ in groups}
    titles = {key: title for key, title in datasets(study).items() if key in having}
    contenders = sorted({key[1] for key in groups}, key=lambda key: order(study, key))
    rows = []
    for place, contender in enumerate(contenders):
        found = [groups.get((dataset, contender)) for dataset in titles]
        entries = tuple(
            _entries(group, kinds) if group else (_NONE,) * len(columns) for group in found
        )
        rows.append(Row(label(study, contender), place, entries))
    return TableView("method", tuple(titles.values()), columns, tuple(rows))


def _shown(study: Study) -> list[_Kind]:
    """The columns of what is used that some cell has a number for."""
    kinds, prices = list(_KINDS), study.prices
    if prices is not None:
        given = prices.model_dump(exclude_none=True).items()
        told = ", ".join(f"{name} = {value:g}" for name, value in given)
        about = f"by the prices {told}; {_ALL}"
        kinds.append(
            _Kind(
                Column("dollars", "", about),
                lambda cell, _: dollars(cell, prices),
                formatting.dollars,
            )
        )
    done = [(cell, learning_costs(cell)) for cell in study.cells if cell.status == "done"]
    return [kind for kind in kinds if any(kind.of(cell, used) is not None for cell, used in done)]


def _seconds_columns(study: Study) -> tuple[Column, ...]:
    titles = formatting.STAGE_TITLES
    kind = "CPU seconds" if study.time == "cpu" else "wall-clock seconds"
    about = f"{kind} without validation, median over seeds"
    return (
        Column(f"{titles['pretrain']} s", "", f"{about}; with transitions and the prior's fit"),
        Column(f"{titles['select']} s", "", about),
        Column(f"{titles['train']} s", "validation", f"{about}; those of validation"),
    )


def _entries(group: Group, kinds: Sequence[_Kind]) -> tuple[Entry, ...]:
    parts = group.seconds()
    assert parts is not None
    times = [
        Entry(
            formatting.seconds(parts[stage]),
            second=formatting.seconds(parts["validation"]) if stage == "train" else "",
            sort=parts[stage],
        )
        for stage in ("pretrain", "select", "train")
    ]
    return (*sizes(group), *times, *(_used(group, kind) for kind in kinds))


def _used(group: Group, kind: _Kind) -> Entry:
    number, beside = (_median(group, of) for of in (kind.of, kind.beside))
    if number is None:
        return _NONE
    second = "" if beside is None else kind.text(beside)
    return Entry(kind.text(number), second=second, sort=number)


def _median(group: Group, of: Callable[[Cell, Costs], float | None]) -> float | None:
    """Over the seeds that have a number."""
    found = [of(cell, learning_costs(cell)) for cell in group.done]
    known = [number for number in found if number is not None]
    return statistics.median(known) if known else None


def _thousands(value: float | None) -> float | None:
    return None if value is None else value / 1000
