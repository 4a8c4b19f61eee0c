"""The model card: what the model is, how good it is, how it was made, and its limits.

In: an experiment and its artifacts. Out: a dictionary, and the same as a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.export.state import State
from cadc_rec.store.artifact import Artifact
from cadc_rec.versions import library_versions

_STATES = {
    "evaluation": "",
    "production": " The metrics are of the model as it was evaluated. The bundle knows the "
    "held-out items, too: histories end with them, and nobody is recommended what they took.",
}


def card_data(
    experiment: Experiment,
    artifacts: Mapping[str, Artifact],
    state: State,
    update: Mapping[str, Any] | None = None,
    evaluated: Mapping[str, Artifact] | None = None,
) -> dict[str, Any]:
    """What ``model_card.json`` says; metrics are fractions.

    Args:
        experiment: its settings.
        artifacts: by stage.
        state: what the bundle knows of users.
        update: the update that it is of.
        evaluated: those of the model that was evaluated, where this one was fitted again.
    """
    measured = (evaluated or artifacts)["evaluate"].info
    prepared, selected = artifacts["prepare"].info, _selected(artifacts)
    settings = experiment.model_dump(mode="json", exclude={"tracking", "compute"})
    settings["data"].pop("tables", None)  # names files of the machine it was trained on
    return {
        "method": experiment.method,
        "seed": experiment.seed,
        "state": state,
        **({} if update is None else {"update": update}),
        **({} if evaluated is None else {"refit": _refit(artifacts, evaluated)}),
        "data": {
            "source": experiment.data.source,
            "users": prepared["users"],
            "items": prepared["items"],
            "untaken_items": prepared.get("untaken_items", 0),
            "training_interactions": prepared["train"],
            "seen_by_the_towers": selected,
            "share": selected / prepared["train"] if prepared["train"] else 0.0,
            "held_out": prepared["order"],
            **_not_known(prepared, state),
        },
        "test": measured["test"],
        "validation": measured["validation"],
        "ranked_users": measured["users"],
        "seconds": {stage: artifact.seconds for stage, artifact in artifacts.items()},
        "settings": settings,
        "versions": library_versions(),
    }


def card_page(name: str, data: Mapping[str, Any], limits: list[str]) -> str:
    """``model_card.md``."""
    of_data, lines = data["data"], [f"# {name}", ""]
    lines += [
        f"A recommender of the method `{data['method']}` (seed {data['seed']}), made by cadc-rec "
        f"{data['versions']['cadc-rec']}.{_taken_in(data)}",
        "",
        "## Data",
        "",
        f"{of_data['training_interactions']:,} training interactions of {of_data['users']:,} users "
        f"and {of_data['items']:,} items (source `{of_data['source']}`); the towers were trained "
        f"on {of_data['seen_by_the_towers']:,} of them ({of_data['share']:.1%}).",
        "",
        "## Metrics",
        "",
        f"Each user's last item ranked among all items the user had not taken, "
        f"{data['ranked_users']:,} users; held out by {of_data['held_out']}."
        f"{_again(data['refit']) if 'refit' in data else _STATES[data['state']]}"
        f"{_later(of_data)}",
        "",
        "| metric | test | validation |",
        "|---|---|---|",
    ]
    lines += [
        f"| {metric.upper()} | {value:.2%} | {data['validation'][metric]:.2%} |"
        for metric, value in data["test"].items()
    ]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in limits), ""]
    lines += ["## Versions", "", "| library | version |", "|---|---|"]
    lines += [f"| {library} | {version} |" for library, version in data["versions"].items()]
    return "\n".join(lines) + "\n"


def _selected(artifacts: Mapping[str, Artifact]) -> int:
    return int(artifacts["select"].info["selected"]) if "select" in artifacts else 0


def _refit(artifacts: Mapping[str, Artifact], evaluated: Mapping[str, Artifact]) -> dict[str, Any]:
    """How a model was fitted again: the steps of its towers, and what the evaluated one learned."""
    repeats = artifacts["train"].info["repeats"] if "train" in artifacts else {"steps": 0}
    return {
        "steps": repeats["steps"],
        "evaluated_on": {
            "training_interactions": evaluated["prepare"].info["train"],
            "seen_by_the_towers": _selected(evaluated),
        },
    }


def _again(refit: Mapping[str, Any]) -> str:
    """What the page says of a model that was fitted again."""
    rows, steps = refit["evaluated_on"]["training_interactions"], refit["steps"]
    towers = f", its towers for as many steps ({steps:,})" if steps else ""
    return (
        f" The metrics are not of this model but of the evaluated one, which learned from {rows:,} "
        "interactions. This one was fitted again by the same settings on those and the held-out "
        f"ones{towers}. Nothing is left to measure it by."
    )


def _not_known(prepared: Mapping[str, Any], state: State) -> dict[str, int]:
    """Interactions of the log that a bundle for production does not know, where there are any.

    A split by time keeps of each user what comes first after its cuts, and nothing later.
    """
    later = int(prepared.get("after_held_out", 0))
    return {"not_known": later} if later and state == "production" else {}


def _later(of_data: Mapping[str, Any]) -> str:
    if "not_known" not in of_data:
        return ""
    return f" {of_data['not_known']:,} interactions after the held-out ones are not known to it."


def _taken_in(data: Mapping[str, Any]) -> str:
    return f" It is of {data['update']['text']}." if "update" in data else ""


def limits_of(history_length: int) -> list[str]:
    """The limits that a reader must know before relying on the model."""
    limits = [
        "Metrics are of held-out interactions in a log, not of what people do when they see the "
        "recommendations.",
        "Items that were not in the training data cannot be recommended.",
        "Users who were not in it get recommendations from the items they have taken; how good "
        "these are was not measured.",
        "Popular items are recommended more than others; nothing corrects that.",
    ]
    if history_length:
        limits.append(
            f"A user's vector depends on the last {history_length} items, in their order; it gets "
            "outdated as the user takes more items."
        )
    return limits
