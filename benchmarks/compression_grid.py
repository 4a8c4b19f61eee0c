"""The finished groups of the study of scale, by dataset, method, ratio and variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cadc_rec.study.report.formatting import STATUS
from cadc_rec.study.report.groups import Comparisons, Group, datasets
from cadc_rec.study.report.study_data import Study


@dataclass(frozen=True)
class Grid:
    """The finished groups of the study, and what tables of them have in common."""

    study: Study
    page: Comparisons

    def groups(self, dataset: str) -> list[Group]:
        """Those of a dataset."""
        return [g for g in self.page.groups(self.study) if g.dataset == dataset and g.done]

    def find(self, dataset: str, method: str, ratio: float, variant: str = "") -> Group | None:
        """The group of a method; the ratio of one that takes everything is 1."""
        found = self._asked(dataset, method, ratio, variant)
        return found if found is not None and found.done else None

    def state(self, dataset: str, method: str, ratio: float, variant: str = "") -> str:
        """Why there is no such group: ``failed`` and the like; a dash if the grid asks for none."""
        found = self._asked(dataset, method, ratio, variant)
        return "–" if found is None else STATUS[found.status]

    def _asked(self, dataset: str, method: str, ratio: float, variant: str) -> Group | None:
        wanted = (dataset, method, ratio, variant)
        return next(
            (
                group
                for group in self.page.groups(self.study)
                if (group.dataset, group.method, group.ratio, group.contender.variant) == wanted
            ),
            None,
        )

    def shares(self, dataset: str, method: str) -> list[Group]:
        """A method's groups on a part of the labelled examples, the plain ones."""
        found = [g for g in self.groups(dataset) if g.method == method and g.ratio > 1]
        return [group for group in found if not group.contender.variant]

    def whole(self, dataset: str, method: str) -> Group | None:
        """The method on all labelled examples: for a random sample gold, which has all seeds."""
        on_all = "gold" if method == "random" else method
        return self.find(dataset, on_all, 1.0) or self.find(dataset, method, 1.0)

    def sets(self, wanted: Callable[[str], bool]) -> dict[str, str]:
        """Titles of the datasets with results, by key."""
        titles = datasets(self.study)
        return {key: titles[key] for key in titles if wanted(key) and self.groups(key)}

    def without_results(self) -> list[str]:
        """What to say of the datasets that have none, a sentence each."""
        states = {group.dataset: group.status for group in self.page.groups(self.study)}
        titles = datasets(self.study)
        return [f"{titles[key]}: {STATUS[states[key]]}." for key in titles if not self.groups(key)]
