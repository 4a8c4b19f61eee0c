"""The page at / as a person meets it, in a headless Chromium."""

import json
import re
import shutil
import urllib.parse
import urllib.request

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

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
    answered(page)


def answered(page):
    # By a selector: a function that is asked again would be an eval, which the page forbids.
    said = page.locator("#message, #latency").filter(has_text=re.compile(r"\S"))
    said.first.wait_for(state="attached")


def ids(page, of):
    return page.locator(f"#{of} .id").all_inner_texts()


def by_protocol(service, mode="append", **inputs):
    """What the protocol recommends: a list of item ids."""
    tensors = [
        {"name": name, "shape": [1, len(data)][2 - n :], "datatype": "INT64", "data": data}
        for name, (n, data) in inputs.items()
    ]
    asked = {
        "inputs": tensors,
        "outputs": [{"name": "item_id"}],
        "parameters": {"history_mode": mode},
    }
    body = json.dumps(asked).encode()
    address = f"http://127.0.0.1:{service.http}/v2/models/recommender/infer"
    with urllib.request.urlopen(urllib.request.Request(address, body)) as answer:
        return [str(item) for item in json.load(answer)["outputs"][0]["data"]]


def texts(items):
    return [str(item) for item in items]


def test_it_opens_with_the_bundle_users_to_try_and_popular_items(page, bundles, expected):
    page.locator("#popular li").first.wait_for()
    manifest = json.loads((bundles[0] / "manifest.json").read_text())
    said = page.locator("#bundle").inner_text()
    assert manifest["name"] in said
    assert manifest["fingerprint"][:12] in said
    assert ids(page, "popular") == texts(expected.popular[:24])
    lengths = [len(one) for one in expected.known]
    taken = dict(zip(texts(expected.user_ids), lengths, strict=True))
    users = page.locator("#sample-users button").all_inner_texts()
    counts = [int(re.fullmatch(r"(\d+) \((\d+)\)", one)[2]) for one in users]
    assert [taken[one.split()[0]] for one in users] == counts == sorted(counts)
    assert (counts[0], counts[-1]) == (min(taken.values()), max(taken.values()))
    page.locator("#sample-users button").last.click()
    answered(page)
    row = [str(user) for user in expected.user_ids].index(users[-1].split()[0])
    assert ids(page, "recommended") == texts(expected.ranked[row, :10])


def test_a_known_user_sees_recommendations_history_scores_and_latency(page, expected):
    ask(page, expected.user_ids[3], "5")
    assert ids(page, "recommended") == texts(expected.ranked[3, :5])
    scores = [float(text) for text in page.locator("#recommended .score").all_inner_texts()]
    assert scores == pytest.approx(expected.scores[3, :5].tolist(), abs=5e-4)
    assert ids(page, "taken") == texts(expected.known[3][::-1][:20])
    why = page.locator("#why").inner_text()
    assert why == f"By this user's own vector, of {len(expected.known[3])} items taken before."
    assert " ms" in page.locator("#latency").inner_text()


def test_each_item_names_what_lies_nearest_to_it_in_the_history(page, bundles, expected):
    ask(page, expected.user_ids[3], "5")
    vectors = load_file(bundles[0] / "vectors/items.safetensors")["vectors"].astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = {item: row for row, item in enumerate(expected.item_ids.tolist())}
    read = [rows[item] for item in expected.known[3][::-1][:20].tolist()]
    said = page.locator("#recommended .near").all_inner_texts()
    for item, near in zip(expected.ranked[3, :5].tolist(), said, strict=True):
        cosines = vectors[read] @ vectors[rows[item]]
        assert near.endswith(f"({cosines.max():.2f})")


def test_a_session_is_clicked_together_and_taken_apart(page, service, expected):
    page.locator("#popular li").first.wait_for()
    first, second = texts(expected.popular[[0, 2]])
    page.locator("#popular li").nth(0).get_by_role("button", name="Take").click()
    page.locator("#popular li").nth(2).get_by_role("button", name="Take").click()
    page.get_by_text("Made of the session of 2 items alone: this user is unknown.").wait_for()
    wanted = by_protocol(service, history=(2, [int(first), int(second)]))
    assert ids(page, "recommended") == wanted
    assert not {first, second} & set(wanted)
    taken = page.locator("#popular li").nth(0).get_by_role("button", name="Take")
    assert taken.count() == 0
    page.get_by_role("button", name="from the session").first.click()
    page.get_by_text("Made of the session of 1 item alone").wait_for()
    assert ids(page, "recommended") == by_protocol(service, history=(2, [int(second)]))
    page.get_by_role("button", name="Clear the session").click()
    page.get_by_text("What most people took").wait_for()
    assert page.locator("#session").is_hidden()


def test_a_session_changes_a_known_users_answer_where_the_model_reads_it(
    browser, start, tiny_recipe, spawn, tmp_path
):
    options = ("--workdir", tmp_path / "work")
    for command in (("run", tiny_recipe), ("export", tiny_recipe, "--out", tmp_path / "recipe")):
        process = spawn(*command, *options)
        assert process.wait(300) == 0, process.said
    service = start(tmp_path / "recipe")
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{service.http}/")
    page.locator("#sample-users button").first.click()
    page.get_by_text("By this user's own vector").wait_for()
    user, before = int(page.get_by_label("User id").input_value()), ids(page, "recommended")
    assert before == by_protocol(service, user_id=(1, [user]))
    clicked = int(before[4])
    page.locator("#recommended li").nth(4).get_by_role("button", name="Take").click()
    page.get_by_text("Made anew of the session of 1 item behind the").wait_for()
    both = {"user_id": (1, [user]), "history": (2, [clicked])}
    appended = by_protocol(service, **both)
    assert ids(page, "recommended") == appended
    page.get_by_label("is not read").check()
    page.get_by_text("Made anew of the session of 1 item alone, in place").wait_for()
    replaced = by_protocol(service, "replace", **both)
    assert ids(page, "recommended") == replaced
    assert len({tuple(before), tuple(appended), tuple(replaced)}) == 3
    page.close()


def test_a_filter_leaves_only_items_that_have_the_value(page, bundles, expected):
    page.locator("#filters select").first.wait_for()
    described = json.loads((bundles[0] / "attributes.json").read_text())["item"]
    names = page.locator("#filters select").evaluate_all("all => all.map(one => one.name)")
    assert names == [entry["name"] for entry in described]
    value = described[0]["vocabulary"][0]
    page.locator("#filters select").first.select_option(label=str(value))
    ask(page, expected.user_ids[3])
    table = pq.read_table(bundles[0] / "items.parquet")
    having = {
        str(item)
        for item, codes in zip(
            table["item_id"].to_pylist(), table[described[0]["name"]].to_pylist(), strict=True
        )
        if 1 in (codes if isinstance(codes, list) else [codes])
    }
    best = [item for item in texts(expected.ranked[3]) if item in having]
    known = set(texts(expected.known[3]))
    assert ids(page, "recommended") == [item for item in best if item not in known][:10]


def test_similar_items_are_those_of_the_largest_cosine(page, bundles, expected):
    page.locator("#popular li").first.wait_for()
    page.locator("#popular li").first.get_by_role("button", name="Similar").click()
    page.locator("#similar li").first.wait_for()
    vectors = load_file(bundles[0] / "vectors/items.safetensors")["vectors"].astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    row = expected.item_ids.tolist().index(expected.popular[0])
    cosines = vectors @ vectors[row]
    cosines[row] = -2
    order = np.argsort(-cosines, kind="stable")[:10]
    assert ids(page, "similar") == texts(expected.item_ids[order])
    page.get_by_role("button", name="Close").click()
    assert page.locator("#like").is_hidden()


def test_it_works_by_keyboard_and_keeps_its_place(page, expected):
    page.locator("#popular li").first.wait_for()
    page.locator("#user").focus()
    page.keyboard.type(str(expected.user_ids[3]))
    page.keyboard.press("Enter")
    page.locator("#recommended li").first.wait_for()
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        if (reached[-1] or "").startswith("Take "):
            break
    assert reached[-1].startswith("Take ")
    page.keyboard.press("Enter")
    page.locator("#clicked li").first.wait_for()
    page.get_by_text("the session's items are only left out").wait_for()
    where = page.evaluate("document.activeElement.closest('section')?.id")
    assert where == "answer"  # and not at the top again
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_in_either_scheme(browser, service, scheme):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.goto(f"http://127.0.0.1:{service.http}/")
    page.locator("#popular button").first.click()
    page.locator("#recommended li").first.wait_for()
    page.locator("#recommended button").nth(1).click()
    page.locator("#similar li").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for box in page.locator("button:visible").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    ):
        assert box >= 40  # a fingertip
    style = "getComputedStyle(document.documentElement).getPropertyValue"
    colour = {
        name: page.evaluate(f"{style}('--{name}')").strip()
        for name in ("ink", "faint", "paper", "card", "soft", "accent", "on-accent", "bad")
    }
    for text, ground in (
        *((text, ground) for text in ("ink", "faint") for ground in ("paper", "card")),
        *(("ink", "soft"), ("bad", "paper"), ("on-accent", "accent")),
    ):
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert (luminance(colour["paper"]) > 0.5) == (scheme == "light")
    page.close()


def luminance(colour):
    """Relative luminance of WCAG 2."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * one for one in digits) if len(digits) == 3 else digits
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_a_stranger_is_told_that_the_popular_is_shown(page, expected):
    ask(page, "nobody", "3")
    assert ids(page, "recommended") == texts(expected.popular[:3])
    assert "this user is unknown" in page.locator("#why").inner_text()
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


def test_a_late_answer_replaces_no_newer_one(page, expected):
    ask(page, expected.user_ids[0])
    first, second = ids(page, "recommended")[:2]
    held = []

    def hold_the_first(route):
        if f"item={first}&" in route.request.url:
            held.append(route)
        else:
            route.continue_()

    page.route("**/explore/similar?*", hold_the_first)
    similar = page.locator("#recommended").get_by_role("button", name="Similar")
    similar.nth(0).click()
    similar.nth(1).click()
    page.locator("#like").wait_for()
    title, shown = page.locator("#like-title").inner_text(), ids(page, "similar")
    with page.expect_response(lambda response: f"item={first}&" in response.url):
        held[0].fulfill(status=503, json={"error": "too late"})
    page.wait_for_timeout(200)
    assert page.locator("#like-title").inner_text() == title
    assert ids(page, "similar") == shown
    assert second not in shown
    assert page.locator("#message").inner_text() == ""


def test_a_filter_of_a_large_number_is_asked_for_by_all_its_digits(page, expected):
    large = 2**53 + 1  # a double is 2**53 or 2**53 + 2
    sent = []

    def start(route):
        answer = route.fetch().json()
        answer["filters"] = [{"name": "shop", "values": [large, 7]}]
        route.fulfill(json=answer)

    page.route("**/explore/start?*", start)
    page.on("request", lambda request: sent.append(request.url))
    page.reload()
    choice = page.get_by_label("Shop")
    choice.select_option(label=str(large))
    ask(page, expected.user_ids[0])
    queries = [urllib.parse.parse_qs(urllib.parse.urlsplit(url).query) for url in sent]
    assert queries[-1]["filter"] == [f'{{"shop":[{large}]}}']
    choice.select_option(label="7")
    answered(page)
    queries = [urllib.parse.parse_qs(urllib.parse.urlsplit(url).query) for url in sent]
    assert queries[-1]["filter"] == ['{"shop":[7]}']
