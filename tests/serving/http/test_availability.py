"""What a service is told to withhold is no answer, after a kill and with newer bundles too."""

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.journal import Journal
from cadc_rec.serving.http.settings import ServiceSettings
from cadc_rec.serving.http.withheld import Withheld
from cadc_rec.serving.predict.predictor import Predictor
from tests.serving.http.conftest import KEY, Service

pytestmark = pytest.mark.slow

PATH = "/v2/models/recommender/availability"


def tell(service, document, key=KEY, path=PATH):
    """The status and what the service says."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{service.http}{path}", body, headers)
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def best(service, user, k=10):
    inputs = [{"name": "user_id", "shape": [1], "datatype": "INT64", "data": [int(user)]}]
    document = {"inputs": inputs, "parameters": {"k": k}, "outputs": [{"name": "item_id"}]}
    status, answer = tell(service, document, path="/v2/models/recommender/infer")
    assert status == 200, answer
    return answer["outputs"][0]["data"]


@pytest.fixture
def place(bundles, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(bundles[0])
    return link


def test_withheld_items_are_no_answer_until_they_are_released(start, place, expected):
    service = start(place, key=KEY)
    user, ranked = expected.user_ids[0], expected.ranked[0].tolist()
    assert best(service, user) == ranked[:10]
    out = [ranked[0], ranked[4]]
    assert tell(service, {"withhold": [*out, out[0], 987654]}) == (
        200, {"model_name": "recommender", "withheld": 3, "unknown_items": 1},
    )  # fmt: skip
    left = [item for item in ranked if item not in out]
    assert best(service, user) == left[:10]
    service.process.send_signal(signal.SIGKILL)
    service.process.wait(30)
    again = start(place, "--watch", "0.2", key=KEY)
    assert best(again, user) == left[:10]
    other = start(place, key=KEY)  # another process of the same bundle
    assert tell(other, {"release": out[:1], "withhold": out[:1]})[1]["withheld"] == 2
    left = [item for item in ranked if item != out[1]]
    assert best(other, user) == left[:10]
    for _ in range(100):
        if best(again, user) == left[:10]:
            break
        time.sleep(0.1)
    assert best(again, user) == left[:10], "the first process follows"


def test_services_with_journals_side_by_side_share_none(tmp_path):
    bundle = tmp_path / "bundle.v1"
    assert ServiceSettings(bundle).availability == tmp_path / "bundle.v1.availability"
    for name in ("shop.a", "shop.b", "shop.availability"):
        settings = ServiceSettings(bundle, events=tmp_path / name)
        assert settings.availability == tmp_path / f"{name}.availability"
        assert settings.availability != settings.journal


def test_they_stay_withheld_with_a_newer_bundle(start, place, bundles, expected):
    service = start(place, "--watch", "0", key=KEY)
    first = best(service, expected.user_ids[0], 3)
    place.unlink()
    place.symlink_to(bundles[1])
    load = "/v2/repository/models/recommender/load"
    assert tell(service, b"", path=load)[0] == 200
    newer = best(service, expected.user_ids[0], 12)
    assert tell(service, {"withhold": [newer[1], first[0]]})[0] == 200
    place.unlink()
    place.symlink_to(bundles[0])
    assert tell(service, b"", path=load)[0] == 200
    wanted = [i for i in expected.ranked[0].tolist() if i not in (newer[1], first[0])]
    assert best(service, expected.user_ids[0], 3) == wanted[:3]


def test_the_journal_keeps_what_was_said_last_when_it_is_full(bundles, tmp_path):
    predictor = Predictor.load(bundles[0])
    items = predictor.items.ids.tolist()
    withheld = Withheld(tmp_path / "journal", most_bytes=1500)
    withheld.onto(predictor)
    for _ in range(40):
        asyncio.run(withheld.tell(items[:3], []))
        asyncio.run(withheld.tell([], items[:2]))
    assert asyncio.run(withheld.tell(items[5:6], [])) == (2, 0)
    assert (tmp_path / "journal").stat().st_size <= 1500
    assert predictor.no_answer.tolist() == [2, 5]
    fresh = Predictor.load(bundles[0])
    Withheld(tmp_path / "journal").onto(fresh)
    assert fresh.no_answer.tolist() == [2, 5]
    Journal(tmp_path / "other", "events").append([{"item": 1}])
    with pytest.raises(CadcError, match="is no journal of availability"):
        Withheld(tmp_path / "other").onto(fresh)
    withheld.close()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"withhold": ["x"]}, "item ids are whole numbers in this bundle; got 'x'"),
        ({"withhold": [1.5]}, "withhold[0]"),
        ({"withdraw": [1]}, "withdraw: extra inputs are not permitted"),
        ({"withhold": list(range(10_001))}, "at most 10000 items"),
        (b"{", "the body"),
    ],
)
def test_what_cannot_be_withheld_is_refused(start_once, document, message):
    status, answer = tell(start_once, document)
    assert status == 400
    assert message in answer["error"]


@pytest.fixture(scope="module")
def start_once(bundles, tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("availability"), bundles[0], key=KEY)
    yield running
    assert running.stop() == 0


def test_only_who_has_the_key_of_a_service_with_one_may_withhold(start_once, start, bundles):
    assert tell(start_once, {"withhold": [1]}, key="wrong key of nobody")[0] == 401
    open_to_all = start(bundles[1])
    status, answer = tell(open_to_all, {"withhold": [1]}, key=None)
    assert status == 403
    assert "start the service with an API key" in answer["error"]
