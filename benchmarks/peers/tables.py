"""A report as Markdown, for a terminal and for the documentation."""

from __future__ import annotations

from benchmarks.peers.record import Busy, Figures, Report, Section


def report_text(report: Report) -> str:
    """All sections, the machine and the workload first."""
    return "\n\n".join(
        [_head(report), *(section_text(section) for section in report.sections.values())]
    )


def _head(report: Report) -> str:
    """The machine and the workload."""
    machine, workload = report.machine, report.workload
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB; "
        f"torch {machine.versions.get('torch', '?')}, torchrec "
        f"{machine.versions.get('torchrec', '?')}. Workload: "
        f"{', '.join(f'{name} {_plain(value)}' for name, value in workload.items())}."
    )


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
    if section.busy is not None:
        lines += ["", *_busy_lines(section.busy)]
    for check in section.checks:
        verdict = "holds" if check.holds else "**DOES NOT HOLD**"
        lines += [
            "",
            f"{check.what[0].upper()}{check.what[1:]}: {check.value:.2g} ({verdict}; "
            f"at most {check.limit:.0g}).",
        ]
    return "\n".join(lines)


def busy_text(report: Report) -> str:
    """What is left of all sections beside a busy core, and nothing else."""
    measured = {n: section for n, section in report.sections.items() if section.busy is not None}
    parts = [_head(report)]
    for section in measured.values():
        assert section.busy is not None
        parts.append(f"**{section.title}**, {section.measured}:")
        parts.append("\n".join(_busy_lines(section.busy)))
    return "\n\n".join(parts)


def _busy_lines(busy: Busy) -> list[str]:
    """What is left of each rate, and of the ratio of ours to each other, beside a busy core."""
    left = {(ratio.ours, ratio.other): ratio.times for ratio in busy.ratios}
    ours = {name for name, _ in left}
    others = list(dict.fromkeys(name for _, name in left if name not in ours))
    head = ["beside one busy core", "of the idle rate", *(f"of the ratio to {n}" for n in others)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, rate in busy.rates.items():
        found = [left.get((name, other)) for other in others]
        cells = [name, *("" if each is None else _with_range(each) for each in (rate, *found))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _with_range(figures: Figures) -> str:
    return f"{figures.median:.2f} ({figures.low:.2f} to {figures.high:.2f})"


def _range(figures: Figures) -> str:
    return f"{_short(figures.low)} to {_short(figures.high)}"


def _short(value: float) -> str:
    """Three digits or so, whatever the size."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(value: str | int | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"
