"""Several processes serve one bundle as one service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.serving.http.conftest import KEY

INFER = "/v2/models/recommender/infer"
USER = {"inputs": [{"name": "user_id", "shape": [1], "datatype": "INT64", "data": [0]}]}


def ask(service, path=INFER, document=USER):
    data = None if document is None else json.dumps(document).encode()
    headers = {"authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"http://127.0.0.1:{service.http}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def children(pid):
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def versions(service, times=40):
    """Of answers on new connections, which the system deals out among the workers."""
    return {json.loads(ask(service)[1])["model_version"] for _ in range(times)}


@pytest.mark.timeout(600)
def test_workers_are_one_service(start, bundles, tmp_path):
    """One test for all of it, for each start loads the libraries anew."""
    place = tmp_path / "current"
    place.symlink_to(bundles[0])
    arguments = ("--workers", "2", "--watch", "0", "--health-port", "0")
    service = start(place, *arguments, key=KEY, real=True)
    first, second = (
        json.loads((path / "manifest.json").read_text())["fingerprint"][:12] for path in bundles
    )
    workers = children(service.pid)
    assert len(workers) == 2

    # Metrics are those of both.
    for _ in range(50):
        assert ask(service)[0] == 200
    text = ask(service, "/metrics", None)[1]
    assert 'cadc_rec_requests_total{outcome="answered",protocol="rest"} 50.0' in text
    assert "cadc_rec_waiting_requests 0.0" in text

    # A load over the network is one in both.
    place.unlink()
    place.symlink_to(bundles[1])
    status, text = ask(service, "/v2/repository/models/recommender/load", {})
    assert status == 200, text + service.log.read_text()
    assert versions(service) == {second}
    damaged = tmp_path / "damaged"
    shutil.copytree(bundles[0], damaged)
    (damaged / "known.safetensors").write_bytes(b"")
    place.unlink()
    place.symlink_to(damaged)
    status, text = ask(service, "/v2/repository/models/recommender/load", {})
    assert (status, "The old bundle goes on answering." in text) == (400, True)
    assert versions(service) == {second}

    # One that dies is started again; connections to it wait for that.
    place.unlink()
    place.symlink_to(bundles[0])
    victim = min(workers)
    os.kill(victim, signal.SIGKILL)
    service.said("ended by signal 9; another takes its place")
    until(lambda: len(children(service.pid)) == 2)
    assert victim not in children(service.pid)
    assert versions(service) == {first, second}  # the new one has what lies there now

    # All stop with the parent.
    last = children(service.pid)
    assert service.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in last)


def test_a_bundle_that_no_worker_can_load_is_refused_in_one_sentence(start, bundles, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(bundles[0], damaged)
    (damaged / "self_test.json").write_text("{}")
    with pytest.raises(AssertionError) as told:
        start(damaged, "--workers", "2", real=True)
    assert "self_test.json changed since it was exported" in str(told.value)
    assert "Traceback" not in str(told.value)
