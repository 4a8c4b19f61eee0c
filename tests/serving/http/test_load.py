"""What a service does under more load than it can answer."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from cadc_rec.serving.http.health import HealthPort
from tests import zygote

SCRIPT = Path(__file__).with_name("load_of_requests.py")


@pytest.mark.parametrize(
    "name",
    [
        "concurrency_follows_the_service_time",
        "what_cannot_be_answered_in_time_is_refused",
        "a_measurement_alone_refuses_no_one_for_ever",
        "small_ones_do_not_wait_for_large_ones",
        "answers_that_are_not_sent_are_bounded",
        "pieces_take_turns",
        "lists_that_are_put_together_item_by_item_take_turns",
        "what_runs_a_program_does_not_run_in_the_loop",
        "who_comes_too_late_costs_no_call",
        "lower_priorities_come_first",
        "who_is_cut_off_by_a_shutdown_is_told",
        "the_deadline_is_that_of_recommendations_alone",
        "a_full_service_refuses_before_it_reads",
        "a_turn_of_the_loop_begins_no_more_than_it_can_answer",
        "who_goes_while_it_waits_is_forgotten_and_who_sends_more_is_answered_in_order",
        "who_asks_again_at_once_is_refused_again_after_a_while",
        "who_sends_without_waiting_is_refused_no_sooner",
        "refusals_take_a_small_share_of_the_time",
        "answers_that_come_in_bursts_are_measured_together",
        "one_slow_answer_refuses_no_one",
        "a_full_journal_makes_room_whatever_the_letters_of_its_ids",
        "requests_are_whole_or_not",
        "urgent_pieces_take_turns_too",
        "pieces_are_the_whole_answer",
        "the_client_chooses_the_compression",
    ],
)
def test_load(name):
    process = zygote.start([SCRIPT, name], zygote.environment(), script=True)
    assert process.wait(60) == 0, process.said


def ask(port, path, document=None, **headers):
    data = None if document is None else json.dumps(document).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, names)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


INFER = "/v2/models/recommender/infer"


def of_users(users, **parameters):
    tensor = {"name": "user_id", "shape": [len(users)], "datatype": "INT64", "data": users}
    return {"inputs": [tensor], "parameters": parameters}


def refusals(port, protocol, reason):
    text = ask(port, "/metrics")[2].decode()
    wanted = f'cadc_rec_refusals_total{{protocol="{protocol}",reason="{reason}"}}'
    return sum(float(x.split()[-1]) for x in text.splitlines() if x.startswith(wanted))


def test_a_deadline_that_cannot_be_kept_is_refused_and_counted(service):
    import tritonclient.grpc as triton

    before = [refusals(service.http, protocol, "deadline") for protocol in ("rest", "grpc")]
    status, headers, body = ask(service.http, INFER, of_users([1], timeout=1))
    assert (status, headers["retry-after"]) == (429, "1")
    assert "longer than the deadline" in json.loads(body)["error"]
    client = triton.InferenceServerClient(f"127.0.0.1:{service.grpc}")
    user = triton.InferInput("user_id", [1], "INT64")
    user.set_data_from_numpy(np.array([1]))
    with pytest.raises(InferenceServerException) as refusal:
        client.infer("recommender", [user], timeout=1)
    assert refusal.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    client.infer("recommender", [user], timeout=20_000_000)
    client.close()
    after = [refusals(service.http, protocol, "deadline") for protocol in ("rest", "grpc")]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
    assert ask(service.http, INFER, of_users([1]), x_deadline_ms="20000")[0] == 200
    status, _, body = ask(service.http, INFER, of_users([1]), x_deadline_ms="soon")
    assert (status, "x-deadline-ms: 'soon' is not a whole" in body.decode()) == (400, True)


def test_a_large_answer_comes_in_pieces_and_compressed_if_the_client_takes_that(service):
    document = of_users(list(range(1024)), k=40)
    status, headers, plain = ask(service.http, INFER, document)
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    _, headers, packed = ask(service.http, INFER, document, accept_encoding="gzip")
    assert (headers["content-encoding"], headers["vary"]) == ("gzip", "accept-encoding")
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 2
    shapes = {one["name"]: one["shape"] for one in json.loads(plain)["outputs"]}
    assert shapes == {
        "item_id": [1024, 40], "score": [1024, 40], "count": [1024], "source": [1024],
    }  # fmt: skip


def test_a_large_answer_over_grpc_is_the_same(service):
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{service.grpc}")
    user = triton.InferInput("user_id", [1024], "INT64")
    user.set_data_from_numpy(np.arange(1024))
    found = client.infer("recommender", [user], parameters={"k": 40}).as_numpy("item_id")
    client.close()
    document = json.loads(ask(service.http, INFER, of_users(list(range(1024)), k=40))[2])
    assert found.ravel().tolist() == document["outputs"][0]["data"]


@pytest.mark.slow
def test_the_collector_does_not_look_through_libraries(bundles):
    looks = (
        "import asyncio, gc, sys\n"
        "from pathlib import Path\n"
        "from cadc_rec.serving.http.loaded import Loaded\n"
        "loaded = Loaded(Path(sys.argv[1]))\n"
        "asyncio.run(loaded.load_ahead())\n"
        "print(len(gc.get_objects()), gc.get_freeze_count(), 'sympy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", looks, bundles[0]], capture_output=True, text=True, check=True
    )
    mine, apart, has_program = done.stdout.split()
    assert has_program == "True"  # its libraries are a quarter of all objects
    assert 20 * int(mine) < int(apart)


def test_silent_connections_do_not_shut_the_port_for_health():
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    health, port = HealthPort(listener, lambda: True), listener.getsockname()[1]
    with contextlib.ExitStack() as stack:
        stack.callback(health.close)
        for _ in range(2):
            for _ in range(100):
                silent = socket.create_connection(("127.0.0.1", port), timeout=30)
                stack.enter_context(silent)
            assert ask(port, "/v2/health/live")[::2] == (200, b'{"live": true}')
        assert silent.recv(10) == b""  # after a second


def test_a_service_may_give_fewer_at_once_and_has_a_port_for_health(start, bundles):
    service = start(bundles[0], "--max-places", "100", "--health-port", "0")
    status, _, body = ask(service.http, INFER, of_users(list(range(30)), k=4))
    assert status == 400
    assert json.loads(body)["error"] == (
        "30 users times k = 4 are 120 recommendations; at most 100 are given at once: ask for "
        "fewer users or a smaller k."
    )
    port = int(service.said(r"health at http://127\.0\.0\.1:(\d+)")[1])
    for each in (port, service.http):
        assert ask(each, "/v2/health/live")[::2] == (200, b'{"live": true}')
        assert ask(each, "/v2/health/ready")[::2] == (200, b'{"ready": true}')
    assert ask(port, "/metrics")[0] == 404
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"x" * 10_000)  # no head ends here
        assert connection.recv(100) == b""
