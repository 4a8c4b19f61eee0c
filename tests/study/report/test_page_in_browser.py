"""The report's page as a reader meets it, in a headless Chromium."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from cadc_rec.config.file import load_experiment
from cadc_rec.study.report.report import write_report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright"
)
ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, whole_report):
    """The page, watched: an error, or a request that leaves this machine, fails the test."""
    page = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme="light")
    complaints = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda sent: sent.url.startswith(("file:", "data:")) or complaints.append(sent.url),
    )
    page.goto(whole_report.page.as_uri())
    yield page
    page.close()
    assert complaints == []


def at(page, place):
    """The page at an address behind its #."""
    page.evaluate("place => { location.hash = place; }", place)
    page.wait_for_function(
        "place => document.querySelector(`header nav a[href='${place}']`)?.ariaCurrent === 'page'"
        " || !document.querySelector(`header nav a[href='${place}']`)",
        arg=place,
    )
    return page


@pytest.mark.parametrize("place", ["#content", "#theme", "#100%"])
def test_an_address_of_no_view_shows_the_first(page, whole_report, place):
    page.goto(f"{whole_report.page.as_uri()}?anew{place}")  # an error would be a complaint
    assert page.locator("#overview").is_visible()


# Both metrics, of one set a figure: 9 methods without popularity, which trains nothing; 8 without
# the over-sampling that is not available on Epinions. Epochs: 6 less the one that was not measured.
# Bars: random, over-sampling, under-sampling, logq and gold have no pre-training (3 parts), cadc
# and cadc-mlp have 4, mf one. The line across Figure 1 is gold's. The overview: CADC at six ratios
# and at one, in both panels, and the level of each.
MARKS = {
    "overview-figure": 2 * (6 + 1 + 1),
    "study-1-pareto-1": 2 * 8,
    "study-1-time-1": 5 * 3 + 2 * 4 + 1,
    "study-1-validation-1": 2 * 5 * 7,
    "study-1-pareto-2": 2 * 7,
    "study-1-time-2": 4 * 3 + 2 * 4 + 1,
    "study-1-validation-2": 2 * 5 * 6,
    "study-2-pareto-1": 2 * 6,
    "study-2-time-1": 6 * 4,
    "study-2-validation-1": 2 * 5 * 6,
    "study-3-figure1-1": 2 * 2 * 6 + 2,
    "study-3-pareto-1": 2 * 2 * 6,
}
MARK = "[aria-roledescription=value]"


def test_every_chart_has_a_mark_for_every_value(page):
    drawn = page.locator("figure").evaluate_all("figures => figures.map(f => f.id)")
    assert drawn == list(MARKS)
    for figure, count in MARKS.items():
        assert page.locator(f"#{figure} {MARK}").count() == count, figure
        assert page.locator(f"#{figure} {MARK}[data-tip]").count() == count, figure


def test_every_mark_lies_within_its_chart(page):
    at(page, "#everything")
    outside = page.evaluate(
        """() => [...document.querySelectorAll(".chart [data-tip]")].filter((shape) => {
            const box = shape.getBoundingClientRect();
            const chart = shape.closest("svg").getBoundingClientRect();
            return !(box.left >= chart.left && box.right <= chart.right
                     && box.top >= chart.top && box.bottom <= chart.bottom);
        }).length"""
    )
    assert outside == 0


def test_no_name_covers_another(page):
    at(page, "#everything")
    covered = page.evaluate(
        """() => [...document.querySelectorAll("figure svg")].flatMap((chart) => {
            const shown = (t) => t.textContent && t.getAttribute("opacity") !== "0";
            const boxes = [...chart.querySelectorAll("text")].filter(shown).map(
                (t) => [t.textContent, t.getBoundingClientRect()]);
            return boxes.flatMap(([a, p], n) => boxes.slice(n + 1).filter(([b, q]) =>
                Math.min(p.right, q.right) - Math.max(p.left, q.left) > 2
                && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 5
            ).map(([b]) => [chart.getAttribute("aria-label"), a, b]));
        })"""
    )
    assert covered == []


TABLE = "#study-1 > .scroll table"


def column(page, place):
    """The numbers of a column of the first table that are seen, from top to bottom."""
    texts = page.locator(f"{TABLE} tbody tr:visible").evaluate_all(
        "(rows, place) => rows.map(row => row.cells[place].firstChild.textContent)", place
    )
    return [float(text.split(" ")[0]) for text in texts if text[0].isdigit()], texts


def heading(page, text):
    return page.locator(f"{TABLE} thead th", has_text=text).first


def names(page):
    return page.locator(f"{TABLE} tbody tr:visible th").all_inner_texts()


def test_a_heading_sorts_by_number_up_down_and_back(page):
    at(page, "#set-1")
    accuracy = heading(page, "HR@10")
    before, texts = column(page, 2)
    assert before != sorted(before)
    accuracy.get_by_role("button").click()
    assert accuracy.get_attribute("aria-sort") == "ascending"
    assert column(page, 2)[0] == sorted(before)
    accuracy.get_by_role("button").press("Enter")  # the keyboard's click
    assert accuracy.get_attribute("aria-sort") == "descending"
    assert column(page, 2)[0] == sorted(before, reverse=True)
    assert page.locator(f"{TABLE} [aria-sort]").count() == 1
    accuracy.get_by_role("button").click()
    assert accuracy.get_attribute("aria-sort") is None
    assert column(page, 2)[1] == texts


def test_numbers_are_sorted_as_numbers_and_words_come_last(page):
    at(page, "#set-2")
    for _ in range(2):
        heading(page, "HR@10").get_by_role("button").click()
        assert column(page, 2)[1][-1] == "not available"
    at(page, "#set-1")
    heading(page, "time s").get_by_role("button").click()
    # 0, 10, 41.3, 42.1, 44.1, 44.3, 45.1, 116.1, 344.1; as text, 10+34 would come before 41.
    assert names(page) == [
        "Popularity",
        "MF alone",
        "Under-Sampling",
        "Random",
        "CADC",
        "Over-Sampling",
        "LogQ",
        "CADC-MLP",
        "Gold standard",
    ]


def test_the_overview_has_three_sentences_one_picture_and_a_row_a_set(page):
    """CADC: 68.3 of 71 hits at 1/20 of MovieLens 1M; at 1/10, the only share, of Epinions."""
    said = page.locator("#overview .answer:visible").all_inner_texts()
    assert [text.split(".")[0] for text in said] == [
        "What can be left out",
        "What it costs",
        "What it saves",
    ]
    assert "MovieLens 1M: CADC, 1/20; Epinions, 20-core: CADC, 1/10" in said[0]
    assert page.locator("figure:visible").count() == 1
    rows = page.locator("#overview tbody tr").evaluate_all(
        "rows => rows.map(row => [1, 2].map(n => row.cells[n].firstChild.textContent))"
    )
    assert rows == [["MovieLens 1M", "1/20"], ["Epinions, 20-core", "1/10"]]
    assert page.locator(".view:visible").count() == 1
    assert page.title().startswith("Overview")


def test_each_set_has_a_page_of_its_own_which_a_link_names(page, whole_report):
    page.locator("#overview tbody a", has_text="Epinions").click()
    assert page.url.endswith("#set-2")
    assert page.locator("#results-title").inner_text() == "Epinions, 20-core"
    assert page.evaluate("document.activeElement.id") == "results-title"
    assert page.locator("nav [aria-current=page]").inner_text() == "Epinions, 20-core"
    assert page.title().startswith("Epinions, 20-core")
    assert (
        set(column(page, 1)[1]) == {"Epinions, 20-core"}
        or not page.locator(f"{TABLE} td.set").first.is_visible()
    )
    shown = page.locator("figure:visible").evaluate_all("all => all.map(one => one.id)")
    assert shown == ["study-1-pareto-2", "study-1-time-2", "study-1-validation-2"]
    assert page.locator("#study-2").is_hidden()  # has nothing of this set
    assert page.locator(".cells.unavailable").is_visible()
    assert page.locator(".cells.failed").is_hidden()  # of the other set
    assert "seeded random" in page.locator("#set-2").inner_text()
    power = page.locator("#study-1 > .under:visible").all_inner_texts()
    assert [text.split(":")[0] for text in power] == ["Many comparisons", "Epinions, 20-core"]
    page.go_back()
    assert page.locator("#overview").is_visible()
    page.goto(f"{whole_report.page.as_uri()}#set-1")  # as a link from elsewhere
    page.reload()
    assert page.locator("#results-title").inner_text() == "MovieLens 1M"
    assert page.locator("#study-2").is_visible()


def test_rows_are_filtered_by_words_method_and_set_and_counted(page):
    at(page, "#results")
    count = page.locator("#filter-count")
    # 9 methods on two sets; 6 techniques; two methods at six ratios; and all but one in the costs.
    assert count.inner_text() == "71 rows"
    page.locator("#filter-method").select_option("cadc")
    assert count.inner_text() == "28 of 71 rows"
    page.locator("#filter-text").fill("worse 1/50")
    assert count.inner_text() == "1 of 71 rows"
    visible = page.locator("#results tbody tr:visible th").all_inner_texts()
    assert visible == ["CADC, 1/50"]
    page.locator("#filter-text").fill("no such words")
    assert count.inner_text() == "0 of 71 rows"
    page.get_by_role("button", name="Show all").click()
    page.get_by_text("71 rows", exact=True).first.wait_for()
    page.locator("#filter-set").select_option(label="Epinions, 20-core")
    assert count.inner_text() == "17 of 71 rows"
    at(page, "#set-1")
    assert count.inner_text() == "54 of 71 rows"
    assert page.locator("#filter-set").is_hidden()


def test_sorting_keeps_what_is_filtered_away_hidden(page):
    at(page, "#set-1")
    page.locator("#filter-method").select_option("cadc")
    heading(page, "HR@10").get_by_role("button").click()
    assert names(page) == ["CADC"]


def test_every_run_is_a_row_and_its_record_a_click_away(page):
    at(page, "#runs")
    assert page.locator("#filter-count").inner_text() == "72 rows"
    page.locator("#filter-text").fill("failed")
    page.locator("#runs button.runs:visible").click()
    dialog = page.locator("dialog")
    assert dialog.locator("h2").inner_text() == "LogQ, MovieLens 1M, seed 1"
    error = "failed: loss is <script>alert(1)</script> nan"
    assert dialog.locator("#run-error").inner_text() == error
    assert dialog.locator("#run-settings").inner_text().startswith("No settings")
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert page.evaluate("document.activeElement.textContent") == "LogQ"


def test_a_row_opens_the_runs_of_its_seeds(page):
    at(page, "#set-1")
    page.locator(f"{TABLE} button.runs", has_text="Gold standard").first.press("Enter")
    seeds = page.locator("#run-seeds button")
    assert seeds.all_inner_texts() == ["seed 0", "seed 1"]
    record = json.loads(page.locator("#run-record").inner_text())
    assert (record["id"], record["machine"]["cpu"]) == ("ml-1m-gold-trainable-1-0", "Toy CPU")
    seeds.nth(1).click()
    record = json.loads(page.locator("#run-record").inner_text())
    assert record["metrics"]["hr@10"] == 0.072
    assert seeds.nth(1).get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Close").click()
    assert page.locator("dialog").is_hidden()


def test_the_settings_of_a_run_are_a_file_that_gives_them_again(browser, new_study, tmp_path):
    """Of a method whose own settings the grid has overridden, as it does for techniques."""
    study = new_study()
    wanted = {}
    for method, ratio in (("cadc", 10.0), ("cadc", 20.0), ("recipe", 10.0)):
        sets = [f"select.ratio={ratio}", "model.id_embedding=linear", "seed=3"]
        experiment = load_experiment(ROOT / "configs" / "ml-1m.toml", method=method, overrides=sets)
        config = experiment.model_dump(mode="json")
        study.add("ml-1m", method, "linear", ratio, 3, "failed", error="x", config=config)
        wanted[len(wanted)] = experiment
    page = browser.new_page()
    page.goto(f"{write_report(study.folder).page.as_uri()}#runs")
    for place, experiment in wanted.items():
        page.locator(f"#runs [data-runs='{place}']").click()
        file = tmp_path / f"{place}.toml"
        file.write_text(page.locator("#run-settings").inner_text())
        assert load_experiment(file) == experiment
        varying = page.locator("#run-varying").inner_text().splitlines()
        assert f"select.ratio = {experiment.select.ratio:g}" in varying
        assert not any(line.startswith("data.") for line in varying)
        page.keyboard.press("Escape")
    page.close()


def test_a_link_to_a_study_moves_within_the_page_of_the_set(page):
    at(page, "#set-1")
    page.locator(".studies a", has_text="Figure 1").press("Enter")
    assert page.evaluate("document.activeElement.id") == "study-3-title"
    assert page.evaluate("scrollY") > 1000
    assert page.locator("#results-title").inner_text() == "MovieLens 1M"


def test_the_keyboard_skips_to_the_content_and_reaches_every_view(page):
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("e => e === document.activeElement")
    assert skip.evaluate("e => e.getBoundingClientRect().top >= 0")  # seen while it has the focus
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    assert page.locator("#overview").is_visible()
    links = page.locator("header nav a")
    for place in range(links.count()):
        links.nth(place).press("Enter")
        page.wait_for_function(
            "n => document.querySelectorAll('header nav a')[n].ariaCurrent === 'page'", arg=place
        )
        ring = links.nth(place)
        ring.focus()
        assert ring.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"


def test_everything_that_is_operated_has_a_name_and_ids_are_used_once(page):
    at(page, "#everything")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, select, [tabindex='0']")]
            .filter((e) => e.checkVisibility()).filter((e) => !(e.textContent.trim()
                || e.getAttribute("aria-label") || (e.labels && e.labels.length)))
            .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    twice = page.evaluate(
        """() => {
            const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
            return ids.filter((id, n) => ids.indexOf(id) !== n && !/^(gradient|clip)/.test(id));
        }"""
    )
    assert twice == []
    levels = page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3, h4')].filter((e) => e.checkVisibility())"
        ".map((e) => Number(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_contrasts_enough_with_its_ground(page, theme):
    """WCAG 2's AA: at least 4.5 to 1."""
    page.emulate_media(color_scheme=theme)
    at(page, "#everything")
    weak = page.evaluate(
        """() => {
            const part = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => part(v / 255));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
            const ground = (e) => { for (; e; e = e.parentElement) {
                const c = getComputedStyle(e).backgroundColor;
                if (!/, 0\\)$|transparent/.test(c)) return c; } };
            const seen = [...document.querySelectorAll(
                "main p, main small, main td, main th, main a, main button, main dt, main dd,"
                + "figcaption, summary, code, header a, header button")]
                .filter((e) => e.checkVisibility() && e.textContent.trim());
            return [...new Set(seen.map((e) => {
                const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
                const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                return ratio < 4.5 ? `${e.tagName}.${e.className} ${ratio.toFixed(2)}` : null;
            }))].filter(Boolean);
        }"""
    )
    assert weak == []


def test_hovering_a_mark_shows_its_value(page):
    at(page, "#set-1")
    tip = page.locator("#tip")
    assert tip.is_hidden()
    marks = page.locator(f"#study-1-pareto-1 {MARK}")
    # By the tables' order: random, over, under, logq, cadc-mlp, cadc.
    marks.nth(5).scroll_into_view_if_needed()
    marks.nth(5).hover()
    assert tip.inner_text() == "CADC, 44 s\nHR@10 6.90 ± 0.14%\n2 seeds"
    bar = page.locator(f"#study-1-time-1 {MARK}").last
    bar.scroll_into_view_if_needed()
    bar.hover()
    assert "MF alone, pre-training\n10 s" in tip.inner_text()
    level = page.locator(f"#study-3-figure1-1 line{MARK}").first
    level.scroll_into_view_if_needed()
    box = level.bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + 3)  # near the thin line, not on it
    assert "Gold standard, MovieLens 1M\nHR@10 7.10 ± 0.14%" in tip.inner_text()
    page.mouse.move(1, 1)
    assert tip.is_hidden()


def test_a_pointer_near_a_mark_means_it_and_one_far_from_all_means_none(page):
    at(page, "#set-1")
    tip = page.locator("#tip")
    mark = page.locator(f"#study-3-figure1-1 path{MARK}").first
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.mouse.move(box["x"] - 9, box["y"] + box["height"] / 2 - 12)
    assert tip.inner_text().startswith("Random, 1/2, ratio 2\nHR@10 5.80")
    chart = page.locator("#study-3-figure1-1 svg").bounding_box()
    page.mouse.move(chart["x"] + 90, chart["y"] + chart["height"] - 30)
    assert tip.is_hidden()


def test_a_charts_values_are_a_table_too(page):
    at(page, "#set-1")
    figure = page.locator("#study-3-figure1-1")
    figure.locator("summary").press("Enter")
    rows = figure.locator("table.values tbody tr")
    rows.first.wait_for()
    assert rows.count() == MARKS["study-3-figure1-1"]
    texts = [row.split("\t") for row in rows.all_inner_texts()]
    assert ["CADC, 1/2, ratio 2", "HR@10 7.50 ± 0.14%", "2 seeds"] in texts
    figure.locator("summary").press("Enter")
    figure.locator("summary").press("Enter")
    assert figure.locator("table.values").count() == 1


def test_hovering_a_verdict_shows_its_interval_and_so_does_the_keyboard(page):
    at(page, "#set-1")
    tip = page.locator("#tip")
    verdict = page.locator(f"{TABLE} td.worse:visible").first
    verdict.scroll_into_view_if_needed()
    verdict.hover()
    assert "HR@10 against Gold standard: worse" in tip.inner_text()
    assert "95% interval −" in tip.inner_text()
    assert "1,000 users, mean of seeds 0, 1" in tip.inner_text()
    page.mouse.move(1, 1)
    page.locator(f"{TABLE} button.runs").first.focus()
    page.keyboard.press("Tab")
    assert "against Gold standard" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_a_chart_is_one_stop_of_the_keyboard_and_arrows_go_through_its_values(page):
    at(page, "#set-1")
    tip = page.locator("#tip")
    page.locator("#study-1 > .scroll").focus()
    page.locator(f"#study-1-pareto-1 {MARK}").first.focus()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().startswith("Over-Sampling, 44 s\n")
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text().startswith("Random, 42 s\n")
    page.keyboard.press("ArrowLeft")  # there is none before it
    assert tip.inner_text().startswith("Random, 42 s\n")
    page.keyboard.press("End")
    assert tip.inner_text().startswith("MF alone, 10 s\n")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.keyboard.press("Tab")
    within = "document.activeElement.closest('figure').id"
    assert page.evaluate(within) == "study-1-time-1"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(within) == "study-1-pareto-1"
    assert tip.inner_text().startswith("MF alone, 10 s\n")


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_follows_the_system_and_the_button(page):
    light = background(page)
    button = page.locator("#theme")
    assert button.inner_text() == "Dark"
    button.click()
    dark = background(page)
    assert dark != light
    assert button.inner_text() == "Light"
    button.click()
    assert background(page) == light
    page.reload()
    page.emulate_media(color_scheme="dark")
    assert background(page) == dark


def test_a_chart_has_the_same_colour_for_a_method_as_every_other(page):
    charts = [f"study-{n}-{name}-1" for n, name in ((1, "pareto"), (1, "validation"))]
    charts += ["study-3-figure1-1", "study-3-pareto-1", "study-1-pareto-2"]
    marks = ", ".join(f"#{chart} {MARK}" for chart in charts)
    colours = page.locator(marks).evaluate_all(
        """marks => marks.map((mark) => [
            mark.dataset.tip.split(",")[0], mark.getAttribute("fill") ?? mark.getAttribute("stroke")
        ])"""
    )
    by_method = {}
    for method, colour in colours:
        by_method.setdefault(method, set()).add(colour)
    assert len(by_method) == 8
    assert all(len(found) == 1 for found in by_method.values())
    assert len(set.union(*by_method.values())) == 8


def test_axes_and_letters_of_a_chart_follow_the_theme(page):
    ink = "getComputedStyle(document.querySelector('.chart text')).fill"
    light = page.evaluate(ink)
    page.locator("#theme").click()
    assert page.evaluate(ink) != light


def test_paper_gets_what_is_shown_with_intervals_and_without_controls(page):
    at(page, "#set-1")
    page.emulate_media(media="print", color_scheme="dark")
    for hidden in ("#theme", "header nav", "#filter", "#study-2-pareto-1 details"):
        assert page.locator(hidden).first.is_hidden(), hidden
    assert page.locator("#study-1-pareto-2").is_hidden()
    assert page.locator(f"{TABLE} .printed:visible").count() > 9
    assert background(page) == "rgb(255, 255, 255)"
    page.set_viewport_size({"width": 1030, "height": 700})  # A4 across, less the margins
    for wide in ("#study-1-pareto-1 .drawing", "#study-1 > .scroll"):
        fits = "e => e.scrollWidth <= e.clientWidth"
        assert page.locator(wide).evaluate(fits), wide  # nothing is cut off
    one = page.pdf(prefer_css_page_size=True)
    at(page, "#everything")
    assert page.locator("figure:visible").count() == len(MARKS)
    assert page.locator("#notes").is_visible()
    whole = page.pdf(prefer_css_page_size=True)
    assert one.startswith(b"%PDF")
    pages = [len(re.findall(rb"/Type\s*/Page\b", pdf)) for pdf in (one, whole)]
    assert pages[1] > pages[0] > 1


def test_a_phone_scrolls_tables_and_charts_and_not_the_page(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for view in ("#overview", "#set-1", "#runs", "#notes"):
        at(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, view
    wide = "e => e.scrollWidth > e.clientWidth"
    at(page, "#set-1")
    assert page.locator("#study-1 > .scroll").evaluate(wide)
    assert page.locator("#study-1-pareto-1 .drawing").evaluate(wide)
    page.locator(f"{TABLE} button.runs").first.click()
    assert page.evaluate("document.querySelector('dialog').getBoundingClientRect().width") <= 390


def test_without_a_script_all_of_it_is_there(browser, whole_report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(whole_report.page.as_uri())
    assert page.locator(".view:visible").count() == 4
    assert page.locator("figure:visible").count() == len(MARKS)
    assert page.locator("#filter").is_hidden()  # it would do nothing
    context.close()


def test_what_went_wrong_is_told_as_text(page):
    at(page, "#everything")
    assert "loss is <script>alert(1)</script> nan" in page.locator(".cells.failed").inner_text()
    assert "no archive" in page.locator(".cells.unavailable").inner_text()
    assert "Not run yet (of all sets): 1" in page.locator("details.missing").inner_text()
    assert page.locator(".count").all_inner_texts() == [
        "69 done",
        "1 failed",
        "1 not available",
        "1 not run yet",
        "72 cells in the grid",
    ]
