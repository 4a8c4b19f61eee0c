"""The access log and the trace of a request: what they say, and that they name no user."""

import json
import queue
import re
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client import REGISTRY
from tritonclient.utils import InferenceServerException

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.access_log import AccessLog, _Bounded, access_log
from cadc_rec.serving.http.observed import Observed
from tests.serving.http.conftest import KEY

STRANGER = 987654321
INFER = "/v2/models/recommender/infer"
EMBED = "/v2/models/recommender-embed/infer"


def ask(service, path, users=None, key=KEY, **headers):
    body = users and json.dumps(
        {"inputs": [{"name": "user_id", "shape": [len(users)], "datatype": "INT64", "data": users}]}
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.http}{path}",
        body.encode() if body else None,
        {"authorization": f"Bearer {key}", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def ask_grpc(service, user, k=3):
    with triton.InferenceServerClient(f"127.0.0.1:{service.grpc}") as client:
        users = triton.InferInput("user_id", [1], "INT64")
        users.set_data_from_numpy(np.array([user]))
        headers = {"authorization": f"Bearer {KEY}"}
        client.infer("recommender", [users], parameters={"k": k}, headers=headers)


def lines(file, n):
    """The first n lines, once they are there."""
    for _ in range(200):
        found = file.read_text().splitlines() if file.exists() else []
        if len(found) >= n:
            return [json.loads(line) for line in found]
        time.sleep(0.05)
    raise AssertionError(found)


def test_each_request_is_a_line_that_names_no_user(start, bundles, tmp_path):
    file = tmp_path / "access.jsonl"
    service = start(bundles[0], "--access-log", file, key=KEY)
    version = json.loads((bundles[0] / "manifest.json").read_text())["fingerprint"][:12]
    began = time.time()
    assert ask(service, INFER, [STRANGER, 1]) == 200
    assert ask(service, INFER, [STRANGER], key="wrong") == 401
    assert ask(service, f"/explore?user={STRANGER}&k=2") == 200
    assert ask(service, "/nowhere") == 404
    ask_grpc(service, STRANGER)
    with pytest.raises(InferenceServerException):
        ask_grpc(service, STRANGER, k=0)
    assert ask(service, EMBED, [STRANGER, 1, 2]) == 200
    found = lines(file, 7)
    call = "/inference.GRPCInferenceService/ModelInfer"
    assert [
        tuple(line[name] for name in ("protocol", "path", "status", "users", "bundle"))
        for line in found
    ] == [
        ("rest", INFER, 200, 2, version),
        ("rest", INFER, 401, None, None),
        ("rest", "/explore", 200, 1, version),
        ("rest", "/nowhere", 404, None, None),
        ("grpc", call, "OK", 1, version),
        ("grpc", call, "INVALID_ARGUMENT", None, None),
        ("rest", EMBED, 200, 3, version),
    ]
    for line in found:
        moment = datetime.fromisoformat(line["time"]).timestamp()
        assert began - 1 <= moment <= time.time()
        assert 0 <= line["seconds"] < time.time() - began
    assert str(STRANGER) not in file.read_text()

    file.rename(tmp_path / "access.jsonl.1")  # as rotation does
    assert ask(service, INFER, [1]) == 200
    assert len(lines(file, 1)) == 1

    with grpc.insecure_channel(f"127.0.0.1:{service.grpc}") as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        for key, code in (("wrong", "UNAUTHENTICATED"), (KEY, "UNIMPLEMENTED")):
            headers = [("authorization", f"Bearer {key}")]
            with pytest.raises(grpc.RpcError) as refusal:
                list(stream(iter([b""]), timeout=30, metadata=headers))
            assert refusal.value.code().name == code
    assert service.stop() == 0


def test_it_goes_to_standard_output_and_is_whole_at_the_end(capsys):
    with access_log("-") as written:
        for n in range(500):
            written.write(Observed("rest", f"/{n}", status=200))
    paths = [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]
    assert paths == [f"/{n}" for n in range(500)]


def test_lines_that_do_not_fit_are_counted_and_nobody_waits():
    name = "cadc_rec_access_log_lost_lines_total"
    before = REGISTRY.get_sample_value(name)
    log = AccessLog(_Bounded(queue.Queue(3)))  # whose reader does not come
    for _ in range(10):
        log.write(Observed("rest", "/"))
    assert REGISTRY.get_sample_value(name) - before == 7


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    with (
        pytest.raises(CadcError, match=r"--access-log .*: cannot be written .No such file"),
        access_log(str(tmp_path / "no" / "folder")),
    ):
        pass


def test_a_full_disk_costs_lines_and_no_service(caplog):
    with access_log("/dev/full") as written:
        for _ in range(3):
            written.write(Observed("rest", "/"))
    assert caplog.text.count("the access log cannot be written") == 1


def test_a_request_is_a_span_of_its_callers_trace(start, bundles):
    instrument = Path(sys.executable).with_name("opentelemetry-instrument")
    exporters = ("--traces_exporter", "console", "--metrics_exporter", "none")
    service = start(
        bundles[0], real=True, under=(instrument, *exporters, "--logs_exporter", "none")
    )
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    assert ask(service, INFER, [1, 2], traceparent=f"00-{trace}-{caller}-01") == 200
    ask_grpc(service, 1)
    assert service.stop() == 0
    said = (service.log.parent / "stdout").read_text()
    spans = [json.loads(one) for one in re.findall(r"^\{.*?^\}", said, re.MULTILINE | re.DOTALL)]
    first, second = (span for span in spans if "SERVER" in span["kind"])
    assert first["name"] == "POST /v2/models/{model_name}/infer"
    assert first["context"]["trace_id"] == f"0x{trace}"
    assert first["parent_id"] == f"0x{caller}"
    assert first["attributes"]["http.response.status_code"] == 200
    assert second["name"] == "/inference.GRPCInferenceService/ModelInfer"
    version = json.loads((bundles[0] / "manifest.json").read_text())["fingerprint"][:12]
    for span, users in ((first, 2), (second, 1)):
        assert span["attributes"]["cadc_rec.users"] == users
        assert span["attributes"]["cadc_rec.bundle"] == version
