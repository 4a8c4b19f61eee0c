"""Figures of the docs are recorded results, as far as those are recorded.

Tables are, and figures in prose that name a result whose file is there; of pages in `pages.HELD`,
every figure. A figure that names a study which is not recorded yet is not checked.
"""

import json

import pytest

from benchmarks.recorded import __main__ as command
from benchmarks.recorded import pages
from benchmarks.recorded.docs import Docs, Measured, MeasuredApart
from benchmarks.recorded.prose import Allowed, Prose
from benchmarks.recorded.values import Values
from cadc_rec.errors import CadcError

ALLOWED = Allowed({"MovieLens 1M": "a name"}, {"page.md": {"100 epochs": "a setting"}})


def cell(method, ratio, seed, hr, variant="", **more):
    place = {"id": f"{method}{ratio}{variant}{seed}", "dataset": "d", "dataset_title": "D"}
    place |= {"method": method, "ratio": ratio, "variant": variant, "seed": seed}
    seconds = {"prepare": 9, "pretrain": 2, "select": 1, "train": 12 + seed, "evaluate": 1}
    measured = {"metrics": {"hr@10": hr, "ndcg@10": hr / 2}, "validation": {"hr@10": hr}}
    measured |= {"seconds": seconds | {"validation": 2}, "split": "time"}
    measured |= {"rows": {"train": 50_000, "selected": round(50_000 / ratio)}}
    return place | {"status": "done"} | measured | more


def comparison(a, b, difference, relative):
    numbers = {"difference": difference, "interval": [difference - 0.01, difference + 0.01]}
    numbers |= {"relative": relative, "relative_interval": [relative - 9, relative + 9]}
    numbers |= {"verdict": "cannot tell", "users": 1000, "p": 0.3, "deviation": 0.2}
    return {"of": [f"s/d/{a}", f"s/d/{b}", "hr@10"], **numbers, "reference": 0.07}


@pytest.fixture
def folder(tmp_path):
    """Results of one study, and of a benchmark that is none."""
    study = {"name": "s", "title": "S", "layout": "grid", "baseline": "gold", "second": ""}
    cells = [
        cell("gold", 1.0, 0, 0.07, peak_memory_bytes=3 << 30),
        cell("cadc", 10.0, 0, 0.0699),
        cell("cadc", 10.0, 1, 0.0721),
        cell("cadc", 10.0, 0, 0.05, variant="uniform"),
        cell("cadc", 100.0, 0, 0.04),
    ]
    content = {"schema_version": 1, "study": study, "common": {}, "datasets": {"d": {}}}
    cold = {"of": ["s/d/cadc@10", "among_cold", "hr@10"], "values": [10.0, 12.0]}
    beside = ["s/d/cadc@10", "among_cold", "s/d/cadc@10", "neighbours_among_cold", "hr@10"]
    lower = comparison("cadc@10", "cadc@10", -0.02, -15.0) | {"of": beside}
    versus = comparison("cadc@10", "gold@1", -0.0001, -1 / 7)
    content |= {"cells": cells, "of_ranks": [versus, cold, lower]}
    (tmp_path / "s.json").write_text(json.dumps(content))
    speed = {"sections": [{"title": "ranking", "times": 6.5}, {"title": "loading", "times": 9}]}
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    return tmp_path


@pytest.fixture
def problems(folder):
    """What is wrong with a page's text."""

    def check(text, allowed=ALLOWED):
        return Prose.read("page.md", f"{text}, 100 epochs.\n", allowed).problems(Values(folder))

    return check


def test_the_pages_are_what_the_recorded_results_make():
    assert pages.problems() == []


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("s/d/gold/hr@10", 7.0),
        ("s/d/cadc@10/hr@10", 7.1),
        ("s/d/cadc@10/hr@10/deviation", 0.22 / 2**0.5),  # of 6.99 and 7.21
        ("s/d/cadc@10~uniform/ndcg@10", 2.5),
        ("s/d/cadc@10/vs/gold/hr@10", -1 / 7),
        ("s/d/cadc@10/vs/gold/hr@10/points", -0.01),
        ("s/d/cadc@10/vs/gold/hr@10/high", 9 - 1 / 7),
        ("s/d/cadc@10/vs/gold/hr@10/verdict", "cannot tell"),
        ("s/d/cadc@10/vs/gold/time", 1.0),  # over the seed both have
        ("s/d/cadc@10/among_cold/hr@10", 11.0),
        ("s/d/cadc@10/among_cold/hr@10/deviation", 2 / 2**0.5),
        ("s/d/cadc@10/among_cold/hr@10/vs/neighbours", -15.0),
        ("s/d/cadc@10/among_cold/hr@10/vs/neighbours/low", -24.0),
        ("s/d/cadc@10/time", 13.5),  # 2 + 1 + 10.5, validation left out
        ("s/d/cadc@10/time/train", 10.5),
        ("s/d/cadc@10/seeds", 2),
        ("s/d/cadc@100/rows/selected", 500),
        ("s/d/cadc@10/seconds/train", 12.5),
        ("s/d/gold/peak_memory_bytes(GiB)", 3.0),
        ("s/d/cadc@100/hr@10:s/d/gold/hr@10(%)", 57.142857),
        ("speed/sections/title=ranking/times", 6.5),
        ("speed/sections/1/times", 9),
        ("speed/sections/title=loading&times=9/times", 9),
        ("paper/table1/ml-1m/cadc/hr@10", 6.57),
        (
            "paper/table1/ml-1m/cadc/seconds:paper/table1/ml-1m/gold/seconds",
            0.1051913,
        ),  # 154 / 1464
    ],
)
def test_a_reference_names_a_result(folder, reference, value):
    found = Values(folder).find(reference)
    assert found == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6))


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("t/d/gold/hr@10", "t: no such recorded results in .*, there is s, speed"),
        ("s/d/mf/hr@10", "no finished mf, there is gold@1, cadc@10"),
        ("s/e/mf/hr@10", "no finished mf, nor e, there is d"),
        ("s/d/cadc/hr@10", "cadc is more than one, there is cadc@10, cadc@100"),
        ("s/d/gold/hr@9", "has no hr@9, there is id, dataset"),
        ("s/d/gold/among_cold/hr@10", "has nothing of s/d/gold@1, among_cold, hr@10"),
        ("s/d", "name a dataset, a method and what of it"),
        ("s/d/gold/rows", "is no single number or word"),
        ("s/d/gold/hr@10(miles)", "no unit miles; there are %, ms"),
        ("speed/sections/title=x/times", "has no title=x, it has 2 elements"),
        ("speed/sections/title=ranking&times=9/times", "has no title=ranking&times=9, it has 2"),
        ("s/d/gold/hr@10:s/d/gold/split", "is no number, nor one number over another"),
    ],
)
def test_a_reference_that_names_none_says_what_there_is(folder, reference, said):
    with pytest.raises(CadcError, match=said):
        Values(folder).find(reference)


@pytest.mark.parametrize(
    "text",
    [
        "Gold reaches 7.00<!-- = s/d/gold/hr@10 --> on MovieLens\n1M",
        "7.1 / 3.55 HR@10 / NDCG@10 <!-- = s/d/cadc@10/{hr@10,ndcg@10} --> by `--k 5`",
        "7.1, 7<!-- = s/d/{cadc@10,gold}/hr@10 --> and 50,000<!-- = s/d/gold/rows/train -->",
        "7.10 ± 0.16<!-- = s/d/cadc@10/hr@10 s/d/cadc@10/hr@10/deviation -->",
        "loses 0.14%<!-- = s/d/cadc@10/vs/gold/hr@10 -->",
        "−0.14%<!-- = s/d/cadc@10/vs/gold/hr@10 -->",
        "no worse <!-- holds s/d/cadc@10/vs/gold/hr@10/verdict cannot tell -->",
        "above <!-- holds s/d/cadc@10/hr@10 > s/d/gold/hr@10 --> <!-- holds s/d/gold/seeds < 2 -->",
        "1. see [it](a/4.md) at https://example.org/5\n\n    code 6\n    code 7\n\nand",
        "```\n8\n```\n<!-- 9 is what was -->\n<!-- t -->\n| 10 |\n<!-- /t -->\nand",
    ],
)
def test_a_page_whose_figures_are_recorded_passes(problems, text):
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Gold has\n6.98<!-- = s/d/gold/hr@10 -->",
            "page.md:2: 6.98 is not s/d/gold/hr@10, which is 7; renew it",
        ),
        ("Gold has 7.00", "page.md:1: 7.00 names no recorded result; add one behind it"),
        ("2 of 7.00<!-- = s/d/gold/hr@10 -->", "page.md:1: 2 names no recorded result"),
        ("+0.14%<!-- = s/d/cadc@10/vs/gold/hr@10 -->", "+0.14 is not s/d/cadc@10/vs/gold/hr@10"),
        ("7<!-- = s/d/gold/split -->", "7 is not s/d/gold/split, which is time"),
        ("7<!-- = s/d/mf/hr@10 -->", "page.md:1: 7: s/d/mf/hr@10: no finished mf"),
        (
            "better <!-- holds s/d/cadc@10/vs/gold/hr@10/verdict better -->",
            "page.md:1: it does not hold that s/d/cadc@10/vs/gold/hr@10/verdict better",
        ),
        ("is <!-- holds s/d/gold/hr@10 better -->", "is a number; say <, <=, > or >= what"),
        ("is <!-- holds s/d/gold/hr@10 > s/d/cadc@10/hr@10 -->", "it does not hold that"),
        ("is\n<!-- holds s/d/gold/hr@10 > 6 -->", "page.md:2: a comment begins the line"),
        ("51,000<!-- = s/d/gold/rows/train -->", "51,000 is not s/d/gold/rows/train"),
        ("MovieLens 1Ms", "page.md:1: 1 names no recorded result"),
    ],
)
def test_a_figure_that_is_stale_or_without_a_source_is_named_with_its_line(problems, text, said):
    (problem,) = problems(text)
    assert said in problem


def test_a_reference_is_of_the_figures_of_its_paragraph_row_or_entry(problems):
    for between in ("\n- ", "\n\n", "\n| "):
        found = problems(f"7.00{between}Gold<!-- = s/d/gold/hr@10 -->")
        assert [one.partition(": ")[2][:8] for one in found] == ["names 1 ", "7.00 nam"]


def test_of_a_page_that_is_not_held_figures_that_name_recorded_results_are_checked(folder):
    text = "9 and 7<!-- = t/d/gold/hr@10 --> and 7.1<!-- = s/d/gold/hr@10 --> in 100 epochs"
    text += "<!-- holds t/d/gold/seeds < 1 --> <!-- holds s/d/gold/seeds < 1 -->"
    found = Prose.read("page.md", text, ALLOWED).problems(Values(folder), held=False)
    assert [one.partition(", ")[0].split(" ", 1)[1][:12] for one in found] == [
        "7.1 is not s",
        "it does not ",
    ]


def test_a_phrase_may_stand_for_any_whole_number(folder):
    allowed = Allowed({"day #": "a name", "days # and #": "names"}, {})
    text = "On day 8, days 15\nand 16 and day 2.5"
    (problem,) = Prose.read("page.md", text, allowed).problems(Values(folder))
    assert "page.md:2: 2.5 names no" in problem


def test_a_phrase_that_a_page_has_no_more_is_named():
    (problem,) = Prose.read("page.md", "nothing", ALLOWED).wrong
    assert "allowed.toml allows '100 epochs', which the page has no more" in problem


def test_what_is_cited_with_a_reason_is_not_looked_up(problems):
    cited = "<!-- cited: by its authors -->\n| model | 9.28 |\n<!-- /cited -->\n"
    assert problems(f"{cited}\nGold has 7.0<!-- = s/d/gold/hr@10 -->.\n") == []
    assert "names no recorded result" in problems(f"{cited}\nGold has 7.1.\n")[0]


@pytest.mark.parametrize(
    "text", ["<!-- cited: -->\n9\n<!-- /cited -->\n", "<!-- cited: by whom -->\n9\n"]
)
def test_what_is_cited_has_a_reason_and_an_end(problems, text):
    assert any("needs a reason and its end" in said for said in problems(text))


def test_a_bare_number_is_not_allowed(tmp_path):
    for phrase, reason in (("10", "ten"), ("10 epochs", "")):
        (tmp_path / "allowed.toml").write_text(f'[everywhere]\n"{phrase}" = "{reason}"\n')
        with pytest.raises(CadcError, match=f"'{phrase}' needs words beside its number, and a"):
            Allowed.read(tmp_path / "allowed.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("6.98<!-- = s/d/gold/hr@10 -->", "7.00<!-- = s/d/gold/hr@10 -->"),
        ("+0.5%<!-- = s/d/cadc@10/vs/gold/hr@10 -->", "−0.1%<!-- = s/d/cadc@10/vs/gold/hr@10 -->"),
        ("40,000<!-- = s/d/gold/rows/train -->", "50,000<!-- = s/d/gold/rows/train -->"),
        ("1,230<!-- = s/d/cadc@100/rows/selected -->", "500<!-- = s/d/cadc@100/rows/selected -->"),
        ("7.0<!-- = s/d/gold/hr@10 --> of 3", "7.0<!-- = s/d/gold/hr@10 --> of 3"),
    ],
)
def test_figures_are_renewed_as_they_were_written(folder, old, new):
    text, changes = Prose.read("p.md", f"a\n9 {old} b", ALLOWED).renewed(Values(folder))
    assert text == f"a\n9 {new} b"
    assert [change.partition(":")[2].split()[0] for change in changes] == ["2:"] * (old != new)


def test_a_page_with_a_table_that_no_results_make_is_named(tmp_path, folder):
    (tmp_path / "allowed.toml").write_text("")
    (tmp_path / "README.md").write_text("<!-- t -->\n| 1 |\n<!-- /t -->\n")
    assert pages.problems([], tmp_path, folder) == []
    (problem,) = pages.problems(["README.md"], tmp_path, folder)
    assert problem.startswith(
        "README.md: no recorded results make what stands between the marks t;"
    )


def test_other_results_than_those_of_studies_make_tables_too(tmp_path, folder):
    def tables(content):
        return {"t": f"| {content['sections'][0]['times']} |"}

    docs = Measured(
        file="speed",
        marks={"t": "p.md"},
        tables=tables,
        pictures=lambda content: {"a.svg": "<svg/>"},
    )
    (tmp_path / "p.md").write_text("<!-- t -->\n<!-- /t -->\n")
    assert docs.write(tmp_path, folder) == [tmp_path / "p.md", tmp_path / "a.svg"]
    assert (tmp_path / "p.md").read_text() == "<!-- t -->\n| 6.5 |\n<!-- /t -->\n"
    assert Measured(file="none", marks={}, tables=tables).pages(tmp_path, folder) == {}
    (folder / "speed.json").write_text("{")
    with pytest.raises(CadcError, match=r"speed.json: is not JSON .*; record it again"):
        docs.pages(tmp_path, folder)


def test_results_of_several_files_make_one_table(tmp_path, folder):
    def tables(files):
        return {"t": f"| {', '.join(file.stem for file in files)} |"}

    made = MeasuredApart(files="sp*.json", marks={"t": "p.md"}, tables=tables)
    (tmp_path / "p.md").write_text("<!-- t -->\n<!-- /t -->\n")
    (folder / "spare.json").write_text("[]")
    made.write(tmp_path, folder)
    assert (tmp_path / "p.md").read_text() == "<!-- t -->\n| spare, speed |\n<!-- /t -->\n"


def test_the_commits_of_a_study_are_counted_wherever_they_stand(folder):
    content = json.loads((folder / "s.json").read_text())
    content["cells"][0]["commit"] = "aaa"
    content["cells"][1]["commit"] = "bbb"
    (folder / "s.json").write_text(json.dumps(content))
    speed = {"unknown": 1}
    assert pages.commits(folder) == {"s": {"aaa": 1, "bbb": 1, "unknown": 3}, "speed": speed}
    for cell in content["cells"][:2]:
        del cell["commit"]
    content["datasets"]["d"]["commit"] = "ccc"
    (folder / "s.json").write_text(json.dumps(content))
    assert pages.commits(folder)["s"] == {"ccc": 5}
    runs = {"one": {"commit": "aaa", "runs": [{"commit": "no part"}]}, "two": [{"commit": "bbb"}]}
    (folder / "speed.json").write_text(json.dumps(runs))
    assert pages.commits(folder)["speed"] == {"aaa": 1, "bbb": 1}


def test_the_command_checks_finds_and_writes(folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "problems", lambda held: [f"{page} is wrong" for page in held])
    monkeypatch.setattr(command, "Values", lambda: Values(folder))
    monkeypatch.setattr(command, "renew", lambda: ["p.md:1: 2 is now 3"])
    monkeypatch.setattr(command, "DOCS", ())
    with pytest.raises(SystemExit, match=r"^a\.md is wrong\nb\.md is wrong$"):
        command.main(["--check", "a.md", "b.md"])
    command.main(["--find", "s/d/gold/seeds"])
    command.main([])
    assert capsys.readouterr().out == "1\np.md:1: 2 is now 3\n"
    with pytest.raises(SystemExit, match=r"^error: s/d/gold/hr@9: has no hr@9, there is "):
        command.main(["--find", "s/d/gold/hr@9"])


def test_a_table_that_was_changed_by_hand_is_named(tmp_path, folder, monkeypatch):
    made = Docs(
        studies=("s",),
        marks={"t": "README.md"},
        tables=lambda page: {"t": f"| {page.studies[0].title} |"},
        pictures=lambda page: {"p.svg": f"<svg>{page.studies[0].title}</svg>"},
    )
    monkeypatch.setattr(pages, "DOCS", (made,))
    (tmp_path / "allowed.toml").write_text("")
    (tmp_path / "README.md").write_text("<!-- t -->\n| S |\n<!-- /t -->\n")
    (problem,) = pages.problems(["README.md"], tmp_path, folder)
    assert problem.startswith("p.svg: is not what the recorded results make; write it again")
    (tmp_path / "p.svg").write_text("<svg>S</svg>")
    assert pages.problems(["README.md"], tmp_path, folder) == []
    (tmp_path / "README.md").write_text("<!-- t -->\n| T |\n<!-- /t -->\n")
    (problem,) = pages.problems([], tmp_path, folder)
    assert problem.startswith("README.md: is not what the recorded results make; write it again")
