"""Hostile requests, slow readers, bombs, reloads and changes at once: no good request fails."""

import asyncio

import pytest

from benchmarks.soak import Target, soaked
from tests.serving.http.conftest import KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_nothing_that_happens_beside_it_fails_a_good_request(start, bundles, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(bundles[0])
    # On a busy machine more work may wait than is let wait by itself.
    service = start(link, "--watch", "0", "--max-wait", "60", key=KEY)
    target = Target(service.http, service.grpc, service.pid, KEY, link, (bundles[0], bundles[1]))
    report = asyncio.run(soaked(target, requests=2000, reloads=4, changes=40, warm=500))
    assert report.failed == []
    assert report.hostile.faults == []
    assert report.server_errors == 0
    assert len(report.taken) > 20
    done = report.counts
    assert (done["reloads"], done["items withheld or released"]) == (4, 40)
    assert done["items put or removed"] == 40
    assert min(done["gzip bodies: 413"], done["gzip bodies: 200"], done["answers read slowly: 200"])
    assert report.grown < 0.1, report.memory
    assert "defect" not in service.log.read_text()
