"""Draws what `benchmarks.cadc_vs_gold --json` measured: accuracy and time of each method.

In: a JSON file, a list of results with method, seed, rows, metrics and seconds. Out: an SVG (or
PNG, by the name's ending) with two panels: HR@10 with one dot for each seed, and seconds by stage.

    python -m benchmarks.cadc_vs_gold configs/ml-1m.toml --json > results.json
    python -m benchmarks.figure_cadc_vs_gold results.json docs/images/cadc-vs-gold.svg

The background is transparent and the ink a middle grey, so that one file serves a light page and a
dark one. Needs matplotlib: ``pip install -e ".[figures]"``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]

INK = "#757b85"  # contrast of 4.2 or more against white and against GitHub's dark page
SEED_INK = "#3d4350"
METHOD_COLORS = {"gold": "#c98a1b", "cadc": "#2f81f7", "random": "#8b95a1"}
OTHER_COLOR = "#6e7fa3"
STAGE_COLORS = {
    "pre-training": "#a371f7",
    "selection": "#e5534b",
    "training": "#1b9e8f",
    "validation": "#9adbd0",
}
METRIC = "hr@10"


def seconds_by_part(results: Sequence[Result]) -> dict[str, float]:
    """Median seconds of one method's stages, with validation taken out of training."""

    def median(*stages: str, less: str = "") -> float:
        return statistics.median(
            sum(r["seconds"][s] for s in stages) - (r["seconds"][less] if less else 0.0)
            for r in results
        )

    return {
        "pre-training": median("pretrain"),
        "selection": median("select"),
        # `validation` holds pre-training's single measurement too, a moment that is missing here
        # and counted there; the sum is right.
        "training": median("train", less="validation"),
        "validation": median("validation"),
    }


def draw(results: Sequence[Result], out: Path, title: str) -> None:
    """Draw the two panels into `out`.

    Args:
        results: at least one; methods are shown gold first, then as they come.
        out: the picture; its folder is made.
        title: above both panels.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams.update(
        {
            "font.size": 12,
            "font.family": "DejaVu Sans",
            "svg.fonttype": "path",  # looks the same wherever it is shown
            "svg.hashsalt": "cadc-rec",  # the same numbers give the same bytes
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        }
    )
    by_method = {m: [r for r in results if r["method"] == m] for m in _order(results)}
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, 1.9 + 0.72 * len(by_method)), sharey=True, width_ratios=(1, 1.15)
    )
    _accuracy(left, by_method)
    _seconds(right, by_method)
    left.set_yticks(
        range(len(by_method)),
        [f"{m}\n{r[0]['rows']['selected']:,} rows" for m, r in by_method.items()],
    )
    left.invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if out.suffix == ".svg" else {}
    figure.savefig(out, transparent=True, dpi=110, metadata=metadata)
    pyplot.close(figure)


def _order(results: Sequence[Result]) -> list[str]:
    methods = list(dict.fromkeys(r["method"] for r in results))
    return sorted(methods, key=lambda m: m != "gold")


def _accuracy(axes: Any, by_method: Mapping[str, Sequence[Result]]) -> None:
    """Bars of the mean, a dot for each seed."""
    most = 0.0
    for place, (method, results) in enumerate(by_method.items()):
        values = [100 * float(r["metrics"][METRIC]) for r in results]
        most = max(most, *values)
        mean = statistics.mean(values)
        axes.barh(place, mean, height=0.55, color=METHOD_COLORS.get(method, OTHER_COLOR))
        heights = [
            place + 0.36 * (n / len(values) - 0.5 + 0.5 / len(values)) for n in range(len(values))
        ]
        axes.scatter(values, heights, s=20, color="white", edgecolors=SEED_INK, zorder=3)
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        _label(axes, max(values), place, f"{mean:.2f}{spread}")
    axes.set_xlim(0, 1.35 * most)
    axes.set_title(f"{METRIC.upper()} on test, percent", loc="left", fontsize=12)
    _bare(axes)


def _seconds(axes: Any, by_method: Mapping[str, Sequence[Result]]) -> None:
    """Stacked bars of the stages."""
    totals = {m: seconds_by_part(results) for m, results in by_method.items()}
    gold = sum(totals["gold"].values()) if "gold" in totals else None
    for place, parts in enumerate(totals.values()):
        start = 0.0
        for part, seconds in parts.items():
            axes.barh(place, seconds, left=start, height=0.55, color=STAGE_COLORS[part])
            start += seconds
        share = f"  ({100 * start / gold:.0f}% of gold)" if gold and start != gold else ""
        _label(axes, start, place, f"{start:,.0f} s{share}")
    axes.set_xlim(0, 1.35 * max(sum(parts.values()) for parts in totals.values()))
    axes.set_title("seconds, median over seeds", loc="left", fontsize=12)
    handles = [axes.barh(0, 0, color=color, label=part) for part, color in STAGE_COLORS.items()]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.12), ncols=4, frameon=False,
        fontsize=11, handlelength=1.0, columnspacing=1.2,
    )  # fmt: skip
    _bare(axes)


def _label(axes: Any, x: float, place: int, text: str) -> None:
    axes.annotate(
        text, (x, place), xytext=(8, 0), textcoords="offset points", va="center", weight="bold"
    )


def _bare(axes: Any) -> None:
    """Only what is read: the labels beside the bars are the scale."""
    axes.tick_params(length=0)
    axes.set_xticks([])
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)


def _title(results: Sequence[Result]) -> str:
    seeds = len({r["seed"] for r in results})
    return f"{seeds} seed{'s' if seeds > 1 else ''}; bars are means, dots single seeds"


def main() -> None:
    """Parse, read, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, help="what --json printed")
    parser.add_argument("out", type=Path, help="the picture, .svg or .png")
    parser.add_argument("--title", help="default: how many seeds there are")
    arguments = parser.parse_args()
    try:
        results = json.loads(arguments.results.read_text("utf-8"))
        title = arguments.title or _title(results)
        draw(results, arguments.out, title)
    except ImportError as error:
        sys.exit(f'error: {error}; install it with: python -m pip install -e ".[figures]"')
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        sys.exit(f"error: {arguments.results}: not what cadc_vs_gold --json prints ({error!r}).")


if __name__ == "__main__":
    main()
