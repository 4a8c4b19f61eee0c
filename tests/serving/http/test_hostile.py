"""What a hostile client gets: an error of the protocol, and nothing else happens."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.hostile import attack, resident_kib
from tests.serving.http.conftest import KEY
from tests.share import share

INFER = b"POST /v2/models/recommender/infer HTTP/1.1\r\nhost: x\r\n"
_SCHEMATHESIS = Path(__file__).with_name("schemathesis.toml")
NESTED = '{"not": ' * 9 + '{"genres": ["x"]}' + "}" * 9
USER = {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [0]}


def exchange(service, sent, seconds=30):
    """What a raw socket gets back for these bytes."""
    with socket.create_connection(("127.0.0.1", service.http), timeout=seconds) as connection:
        for part in [sent] if isinstance(sent, bytes) else sent:
            connection.sendall(part)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < _length(answer):
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


def _length(answer):
    for line in answer.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def post(body, path="/v2/models/recommender/infer", headers=""):
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def with_inputs(*inputs, **more):
    return json.dumps({"inputs": list(inputs), **more}).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body: invalid JSON: EOF while parsing"),
        (b"{", "the body: invalid JSON"),
        (b"\xff\xfe", "the body: invalid JSON"),
        (b"[" * 200_000, "the body: invalid JSON: recursion limit exceeded"),
        (b"[]", "the body: input should be an object."),
        (b"{}", "inputs: field required."),
        (b'{"inputs": [1]}', "inputs[0]: input should be an object; got 1."),
        (with_inputs(), "input 'user_id' is missing; without one give a 'history', or attributes"),
        (with_inputs({**USER, "name": 5}), "inputs[0].name: input should be 'user_id', '"),
        (with_inputs({**USER, "name": "x"}), "begin with 'context_' or 'attribute_'; got 'x'."),
        (with_inputs(USER, USER), "inputs: the same name is given twice."),
        (with_inputs({**USER, "shape": [0], "data": []}), "input 'user_id' is empty"),
        (with_inputs({**USER, "shape": [2]}), "1 elements do not fill the shape [2]."),
        (with_inputs({**USER, "shape": [-1]}), "inputs[0].shape[0]: input should be greater"),
        (with_inputs({**USER, "shape": [2**31 - 1] * 2}), "at most 1024 are taken."),
        (with_inputs({**USER, "shape": [1, 1, 1]}), "inputs[0].shape: list should have at most 2"),
        (with_inputs({**USER, "shape": "x"}), "input should be a valid array; got 'x'."),
        (with_inputs({**USER, "datatype": "FP32"}), "'UINT64', 'FP64' or 'BYTES'; got 'FP32'."),
        (with_inputs({**USER, "data": [1.5]}), "1.5 is no INT64."),
        (with_inputs({**USER, "data": [True]}), "True is no INT64."),
        (with_inputs({**USER, "data": [2**63]}), "is no INT64."),
        (with_inputs({**USER, "data": "0"}), "inputs[0].data: input should be a valid array"),
        (with_inputs({**USER, "datatype": "BYTES", "data": ["x" * 999]}), "longer than 256 bytes"),
        (with_inputs(USER, parameters={"k": 0}), "'k' = 0 is not between 1 and 40."),
        (with_inputs(USER, parameters={"k": 41}), "'k' = 41 is not between 1 and 40."),
        (with_inputs(USER, parameters={"k": "5"}), "k: input should be a valid integer; got '5'."),
        (with_inputs(USER, parameters={"q": 1}), "parameter 'q': unknown"),
        (with_inputs(USER, parameters={"exclude_seen": 1}), "exclude_seen: input should be a"),
        (with_inputs(USER, parameters={"filter": "x"}), "parameters.filter: invalid JSON"),
        (with_inputs(USER, parameters={"filter": "[]"}), "filter: input should be an object"),
        (with_inputs(USER, parameters={"filter": '{"x": ["y"]}'}), "items have no attribute 'x'"),
        (with_inputs(USER, parameters={"filter": NESTED}), "nested more than 8 times"),
        (with_inputs(USER, parameters={"diversity": 7}), "diversity: input should be less than or"),
        (with_inputs(USER, parameters={"max_per": '{"genres": "x"}'}), "max_per.genres: input"),
        (with_inputs(USER, outputs=[{"name": "x"}]), "outputs[0].name: input should be 'item_id'"),
        (with_inputs(USER, id=7), "id: input should be a valid string; got 7."),
        (with_inputs(USER, {"name": "history", "shape": [2, 1], "datatype": "INT64",
                            "data": [1, 2]}), "the shape is [1, at most 1000] for 1 users"),
    ],
)  # fmt: skip
def test_every_mistake_in_a_body_is_named(service, body, says):
    status, answer = exchange(service, post(body))
    assert status == 400
    assert says in answer["error"]
    assert list(answer) == ["error"]


@pytest.mark.parametrize(
    ("length", "says"),
    [("-1", "is not a length"), ("x", "is not a length"), ("99999", "but the body is shorter")],
)
def test_lengths_that_lie_are_found_out(service, length, says):
    sent = post(with_inputs(USER), headers=f"inference-header-content-length: {length}\r\n")
    status, answer = exchange(service, sent)
    assert (status, says in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "recommender%00", "x" * 9000]
)
def test_names_that_climb_lead_nowhere(service, name):
    for ending in ("infer", "load"):
        folder = "repository/models" if ending == "load" else "models"
        status, answer = exchange(service, post(with_inputs(USER), f"/v2/{folder}/{name}/{ending}"))
        assert status in (403, 404, 405)
        assert answer["error"]


def test_a_hundred_megabytes_are_refused_and_not_kept(service):
    past = {"name": "history", "shape": [1, 1], "datatype": "INT64", "data": [0]}
    # Waits for what is loaded beside the first answers, and grows the memory, too.
    assert exchange(service, post(with_inputs(USER, past)), 120)[0] == 200
    before = resident_kib(service.pid)
    part = b"x" * (1 << 20)
    head = INFER + b"content-length: 104857600\r\n\r\n"
    status, answer = exchange(service, [head, *[part] * 100])
    assert (status, "the body is larger than 2097152 bytes" in answer["error"]) == (413, True)
    assert resident_kib(service.pid) - before < 20_000
    chunks = [b"100000\r\n" + part + b"\r\n"] * 100
    head = INFER + b"transfer-encoding: chunked\r\n\r\n"
    status, _ = exchange(service, [head, *chunks, b"0\r\n\r\n"])
    assert status == 413
    assert resident_kib(service.pid) - before < 20_000


def test_who_waits_for_leave_is_told_before_sending(service):
    head = INFER + b"expect: 100-continue\r\ncontent-length: 104857600\r\n\r\n"
    assert exchange(service, head)[0] == 413


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "the headers did not arrive whole within 10 seconds."),
        (INFER, "the headers did not arrive whole"),
        (post(with_inputs(USER))[:-5], "the body did not arrive whole within 10 seconds."),
    ],
)
def test_a_client_that_stops_talking_is_let_go(service, sent, says):
    began = time.monotonic()
    status, answer = exchange(service, sent)
    assert (status, says in answer["error"]) == (408, True)
    assert 8 < time.monotonic() - began < 25


def test_headers_without_end_are_cut_off(service):
    line = b"x: " + b"y" * 1000 + b"\r\n"
    try:
        status, _ = exchange(service, [b"GET / HTTP/1.1\r\nhost: x\r\n", *[line] * 200])
    except (ConnectionError, IndexError, ValueError):
        status = 431  # the connection was reset under the sender
    assert status == 431


@pytest.mark.timeout(1800)
def test_a_hundred_thousand_hostile_requests_change_nothing(service):
    address = "127.0.0.1", service.http, service.grpc
    asyncio.run(attack(*address, 1000, seed=0))
    held = [resident_kib(service.pid)]
    for seed in share("hostile requests").cases({"seed": range(1, 26)}):
        for part in range(4):
            found, _ = asyncio.run(attack(*address, 1000, seed=4 * seed + part))
            assert found.faults == []
            held.append(resident_kib(service.pid))
    # Each thread keeps memory of its own once it has had work; what leaks grows every time.
    assert min(after - before for before, after in pairwise(held)) < 5_000
    assert held[-1] < 1.1 * held[0]


def test_answers_are_those_of_the_openapi_description(start, bundles, tmp_path):
    service = start(bundles[0], key=KEY)
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", _SCHEMATHESIS, "run",
         "--max-examples", "10", "--seed", "1",
         "--exclude-path-regex", "/load$",  # each would load the bundle anew
         "--header", f"Authorization: Bearer {KEY}",
         f"http://127.0.0.1:{service.http}/openapi.json"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
