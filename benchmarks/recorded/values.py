"""Recorded results by name: what a figure in a page's prose refers to.

In: ``benchmarks/recorded/*.json``, and the paper's numbers. Out: a number or word of a reference:

- ``table1/ml-1m/cadc/hr@10``: a metric in percent, mean over the seeds; ``…/hr@10/deviation``.
- ``table1/ml-1m/recipe+init_frozen@100~uniform/…``: technique, ratio and variant, each where it
  is needed to tell the groups of a study apart.
- ``…/cadc/vs/gold/hr@10``: the difference in percent; ``/points``, ``/low``, ``/high``,
  ``/verdict`` of the paired bootstrap. ``…/cadc/vs/gold/time``: the ratio of times.
- ``cold/ml-1m/recipe/among_cold/hr@10``: a metric of cold items, ranked among them or among_all;
  ``…/vs/neighbours``: against a baseline that knows their content, as above.
- ``…/cadc/time``: median seconds of pre-training, selection and training without validation;
  ``…/time/train`` of one of them. ``…/seeds``: how many are done.
- ``…/cadc/rows/selected`` or any other key of a cell: the median over the seeds.
- ``paper/table1/ml-1m/cadc/hr@10``: what the paper reports; ``seconds``, ``pretrain``, ``train``.
- ``NAME/key/0/name=value``: of another file, by key, place, or an element that has the value
  (``name=value&other=value``: that has both).

``A:B`` is A over B, and ``A(GiB)`` A in another unit, see `UNITS`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.recorded.files import FOLDER
from benchmarks.recorded.studies import Recorded, read
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.statistics import Comparison, spread
from cadc_rec.study.report.cold import AMONG, cold_means, compare_cold
from cadc_rec.study.report.groups import Group, time_ratio
from cadc_rec.study.report.paper import TABLE_1, TABLE_2, PaperNumbers

UNITS = {
    "%": 100.0,
    "ms": 1e3,
    "min": 1 / 60,
    "h": 1 / 3600,
    "thousand": 1e-3,
    "million": 1e-6,
    "MB": 1e-6,
    "MiB": 2.0**-20,
    "GiB": 2.0**-30,
}
"""What a recorded number is multiplied by, by the unit it is written in."""

_PAPER = {"table1": TABLE_1, "table2": TABLE_2}
_CONTENDER = re.compile(r"([\w-]+)(?:\+([\w-]+))?(?:@([\d.]+))?(?:~([\w-]+))?")
_SHOWN = 12  # names in a message


class Values:
    """All recorded results.

    Args:
        folder: of the recorded results.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._content = cache(self._read)
        self._study = cache(self._read_study)

    def find(self, reference: str) -> float | str:
        """What `reference` names.

        Raises:
            CadcError: nothing, or no single number or word.
        """
        whole = re.fullmatch(r"(.+?)(?:\((\S+)\))?", reference)
        assert whole is not None
        path, unit = whole.groups()
        found = [self._one(part) for part in path.split(":")]
        if len(found) == 1 and unit is None:
            return found[0]
        if unit is not None and unit not in UNITS:
            raise CadcError(f"{reference}: no unit {unit}; there are {', '.join(UNITS)}.")
        numbers = [value for value in found if not isinstance(value, str)]
        if len(numbers) != len(found) or len(found) > 2 or (len(found) == 2 and not numbers[1]):
            raise CadcError(f"{reference}: is no number, nor one number over another.")
        value = numbers[0] if len(numbers) == 1 else numbers[0] / numbers[1]
        return value * (UNITS[unit] if unit else 1.0)

    def has(self, reference: str) -> bool:
        """Whether the results that `reference` is of are recorded at all."""
        name = reference.partition("/")[0]
        return name == "paper" or bool(name and (self._folder / f"{name}.json").is_file())

    def _one(self, path: str) -> float | str:
        name, *steps = path.split("/")
        if name == "paper":
            found = _walk(_PAPER, steps, path)
        elif "of_ranks" in self._content(name):
            found = self._of_study(name, steps, path)
        else:
            found = _walk(self._content(name), steps, path)
        if isinstance(found, bool) or not isinstance(found, int | float | str):
            raise CadcError(f"{path}: is no single number or word, {_has(found)}.")
        return found

    def _read(self, name: str) -> Any:
        path = self._folder / f"{name}.json"
        try:
            return json.loads(path.read_text("utf-8"))
        except OSError:
            names = sorted(file.stem for file in self._folder.glob("*.json"))
            raise CadcError(
                f"{name}: no such recorded results in {self._folder}, {_listed(names)}."
            ) from None
        except ValueError as error:
            raise CadcError(f"{path}: is not JSON ({error}); record it again.") from error

    def _read_study(self, name: str) -> Recorded:
        keys = [row["of"] for row in self._content(name)["of_ranks"]]
        beside = {part.partition("/")[0] for key in keys for part in key if "/" in part} - {name}
        there = [other for other in sorted(beside) if (self._folder / f"{other}.json").is_file()]
        return read([name, *there], self._folder)

    def _of_study(self, name: str, steps: list[str], path: str) -> Any:
        page = self._study(name)
        if len(steps) < 3:
            raise CadcError(f"{path}: name a dataset, a method and what of it.")
        dataset, contender, what, *rest = steps
        group = _group(page, dataset, contender, path)
        if what == "vs" and len(rest) >= 2:
            return _versus(page, group, _group(page, dataset, rest[0], path), rest[1:], path)
        if what == "seeds" and not rest:
            return len(group.done)
        if what == "time":
            parts = group.seconds() or {}
            return parts.get(rest[0]) if rest else sum(parts.values()) - parts["validation"]
        if what in AMONG and rest:
            return _of_cold(page, group, what, rest)
        metric = group.metric(what)
        if metric is not None:
            return metric.deviation if rest == ["deviation"] else metric.mean if not rest else None
        cells = [cell.model_dump() for cell in group.done]
        found = [_walk(cell, [what, *rest], path) for cell in cells]
        numbers = [value for value in found if isinstance(value, int | float)]
        if len(numbers) == len(found):
            return statistics.median(numbers)
        return found[0] if all(value == found[0] for value in found) else found


def _group(page: Recorded, dataset: str, contender: str, path: str) -> Group:
    """The one finished group of a dataset that a name such as ``cadc@10`` is of."""
    parts = _CONTENDER.fullmatch(contender)
    method, integration, ratio, variant = parts.groups() if parts else (None,) * 4
    for study in page.studies:
        there = [g for g in page.groups(study) if g.dataset == dataset and g.done]
        found = [
            g
            for g in there
            if g.method == method
            and integration in (None, g.integration)
            and (ratio is None or float(ratio) == g.ratio)
            and g.contender.variant == (variant or "")
        ]
        if len(found) == 1:
            return found[0]
        if found:
            names = [group.name.rpartition("/")[2] for group in found]
            raise CadcError(f"{path}: {contender} is more than one, {_listed(names)}.")
    here = page.groups(page.studies[0])
    names = [g.name.rpartition("/")[2] for g in here if g.dataset == dataset and g.done]
    said = _listed(names) if names else f"nor {dataset}, {_listed([g.dataset for g in here])}"
    raise CadcError(f"{path}: no finished {contender}, {said}.")


def _versus(page: Recorded, group: Group, other: Group, rest: list[str], path: str) -> Any:
    what, *part = rest
    if what == "time" and not part:
        return time_ratio(group, other)
    compared = page.compare(group, other, what)
    if compared is None:
        raise CadcError(f"{path}: no seed of both has ranks to compare.")
    return _part(compared, part)


def _of_cold(page: Recorded, group: Group, among: str, rest: list[str]) -> Any:
    metric, *versus = rest
    if versus[:1] == ["vs"] and len(versus) > 1:
        columns = among, f"{versus[1]}_{among}"
        compared = compare_cold(page, group, group, metric, columns)
        return None if compared is None else _part(compared, versus[2:])
    means = spread(cold_means(page, group, among, metric))
    return means.deviation if versus == ["deviation"] else None if versus else means.mean


def _part(compared: Comparison, part: list[str]) -> Any:
    ends = compared.relative_interval or (None, None)
    found = {
        "": compared.relative,
        "points": 100 * compared.difference,
        "low": ends[0],
        "high": ends[1],
        "verdict": compared.verdict,
        "p": compared.p,
    }
    return found.get("/".join(part))


def _walk(content: Any, steps: Iterable[str], path: str) -> Any:
    """What stands at the end of `steps` into dictionaries, lists, and the paper's numbers."""
    for step in steps:
        found = None
        if isinstance(content, PaperNumbers):
            content = {**content.metrics, "pretrain": content.pretrain, "train": content.train,
                       "seconds": content.seconds}  # fmt: skip
        if isinstance(content, dict):
            found = content.get(step)
        elif isinstance(content, list | tuple):
            wanted = {key: value for key, equal, value in _parted(step) if equal}
            if wanted:
                found = next((one for one in content if _agrees(one, wanted)), None)
            elif step.isdigit() and int(step) < len(content):
                found = content[int(step)]
        if found is None:
            raise CadcError(f"{path}: has no {step}, {_has(content)}.")
        content = found
    return content


def _parted(step: str) -> list[tuple[str, str, str]]:
    return [part.partition("=") for part in step.split("&")]


def _agrees(one: Any, wanted: dict[str, str]) -> bool:
    """Whether an element has what a step wants of it."""
    return all(str(one.get(key)) == value for key, value in wanted.items())


def _has(content: Any) -> str:
    if isinstance(content, dict):
        return _listed([name for name, value in content.items() if value is not None])
    return f"it has {len(content)} elements" if isinstance(content, list | tuple) else "only itself"


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"there is {', '.join(found[:_SHOWN]) or 'nothing'}{more}"
