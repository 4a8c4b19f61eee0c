"""The page at / as a person meets it, in a headless Chromium."""

import re
import shutil

import pytest

from tests.serving.http.conftest import KEY

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, service):
    """The page, watched: an error, or a request to anywhere else, fails the test."""
    address = f"http://127.0.0.1:{service.http}/"
    page = browser.new_page(viewport={"width": 1000, "height": 900})
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: sent.url.startswith(address) or complaints.append(sent.url))
    page.goto(address)
    yield page
    page.close()
    assert complaints == []


def ask(page, user, k="10"):
    page.get_by_label("User id").fill(str(user))
    page.get_by_label("Items").fill(k)
    page.get_by_role("button", name="Recommend").click()
    # By a selector: a function that is asked again would be an eval, which the page forbids.
    said = page.locator("#message, #latency").filter(has_text=re.compile(r"\S"))
    said.first.wait_for(state="attached")


def test_a_known_user_sees_recommendations_history_scores_and_latency(page, expected):
    ask(page, expected.user_ids[3], "5")
    ids = page.locator("#recommended .id").all_inner_texts()
    assert ids == [str(item) for item in expected.ranked[3, :5]]
    scores = [float(text) for text in page.locator("#recommended .score").all_inner_texts()]
    assert scores == pytest.approx(expected.scores[3, :5].tolist(), abs=5e-4)
    taken = page.locator("#taken .id").all_inner_texts()
    assert taken == [str(item) for item in expected.known[3][::-1][:20]]
    assert page.locator("#source").inner_text() == "by this user's own vector"
    assert " ms" in page.locator("#latency").inner_text()


def test_a_stranger_is_told_that_the_popular_is_shown(page, expected):
    ask(page, "nobody", "3")
    ids = page.locator("#recommended .id").all_inner_texts()
    assert ids == [str(item) for item in expected.popular[:3]]
    assert "this user is unknown" in page.locator("#source").inner_text()
    assert page.locator("#taken li").count() == 0


def test_what_cannot_be_answered_is_said(page):
    page.get_by_label("Items").evaluate("field => field.removeAttribute('max')")
    ask(page, 1, "41")
    assert "is not between 1 and 40" in page.locator("#message").inner_text()
    assert page.locator("#answer").is_hidden()


def test_text_is_never_taken_as_html(page):
    ask(page, "<img src=x onerror=alert(1)>")
    assert page.locator("img").count() == 0


def test_where_a_key_is_needed_the_page_asks_for_it(browser, start, bundles):
    service = start(bundles[0], key=KEY)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{service.http}/")
    page.get_by_label("User id").fill("1")
    page.get_by_role("button", name="Recommend").click()
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Recommend").click()
    page.locator("#recommended li").first.wait_for()
    assert page.locator("#message").inner_text() == ""
    page.close()


def test_the_api_is_described_on_a_page_of_its_own(page, service):
    page.goto(f"http://127.0.0.1:{service.http}/docs")
    infer = page.locator("summary", has_text="POST /v2/models/{model_name}/infer")
    infer.click()
    section = page.locator("section", has=infer)
    assert "candidate_id" in section.inner_text()
    assert "recommender-similar" in section.inner_text()
