"""A stream is followed, and the running service takes each delta's bundle while it answers."""

import json

import pytest

from tests.serving.http.conftest import KEY
from tests.serving.http.test_reload import Load, ask


def rows(folder, name, pairs):
    folder.mkdir(exist_ok=True)
    lines = [f"{user},{item},{1_600_000_000 + n}" for n, (user, item) in enumerate(pairs)]
    draft = folder / f"{name}.tmp"
    draft.write_text("\n".join(["user_id,item_id,timestamp", *lines, ""]))
    draft.rename(folder / f"{name}.csv")


@pytest.mark.timeout(900)  # four commands
def test_each_batch_reaches_the_service_and_no_request_fails(start, tiny, spawn, tmp_path):
    work, inbox, out = (tmp_path / name for name in ("work", "inbox", "bundles"))
    process = spawn("run", tiny, "--workdir", work)
    assert process.wait(300) == 0, process.said
    follow = ("follow", tiny, "--workdir", work, "--from", inbox, "--export", out)
    follow += ("--precision", "none", "--once", "--json", "--keep", "2")
    inbox.mkdir()
    process = spawn(*follow)  # nothing has come: the run's own bundle
    assert process.communicate(timeout=300)[0] == "", process.said
    assert process.returncode == 0, process.said
    service = start(out / "current", "--watch", "0", key=KEY)
    before = ask(service)[1]["model_version"]
    rows(inbox, "a", [(0, 901), (1, 901), (2, 902)])
    rows(inbox, "b", [(3, 901), (4, 903)])
    told = ("--notify", f"http://127.0.0.1:{service.http}")
    with Load(service) as load:
        process = spawn(*follow, *told, CADC_REC_API_KEY=KEY)
        made, _ = process.communicate(timeout=300)
    assert process.returncode == 0, process.said
    batches = [json.loads(line) for line in made.splitlines()]
    assert [(one["update"], one["told"]) for one in batches] == [(1, True), (2, True)]
    manifest = json.loads((out / "current" / "manifest.json").read_text())
    assert ask(service)[1]["model_version"] == manifest["fingerprint"][:12] != before
    assert {status for status, _ in load.answers} == {200}
