"""What came of a search: the config with the best settings, the page of all trials, the result.

In: a search's record. Out: TOML that ``cadc-rec run`` takes, Markdown, and plain data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cadc_rec.config.file import parse_override
from cadc_rec.errors import CadcError
from cadc_rec.store.atomic import write_atomically
from cadc_rec.tuning.space import with_linked
from cadc_rec.tuning.trials import Record, Trial

BEST = "best.toml"


@dataclass(frozen=True)
class Asked:
    """What was searched: a file (its comments stay), a method, overrides of the command line."""

    config: Path
    method: str
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """What a search came to, the page that shows it, and the result as plain data."""

    verdict: str
    page: Path
    result: dict[str, Any]


def tuned_config(asked: Asked, found: Mapping[str, Any]) -> str:
    """The file's text with the method, and what was set and found under ``[methods.NAME]``.

    Args:
        asked: what was searched.
        found: settings that differ from the experiment's, by dotted name.
    """
    import tomlkit

    method = asked.method
    document = tomlkit.parse(asked.config.read_bytes().decode("utf-8-sig"))
    document["method"] = method
    overrides = dict(parse_override(text) for text in asked.sets) | with_linked(found)
    overrides.pop("method", None)
    if overrides:
        methods = document.setdefault("methods", tomlkit.table(is_super_table=True))
        table = methods.setdefault(method, tomlkit.table())
        for name, value in overrides.items():
            table[name] = value
    return tomlkit.dumps(document)


def found_settings(record: Record) -> dict[str, Any]:
    """What the best trial has otherwise than the first; empty where that is the best."""
    best = record.best
    return {} if best is None else _changed(best, record.trials[0])


def write_results(record: Record, asked: Asked, out: Path, overwrite: bool) -> Written:
    """Write the config with the best settings and the page of what was tried.

    Args:
        record: of at least one trial.
        asked: what was searched.
        out: the config; a copy stays in the search's folder.
        overwrite: replace it, whatever wrote it.

    Raises:
        CadcError: `out` is another's file, or cannot be written.
    """
    best, tried = record.folder / BEST, record.folder / "trials.md"
    write_atomically(tried, page(record, asked))
    if not overwrite:
        refuse_foreign(out, best)
    text = tuned_config(asked, found_settings(record))
    write_atomically(best, text)
    if overwrite and out.is_dir():
        raise CadcError(f"{out}: is a folder; name a file with --out.")
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise CadcError(
            f"{out}: cannot be written ({error.strerror}); the config is in {best}."
        ) from None
    return Written(verdict(record), tried, result(record, asked.method, out, tried))


def refuse_foreign(path: Path, ours: Path) -> None:
    """Refuse to overwrite what this search did not write, or what was edited since.

    Raises:
        CadcError: there is such a file, or its folder is missing.
    """
    if not path.parent.is_dir():
        raise CadcError(f"{path}: there is no folder {path.parent}; make it, or name another file.")
    if path.is_symlink() or path.exists():
        same = ours.is_file() and path.is_file() and path.read_bytes() == ours.read_bytes()
        if not same:
            raise CadcError(
                f"{path} already exists, and is not what this search wrote last; remove it, name "
                "another file with --out, or add --overwrite."
            )


def verdict(record: Record) -> str:
    """What the search found, in a sentence or two."""
    best, own, count = record.best, record.trials[0], len(record.trials)
    assert best is not None
    against = record.best_against_own()
    if against is None:
        return (
            f"Nothing better than the file's own settings was found in {_trials(count)}: they "
            f"reach validation NDCG@10 {_percent(own)}."
        )
    low, high = against.interval
    sure = {
        "better": "which is more than chance among users explains",
        "cannot tell": "which may be chance among users",
        "worse": "",
    }[against.verdict]
    return (
        f"Trial {best.number} of {count} reaches validation NDCG@10 {_percent(best)}, the file's "
        f"own settings {_percent(own)}: {100 * against.difference:+.2f} points (95% of the same "
        f"{against.users:,} users: {100 * low:+.2f} to {100 * high:+.2f}), {sure}."
    )


def page(record: Record, asked: Asked) -> str:
    """All trials as Markdown, best first."""
    own = record.trials[0]
    order = sorted(record.trials, key=lambda t: (t.ndcg is None, -(t.ndcg or 0.0), t.number))
    lines = [
        f"# Settings tried for {asked.config.name}, method {asked.method}",
        "",
        verdict(record),
        "",
        "The figures are of validation items; no test item was ranked. The best of several trials "
        "is flattered by the choice: expect a part of the gain on other items. The interval is "
        "over users, and does not cover other seeds.",
        "",
        "| trial | NDCG@10 (95%) | seconds | ended | settings beside the file's own |",
        "|---|---|---|---|---|",
    ]
    for trial in order:
        ended = trial.state if not trial.why else f"{trial.state}: {trial.why}"
        changed = ", ".join(f"`{k} = {json.dumps(v)}`" for k, v in _changed(trial, own).items())
        cells = (
            str(trial.number),
            _percent(trial) if trial.ndcg is not None else _last(trial),
            f"{trial.seconds:.0f}",
            ended.replace("|", "\\|").replace("\n", " "),
            changed or "none",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Values tried, the file's own first (seconds are without what other trials had made):",
        "",
    ]
    for name in own.settings:
        tried = {json.dumps(t.settings[name]): None for t in record.trials}
        lines.append(f"- `{name}`: {', '.join(tried)}")
    return "\n".join(lines) + "\n"


def result(record: Record, method: str, config: Path, page_file: Path) -> dict[str, Any]:
    """What ``cadc-rec tune --json`` prints; NDCG@10 are fractions."""
    best, against = record.best, record.best_against_own()
    assert best is not None
    return {
        "method": method,
        "better": against is not None,
        "settings": with_linked(found_settings(record)),
        "ndcg@10": best.ndcg,
        "own": record.trials[0].ndcg,
        "difference": 0.0 if against is None else against.difference,
        "interval": None if against is None else list(against.interval),
        "users": len(record.gains(0).users),
        "best": best.number,
        "trials": [asdict(trial) for trial in record.trials],
        "config": str(config),
        "page": str(page_file),
    }


def _changed(trial: Trial, own: Trial) -> dict[str, Any]:
    return {k: v for k, v in trial.settings.items() if v != own.settings[k]}


def _percent(trial: Trial) -> str:
    assert trial.ndcg is not None
    assert trial.interval is not None
    low, high = (100 * end for end in trial.interval)
    return f"{100 * trial.ndcg:.2f}% ({low:.2f} to {high:.2f})"


def _last(trial: Trial) -> str:
    """The last epoch that a trial reached before it was stopped."""
    if not trial.epochs:
        return "-"
    epoch, value = trial.epochs[-1]
    return f"{100 * value:.2f}% at epoch {epoch:.0f}"


def _trials(count: int) -> str:
    return f"{count} trial{'s' if count > 1 else ''}"
