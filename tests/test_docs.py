"""What the documentation says of the code is so."""

import ast
import functools
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tools import config_reference

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOR_ALL = {"compiled", "errors", "log", "machine", "strict_json", "threads", "versions"}


def test_the_configuration_page_is_that_of_the_code():
    page = config_reference.PAGE.read_text("utf-8")
    assert page == config_reference.page_with_tables(page), "python -m tools.config_reference"


def test_every_setting_and_section_stands_on_the_configuration_page():
    page = config_reference.PAGE.read_text("utf-8")
    for section, model in config_reference.sections(config_reference.Experiment):
        for name in model.model_fields:
            key = f"{section}.{name}".lstrip(".")
            assert f"`{key}`" in page or f"`[{key}]`" in page


def room(parts):
    """The room of a module, given as its path below the package."""
    return "cli" if parts[0] == "__main__" else parts[0]


@functools.cache
def imports_between_rooms():
    """Room to the rooms it imports, wherever in a file the import stands."""
    found = defaultdict(set)
    package = ROOT / "cadc_rec"
    for file in package.rglob("*.py"):
        here = room(file.relative_to(package).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cadc_rec":
                below = node.module.split(".")[1:]
                modules = [below] if below else [[alias.name] for alias in node.names]
                found[here] |= {room(module) for module in modules if module != ["__version__"]}
            else:
                found[here] |= set()
    return {
        here: rooms - {here, *FOR_ALL}
        for here, rooms in found.items()
        if here not in {"__init__", *FOR_ALL}
    }


def documented_imports():
    """The same as docs/architecture.md says it."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.split("## Who imports whom")[1].split("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", table, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", others)) for name, others in rows}


def test_rooms_import_what_the_architecture_page_says():
    assert imports_between_rooms() == documented_imports()


def test_the_files_that_the_architecture_page_names_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = re.findall(r"`([\w/]+\.py)`", page)
    assert named
    for name in named:
        assert any((ROOT / folder / name).exists() for folder in ("cadc_rec", "."))


def test_no_two_rooms_need_each_other():
    imports = imports_between_rooms()
    while imports:  # a room that imports none of those that are left can be taken away
        above = [here for here, rooms in imports.items() if not rooms & set(imports)]
        assert above, f"a cycle among {sorted(imports)}"
        imports = {here: rooms for here, rooms in imports.items() if here not in above}


def test_the_data_room_knows_no_torch():
    for file in (ROOT / "cadc_rec" / "data").rglob("*.py"):
        assert not re.search(
            r"^\s*(import|from) (torch|torchrec|fbgemm_gpu)\b", file.read_text(), re.M
        )


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page):
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text("utf-8"))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_protocols_lines_of_numpy_recompute_the_ranks(finished, tmp_path):
    protocol = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", protocol, re.MULTILINE | re.DOTALL)
    (tmp_path / "result.json").write_text(finished.out)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = re.fullmatch(r"HR@10 (\S+) NDCG@10 (\S+)\n", done.stdout)
    metrics = json.loads(finished.out)["metrics"]
    assert [float(value) for value in printed.groups()] == pytest.approx(
        [metrics["hr@10"], metrics["ndcg@10"]]
    )
