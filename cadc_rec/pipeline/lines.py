"""What came of a stage, in a line for people: from what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def metrics_line(metrics: Mapping[str, float]) -> str:
    """Metrics as percentages."""
    return ", ".join(f"{name.upper()} {100 * value:.2f}%" for name, value in metrics.items())


def prepare_line(info: Mapping[str, Any]) -> str:
    """What the dataset holds."""
    untaken = info.get("untaken_items", 0)
    more = f" and {untaken:,} that nobody took yet" if untaken else ""
    cold = info.get("cold_items", 0)
    held = f"; {cold:,} cold items with {info['cold_interactions']:,} interactions" if cold else ""
    return (
        f"{info['train']:,} training interactions, {info['users']:,} users, "
        f"{info['items']:,} items{more}; held out by {info['order']}{held}"
    )


def pretrain_line(info: Mapping[str, Any]) -> str:
    """What was read, and how good the vectors alone are."""
    measured = metrics_line(info["validation"])
    read = f"{info['interactions']:,} interactions read"
    return f"{read}; these vectors alone, on validation: {measured}" if measured else read


def prior_line(info: Mapping[str, Any]) -> str:
    """What the fit reached, and what each component is worth."""
    if not info["users"]:
        return "too few validation users to fit on (200 are needed): the settings' own values"
    worth = ", ".join(f"{name} {100 * info['alone'][name]:.2f}%" for name in info["factors"])
    found = f"NDCG@10 {100 * info['ndcg']:.2f}% of {info['users']:,} validation users"
    return f"{found}; by itself: {worth}"


def select_line(info: Mapping[str, Any]) -> str:
    """How much of D_full was chosen."""
    share = info["selected"] / info["of"]
    line = f"{info['selected']:,} of {info['of']:,} interactions ({share:.1%})"
    if info.get("touched") is None:
        return line
    return f"{line}; with histories they refer to {info['touched'] / info['of']:.1%} of all"


def train_line(info: Mapping[str, Any]) -> str:
    """How fast it was, and which epoch was kept."""
    return (
        f"{info['positives_per_second']:,.0f} positives/s, best epoch {info['best_epoch']} of "
        f"{len(info['history'])}; validation took {info['validation_seconds']:,.1f} s of it"
    )


def _added(info: Mapping[str, Any]) -> str:
    """What towers add to the tables that they read, where that was asked."""
    if "added" not in info:
        return ""
    difference, (low, high) = info["added"]["ndcg@10"], info["added"]["interval"]
    found = f"{100 * difference:+.2f} points (95%: {100 * low:+.2f} to {100 * high:+.2f})"
    if info["kept"] == "towers":
        return f"; the towers change the tables' NDCG@10 by {found}"
    return (
        "; these are the tables alone, for the towers added nothing to them on validation; here "
        f"they would change their NDCG@10 by {found}"
    )


def _cold(info: Mapping[str, Any]) -> str:
    """How the held-out interactions of cold items rank, where there are any."""
    parts = []
    for of in ("validation", "test"):
        if (found := info.get(of)) is not None:
            among = (
                f"{100 * found[key]['hr@10']:.2f}% among {name}"
                for key, name in (("among_cold", "cold items"), ("among_all", "all"))
                if "hr@10" in found[key]
            )
            parts.append(f"{of} of {found['users']:,} users HR@10 {', '.join(among)}")
    if not parts:
        return ""
    kind = "learned from (the control)" if info["control"] else "held out of training"
    return f"; {info['items']:,} cold items, {kind}: {'; '.join(parts)}"


def evaluate_line(info: Mapping[str, Any]) -> str:
    """Who was ranked."""
    line = f"{info['users']:,} users ranked over {info['items']:,} items{_added(info)}"
    line += _cold(info.get("cold", {}))
    for of in ("test", "validation"):
        sample = info.get(f"{of}_sample")
        if sample is None:
            continue
        ends = ", ".join(
            f"{name.upper()} {100 * low:.2f} to {100 * high:.2f}%"
            for name, (low, high) in sample["interval"].items()
        )
        users = f"{sample['users']:,} of {sample['of']:,} users"
        line += f"; {of} of {users}, 95% intervals: {ends}"
    return line
