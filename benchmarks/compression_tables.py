"""The tables of compression: a question each, of the finished groups of the study.

In: a `Grid`, and the sets that a table is of, titles by key. Out: Markdown, with notes below.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from benchmarks.beyond import AS_TRAINED
from benchmarks.compression_grid import Grid
from cadc_rec.evaluation.statistics import Comparison
from cadc_rec.study.prices import Prices
from cadc_rec.study.report import formatting
from cadc_rec.study.report.costs import dollars, learning_costs
from cadc_rec.study.report.groups import Group, time_ratio
from cadc_rec.study.report.kept import paired_seeds
from cadc_rec.study.report.many import corrected, power
from cadc_rec.study.report.paper import METHOD_TITLES, METRICS, WITHOUT_TOWERS

CURVES = ("recipe", "cadc", "random")
"""The methods that are measured over many shares, each with all labelled examples, too."""
LEAST = (10.0, 100.0)
"""The ratios at which every method is measured."""
SHORT = (("random", 10.0), ("cadc", 10.0), ("recipe", 10.0), ("recipe", 100.0), ("prior", 1.0))
"""The methods, and their ratios, that stand beside gold in short."""
KEPT = (("recipe", 10.0), ("recipe", 100.0), ("prior", 1.0))
"""The methods, and their ratios, that are compared with the recipe on all rows."""
SHIPPED = ("auto", 10.0)
"""The method and ratio that `inspect` writes."""
PRICES = Prices(cpu_hour=0.04, gib_hour=0.005)
"""Dollars that rented machines cost about; ``cadc-rec report DIR --prices FILE`` takes your own."""
TRAININGS = 1000
"""How many trainings the dollars are of."""
_SIZES = (
    "Touched: of all rows, those that the labelled ones and their histories refer to. D_sel: its "
    "bytes, histories included, of those of all rows."
)
SIGNS = {"better": "+", "worse": "−", "cannot tell": "="}

_HR = METRICS[0]


def short(grid: Grid, sets: dict[str, str]) -> str:
    """A row a set: HR@10 of the methods of `SHORT`, and the share of gold's time."""
    rows = []
    for dataset, title in sets.items():
        gold = grid.find(dataset, "gold", 1.0)
        found = [grid.find(dataset, *wanted) for wanted in SHORT]
        if gold is None or not any(found):
            continue
        row = [title, _hit_rate(gold)]
        for group in found:
            ratio = time_ratio(group, gold) if group else None
            row.append(_hit_rate(group) + ("" if ratio is None else f" ({ratio:.3f})"))
        rows.append(row)
    names = [_name(method, ratio) for method, ratio in SHORT]
    heads = ["set", "Gold standard: HR@10 %", *(f"{name} (time / gold)" for name in names)]
    return "\n\n".join([_markdown(heads, rows), *_kept_tables(rows)]) if rows else ""


def left(grid: Grid, sets: dict[str, str]) -> str:
    """A row a set: what the recipe keeps of its own accuracy on all rows, and of its time.

    The last column is the other question, what towers add to the tables that they read.
    """
    rows, compared = [], []
    for dataset, title in sets.items():
        whole, prior = grid.whole(dataset, "recipe"), grid.find(dataset, "prior", 1.0)
        if whole is None:
            continue
        row = [title, _hit_rate(whole)]
        for method, ratio in KEPT:
            group = grid.find(dataset, method, ratio)
            against = _compare(grid, group, whole)
            time = time_ratio(group, whole) if group else None
            mark = _paired_mark(group, whole) if method not in WITHOUT_TOWERS else ""
            row.append(_kept(against) + mark + ("" if time is None else f" in {time:.2f}"))
            if against is not None:
                compared.append((f"{_name(method, ratio)}, {title}", against))
        auto = grid.find(dataset, *SHIPPED)
        added = _compare(grid, auto, prior)
        row.append(_difference(added) + _paired_mark(auto, prior))
        if added is not None:
            compared.append((f"{_name(*SHIPPED)}, {title}", added))
        rows.append(row)
    if not rows:
        return ""
    heads = ["set", "Recipe, all: HR@10 %", *(_name(*kept) for kept in KEPT)]
    heads.append(f"{_name(*SHIPPED)}, over the tables alone")
    about = (
        "- HR@10 in percent of the recipe's on all labelled examples, over the seeds that both "
        "have, with the 95% interval of a paired bootstrap over users; in: the seconds of "
        "pre-training, selection and training, of those on all. The last column: the difference "
        "in HR@10, verdict and interval."
    )
    marked = _kept_tables(rows)
    if any("†" in row[1] for row in rows):
        marked.append("- Where the recipe on all has a †, tables are compared with tables.")
    return "\n\n".join([_markdown(heads, rows), *_notes(compared), about, *marked])


def _name(method: str, ratio: float) -> str:
    return METHOD_TITLES.get(method, method) + ("" if ratio == 1.0 else f", {_share(ratio)}")


def _hit_rate(group: Group | None) -> str:
    value = group.metric(_HR) if group else None
    return "–" if group is None or value is None else formatting.spread(value) + _mark(group)


def curves(grid: Grid, sets: dict[str, str]) -> str:
    """A table a set: a row a share, and what each of `CURVES` keeps of its accuracy on all rows."""
    parts: list[str] = []
    every: list[list[str]] = []
    compared = []
    for dataset, title in sets.items():
        whole = {method: grid.whole(dataset, method) for method in CURVES}
        found = [g for g in grid.groups(dataset) if g.method in CURVES and not g.contender.variant]
        ratios = sorted({group.ratio for group in found})
        if len(ratios) < 2:
            continue
        rows = []
        for ratio in ratios:
            mine = [
                whole[method] if ratio == 1.0 else grid.find(dataset, method, ratio)
                for method in CURVES
            ]
            size = next(group for group in mine if group).done[0].rows
            assert size is not None
            recipe, cadc, _ = mine
            row = [_share(ratio), f"{size.selected:,}", _touched(recipe)]
            row.append(f"{_bytes(recipe)} / {_bytes(cadc)}")
            for method, group in zip(CURVES, mine, strict=True):
                kept = _compare(grid, group, whole[method])
                row += [_metrics(group) or grid.state(dataset, method, ratio), _kept(kept)]
                if kept is not None:
                    compared.append((f"{METHOD_TITLES[method]}, {_share(ratio)}, {title}", kept))
            rows.append(row)
        names = [METHOD_TITLES[method] for method in CURVES]
        heads = ["share", "rows", "touched by the recipe", "D_sel: recipe / CADC"]
        for name in names:
            heads += [f"{name}: HR@10 / NDCG@10 %", "of all rows"]
        parts.append(f"{title}:\n\n{_markdown(heads, rows)}")
        every += rows
    about = (
        "- of all rows: HR@10 in percent of the same method's on all labelled examples, over the "
        "seeds that both have, with the 95% interval of a paired bootstrap over users; Random on "
        f"all of them is the gold standard. {_SIZES}"
    )
    notes = [*_notes(compared), about, *_kept_tables(every)]
    return "\n\n".join([*parts, *notes]) if parts else ""


def methods(grid: Grid, sets: dict[str, str]) -> str:
    """A row a method, at each of `LEAST` where it has a share; a column a set."""
    rows, compared = [], []
    by_set: dict[str, list[Comparison]] = {}
    measured = [group.method for dataset in sets for group in grid.groups(dataset)]
    for method in dict.fromkeys([*(m for m in METHOD_TITLES if m in measured), *measured]):
        name = METHOD_TITLES.get(method, method)
        for ratio in (1.0, *LEAST):
            found = {key: grid.find(key, method, ratio) for key in sets}
            if (method in CURVES and ratio == 1.0) or not any(found.values()):
                continue
            row = [name if ratio == 1.0 else f"{name}, {_share(ratio)}"]
            for dataset, group in found.items():
                against = _compare(grid, group, grid.find(dataset, "gold", 1.0))
                row.append(
                    f"{_metrics(group) or grid.state(dataset, method, ratio)}{_sign(against)}"
                )
                if against is not None:
                    compared.append((f"{row[0]}, {sets[dataset]}", against))
                    by_set.setdefault(sets[dataset], []).append(against)
            rows.append(row)
    if not rows:
        return ""
    heads = ["method", *(f"{title}: HR@10 / NDCG@10 %" for title in sets.values())]
    about = (
        "- +, −, =: HR@10 is better or worse than the gold standard's, or cannot be told from it, "
        "by a paired bootstrap over users, over the seeds that both have."
    )
    said = (power(title, "the gold standard", {_HR: of}) for title, of in by_set.items())
    of_users = [f"- {sentence}" for sentences in said for sentence in sentences]
    absent = [f"- {sentence}" for sentence in grid.without_results()]
    notes = [*_notes(compared), about, *_kept_tables(rows), *of_users, *absent]
    return "\n\n".join([_markdown(heads, rows), *notes])


def selections(grid: Grid, sets: dict[str, str]) -> str:
    """Ways to choose a hundredth for `recipe`, beside a uniform sample of that size.

    All keep their towers as they were trained.
    """
    names = dict.fromkeys(
        group.contender.variant
        for dataset in sets
        for group in grid.groups(dataset)
        if group.method == "recipe" and group.ratio == LEAST[1] and group.contender.variant
    )
    having = {
        key: title
        for key, title in sets.items()
        if any(grid.find(key, "recipe", LEAST[1], name) for name in names)
    }
    if not having:
        return ""
    rows, compared = [], []
    for name in dict.fromkeys((AS_TRAINED, *names)):
        row = ["uniform" if name == AS_TRAINED else name]
        for dataset, title in having.items():
            group = grid.find(dataset, "recipe", LEAST[1], name)
            uniform = grid.find(dataset, "recipe", LEAST[1], AS_TRAINED)
            against = None if name == AS_TRAINED else _compare(grid, group, uniform)
            row.append(_metrics(group) or grid.state(dataset, "recipe", LEAST[1], name))
            row += [_difference(against), f"{_touched(group)} / {_bytes(group)}"]
            if against is not None:
                compared.append((f"{name}, {title}", against))
        rows.append(row)
    heads = ["selection"]
    for title in having.values():
        heads += [f"{title}: HR@10 / NDCG@10 %", "vs uniform", "touched / D_sel"]
    about = (
        "- vs uniform: HR@10 in percent of that of a uniform sample, verdict and 95% interval of "
        f"a paired bootstrap over users. {_SIZES}"
    )
    return "\n\n".join([_markdown(heads, rows), *_notes(compared), about])


def costs(grid: Grid, sets: dict[str, str]) -> str:
    """What the methods of `CURVES` take at `LEAST`, beside gold and beside tables alone."""
    rows = []
    wanted = [("gold", 1.0), ("recipe", 1.0), *((m, r) for m in CURVES for r in LEAST)]
    wanted += [SHIPPED, ("prior", 1.0)]
    for dataset, title in sets.items():
        gold = grid.find(dataset, "gold", 1.0)
        for method, ratio in wanted:
            group = grid.find(dataset, method, ratio)
            if group is not None:
                name = _name(method, ratio) + (
                    ", all" if (method, ratio) == ("recipe", 1.0) else ""
                )
                rows.append([title, name, *_costs(group, gold)])
    heads = ["set", "method", "labelled examples", "rows referred to", "bytes of D_sel",
             "seconds", "of gold's", "memory", "read",
             f"dollars for {TRAININGS:,}"]  # fmt: skip
    about = (
        "- labelled examples: 0 without towers, whose tables are made of all rows. rows referred "
        "to: of all rows, those that are labelled or stand in the history of one. bytes of D_sel: "
        f"as Parquet, of those of all rows. seconds: {grid.study.about_time}; of gold's: median "
        "over the seeds both have. memory: the most of the process that trained, libraries "
        "included. read: bytes that reading gave, from a disk or the page cache. dollars: of "
        f"{TRAININGS:,} trainings, at {PRICES.cpu_hour:g} for an hour of a core at work and "
        f"{PRICES.gib_hour:g} for an hour of a GiB. These three are of one seed, and with "
        "validation: of the recipe on 5,000 users at most, of the paper's methods on as many as "
        "the set's config says."
    )
    return f"{_markdown(heads, rows)}\n\n{about}" if rows else ""


def _costs(group: Group, gold: Group | None) -> list[str]:
    cell, parts = group.done[0], group.seconds()
    rows = cell.rows
    assert rows is not None
    assert parts is not None
    labelled = 0 if group.method in WITHOUT_TOWERS else rows.selected
    share = time_ratio(group, gold) if gold else None
    memory = formatting.memory(cell.peak_memory_bytes) if cell.peak_memory_bytes else "–"
    read, paid = learning_costs(cell).get("read_bytes"), dollars(cell, PRICES)
    return [
        f"{labelled:,}",
        _touched(group),
        _bytes(group),
        formatting.time_sum(parts["pretrain"], parts["select"] + parts["train"]),
        "–" if share is None else f"{share:.3f}",
        memory,
        "–" if read is None else formatting.size(read),
        "–" if paid is None else f"{TRAININGS * paid:,.2f}",
    ]


def _touched(group: Group | None) -> str:
    """The share of all rows that the labelled ones and their histories refer to."""
    rows = group.done[0].rows if group else None
    if rows is None:
        return "–"
    return f"{(rows.selected if rows.touched is None else rows.touched) / rows.train:.1%}"


def _bytes(group: Group | None) -> str:
    """The bytes of the sample with its histories, of those of all rows."""
    rows = group.done[0].rows if group else None
    return f"{rows.bytes / rows.bytes_of:.0%}" if rows and rows.bytes and rows.bytes_of else "–"


def _compare(grid: Grid, group: Group | None, other: Group | None) -> Comparison | None:
    return grid.page.compare(group, other, _HR) if group and other else None


def _share(ratio: float) -> str:
    return "all" if ratio == 1.0 else f"1/{ratio:g}"


def _metrics(group: Group | None) -> str:
    found = [group.metric(metric) if group else None for metric in METRICS]
    values = " / ".join(formatting.spread(value) for value in found if value)
    return values + _mark(group) if group and values else ""


def _paired_mark(group: Group | None, other: Group | None) -> str:
    """The mark of a group over the seeds in which it is compared with another."""
    return "" if group is None or other is None else _mark(group, paired_seeds(group, other))


def _mark(group: Group, seeds: Container[int] | None = None) -> str:
    """Behind what was reached without towers, in all seeds or in some; None takes all seeds."""
    bare = [cell.kept == "tables" for cell in group.done if seeds is None or cell.seed in seeds]
    return " †" if all(bare) else " (†)" if any(bare) else ""


def _kept_tables(rows: Iterable[Sequence[str]]) -> list[str]:
    """What the marks mean, if there are any."""
    if not any("†" in entry for row in rows for entry in row):
        return []
    return [
        "- †: of the tables alone, in every seed; (†): in some. On validation the towers added "
        "nothing, so they were dropped, and no labelled example has a part in the figure."
    ]


def _kept(compared: Comparison | None) -> str:
    if compared is None or compared.relative is None or compared.relative_interval is None:
        return "–"
    low, high = compared.relative_interval
    return f"{100 + compared.relative:.0f}% ({100 + low:.0f} to {100 + high:.0f})"


def _sign(compared: Comparison | None) -> str:
    return "" if compared is None else f" {SIGNS[compared.verdict]}"


def _difference(compared: Comparison | None) -> str:
    if compared is None:
        return "–"
    difference = formatting.signed_percent(compared.relative)
    return f"{difference}: {compared.verdict} ({formatting.interval(compared)})"


def _notes(compared: Sequence[tuple[str, Comparison]]) -> list[str]:
    return [f"- {note}" for note in corrected(compared)]


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
