"""A report as Markdown, for a terminal and for the documentation."""

from __future__ import annotations

from benchmarks.peers.record import Figures, Report, Section


def report_text(report: Report) -> str:
    """All sections, the machine and the workload first."""
    machine, workload = report.machine, report.workload
    head = (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB; "
        f"torch {machine.versions.get('torch', '?')}, torchrec "
        f"{machine.versions.get('torchrec', '?')}. Workload: "
        f"{', '.join(f'{name} {_plain(value)}' for name, value in workload.items())}."
    )
    return "\n\n".join([head, *(section_text(section) for section in report.sections.values())])


def section_text(section: Section) -> str:
    """One section: who, how fast, how many times as fast."""
    rounds = max(len(entry.figures.rounds) for entry in section.entries.values())
    lines = [f"### {section.title}", "", f"{rounds} alternating rounds, {section.measured}."]
    if section.ceilings:
        told = ", ".join(f"{_short(value)} {name}" for name, value in section.ceilings.items())
        lines[-1] += f" Ceilings: {told}."
    if section.notes:
        told = "; ".join(f"{name} {_short(value)}" for name, value in section.notes.items())
        lines[-1] += f" Here: {told}."
    lines += [
        "",
        f"| contender | {section.unit}, median | lowest to highest | of ceiling | what it does |",
        "|---|---|---|---|---|",
    ]
    for name, entry in section.entries.items():
        share = "" if entry.share is None else f"{100 * entry.share:.0f}% of {entry.ceiling}"
        lines.append(
            f"| {name} | {_short(entry.figures.median)} | {_range(entry.figures)} | {share} "
            f"| {entry.what} |"
        )
    lines += [f"| {name} | {why} | | | |" for name, why in section.missing.items()]
    if section.ratios:
        lines += ["", "| ours | against | times as fast | lowest to highest |", "|---|---|---|---|"]
        lines += [
            f"| {r.ours} | {r.other} | {r.times.median:.2f} | {_range(r.times)} |"
            for r in section.ratios
        ]
    for check in section.checks:
        verdict = "holds" if check.holds else "**DOES NOT HOLD**"
        lines += [
            "",
            f"{check.what[0].upper()}{check.what[1:]}: {check.value:.2g} ({verdict}; "
            f"at most {check.limit:.0g}).",
        ]
    return "\n".join(lines)


def _range(figures: Figures) -> str:
    return f"{_short(figures.low)} to {_short(figures.high)}"


def _short(value: float) -> str:
    """Three digits or so, whatever the size."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(value: str | int | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"
