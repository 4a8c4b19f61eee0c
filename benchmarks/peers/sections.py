"""All sections, and one session that measures some of them.

In: a workload, names of sections. Out: a `Report`, saved after each section, so that what was
measured survives whatever stops the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import factorization, loading, ranking, rows, towers
from benchmarks.peers.busy import Neighbour
from benchmarks.peers.record import Report, Section
from benchmarks.peers.session import this_machine
from benchmarks.peers.workload import Workload
from cadc_rec.errors import CadcError
from cadc_rec.log import log

SECTIONS: dict[str, Callable[[Workload], Section]] = {
    "towers": towers.measure,
    "factorization": factorization.measure,
    "factorization-quality": factorization.measure_quality,
    "ranking": ranking.measure,
    "preparation": rows.measure_preparation,
    "selection": rows.measure_selection,
    "loader": loading.measure,
}
GUARDED = ("towers", "factorization", "ranking", "selection")


def results_path(workdir: Path, short: bool, busy: bool = False) -> Path:
    """Where a report is kept; short ones, and those beside a busy core, are apart."""
    kind = ("-busy" if busy else "") + ("-short" if short else "")
    return workdir / "bench" / f"results{kind}.json"


def run(workload: Workload, names: Sequence[str] = (), busy: bool = False) -> Report:
    """Measure.

    Args:
        workload: what.
        names: of sections; none is all.
        busy: let every contender take turns beside a busy core, too.

    Returns:
        The report: what is measured now, and sections of earlier sessions with the same machine
        and workload.

    Raises:
        CadcError: an unknown name.
    """
    wanted = list(names) or list(SECTIONS)
    for name in wanted:
        if name not in SECTIONS:
            raise CadcError(f"section {name!r} is unknown; choose of {', '.join(SECTIONS)}.")
    path = results_path(workload.workdir, workload.short, busy)
    report = Report(
        machine=this_machine(),
        workload=workload.describe(),
        short=workload.short,
        sections={},
    )
    report = report.model_copy(update={"sections": _kept(path, report)})
    for name in wanted:
        log.info("measuring %s", name)
        sections = {**report.sections, name: _measured(name, workload, busy)}
        ordered = {known: sections[known] for known in SECTIONS if known in sections}
        report = report.model_copy(update={"sections": ordered})
        report.save(path)
    return report


def _measured(name: str, workload: Workload, busy: bool) -> Section:
    if not busy:
        return SECTIONS[name](workload)
    neighbour = Neighbour()
    section = SECTIONS[name](replace(workload, neighbour=neighbour))
    return section.beside(neighbour.seconds)


def _kept(path: Path, fresh: Report) -> dict[str, Section]:
    """Sections of an earlier session that may stand beside today's."""
    if not path.exists():
        return {}
    try:
        earlier = Report.read(path)
    except CadcError:  # of another version
        return {}
    same = (earlier.machine, earlier.workload) == (fresh.machine, fresh.workload)
    return dict(earlier.sections) if same else {}
