"""Artifacts in an object store: seen whole or not at all, on every machine, whatever breaks."""

import http.server
import json
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.store.artifact import committed, run_stage
from cadc_rec.store.remote import cache, lease, origin
from cadc_rec.store.remote.address import Objects, parse
from tests.store.remote.conftest import bytes_of, names

FILES = {"user.bin": b"u" * 3000, "part/0.bin": b"p" * 100}


def fill(files=FILES, calls=None):
    def build(draft):
        if calls is not None:
            calls.append(draft.path)
        for name, data in files.items():
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_bytes(data)

    return build


def refuse(_):
    raise AssertionError("made again")


def make(workdir, build, **more):
    return run_stage(workdir, "train", {"seed": 0}, {}, build, **more)


def age_all(monkeypatch):
    monkeypatch.setattr(origin, "SWEEP_SECONDS", -1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://key:secret@bucket/work", "holds no user, password"),
        ("s3://key:se/cret@bucket/work", "holds no user, password"),
        ("gs://se/cret@bucket/work", "holds no user, password"),
        ("s3://bucket/work?X-Amz-Signature=1", "holds no user, password"),
        ("abfs://container:secret@account/work", "holds no user, password"),
        ("s3://", "names no bucket"),
        ("ftp://host/work", "no store that is known"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused_and_secrets_are_not_repeated(text, said):
    with pytest.raises(CadcError, match=said) as raised:
        parse(text)
    assert not any(part in str(raised.value) for part in ("secret", "cret@", "key:"))
    assert "Signature" not in str(raised.value)


def test_an_address_has_one_form_and_file_addresses_are_paths(tmp_path):
    assert parse("s3:/bucket/work/") == "s3://bucket/work"  # as pathlib writes it
    assert parse("abfs://container@account/work") == "abfs://container@account/work"
    assert parse(f"file://{tmp_path}/my%20work") == tmp_path / "my work"


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CADC_REC_CACHE", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(CadcError, match=r"pip install 'cadc-rec\[storage\]'"):
        make(origin.work_folder("s3://bucket/work"), refuse)


def test_what_one_machine_makes_another_one_finds_with_the_same_bytes(bucket, machine):
    work = f"{bucket}/work"
    made = make(machine("a", work), fill())
    there = machine("b", work)
    assert [folder.name for folder in committed(there, "train")] == [made.path.name]
    found = make(there, refuse)
    assert found.cached
    assert found.path != made.path
    assert bytes_of(found.path) == FILES
    assert found.manifest == made.manifest


def test_a_manifest_is_beside_files_that_are_named_after_their_bytes(bucket, machine, objects):
    made = make(machine("a", f"{bucket}/work"), fill())
    prefix = f"train/{made.path.name}"
    shas = {name: entry["sha256"] for name, entry in made.manifest["files"].items()}
    wanted = [f"{prefix}/manifest.json", *(f"{prefix}/{sha}/{name}" for name, sha in shas.items())]
    assert names(objects) == sorted(wanted)  # and no lock is left


def test_of_two_writers_the_first_one_counts_for_both(bucket, machine, monkeypatch):
    def take(lease):  # as after a pause in which the other one took it for dead
        lease._version = lease.objects.put(lease.object, lease._body())
        return True

    monkeypatch.setattr(lease.Lease, "take", take)
    work = f"{bucket}/work"
    first = {}

    def build(draft):
        fill({"user.bin": b"second"})(draft)
        first["made"] = make(machine("b", work), fill())
        machine("a", work)

    got = make(machine("a", work), build)
    assert bytes_of(got.path) == FILES
    assert got.fingerprint == first["made"].fingerprint


def test_a_second_job_is_refused_while_the_first_works_and_takes_over_when_it_is_dead(
    bucket, machine, monkeypatch
):
    work = f"{bucket}/work"
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    seen = []

    def build(draft):
        fill()(draft)
        with pytest.raises(BusyError, match="another job is making the same train artifact"):
            make(machine("b", work), refuse)
        seen.append(True)
        machine("a", work)

    make(machine("a", work), build)
    assert seen
    # A holder that never renews: its process was killed. The local clock is hours off.
    dead = lease.Lease(Objects(work), "train-x")
    assert dead.take()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert not lease.Lease(Objects(work), "train-x").take()
    time.sleep(2.1)
    assert lease.Lease(Objects(work), "train-x").take()


def test_a_lease_is_renewed_while_its_holder_works(bucket, machine, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    objects = Objects(f"{bucket}/work")
    with lease.leased(objects, "train-x") as held:
        assert held is not None
        time.sleep(2.6)
        with lease.leased(objects, "train-x") as other:
            assert other is None
        assert not held.lost
    assert names(objects) == []


def test_bytes_that_changed_in_the_store_are_refused_and_those_in_the_cache_fetched_again(
    bucket, machine, objects
):
    work = f"{bucket}/work"
    made = make(machine("a", work), fill())
    (made.path / "user.bin").write_bytes(b"x" * 3000)
    assert bytes_of(make(machine("a", work), refuse).path) == FILES
    (changed,) = [name for name in names(objects) if name.endswith("user.bin")]
    objects.put(changed, b"y" * 3000)
    with pytest.raises(
        CadcError, match="does not have the bytes that its manifest names"
    ) as raised:
        make(machine("b", work), refuse)
    assert f"{work}/{changed}" in str(raised.value)
    objects.delete([changed])
    with pytest.raises(CadcError, match="is missing from the store; delete s3://"):
        make(machine("b", work), refuse)


def test_what_was_removed_from_the_store_is_made_again(bucket, machine, objects):
    work = f"{bucket}/work"
    made = make(machine("a", work), fill())
    origin.origin_of(machine("a", work)).remove(f"train/{made.path.name}")
    assert names(objects) == []
    calls = []
    assert not make(machine("a", work), fill(calls=calls)).cached
    assert len(calls) == 1


def test_force_replaces_for_every_machine_and_what_nobody_names_is_swept(
    bucket, machine, objects, monkeypatch
):
    work = f"{bucket}/work"
    make(machine("a", work), fill())
    make(machine("b", work), refuse)
    make(machine("a", work), fill({"user.bin": b"new"}), force=True)
    assert bytes_of(make(machine("b", work), refuse).path) == {"user.bin": b"new"}
    objects.put("train/0123456789abcdef/00ff/half.bin", b"of a killed upload")
    run_stage(machine("a", work), "train", {"seed": 1}, {}, fill())
    assert any(name.endswith("half.bin") for name in names(objects))  # it may still be going on
    age_all(monkeypatch)
    run_stage(machine("a", work), "train", {"seed": 2}, {}, fill())
    left = names(objects)
    assert not any(name.endswith("half.bin") for name in left)
    assert sum(name.endswith("part/0.bin") for name in left) == 2  # seeds 1 and 2, not the old one
    assert bytes_of(make(machine("c", work), refuse).path) == {"user.bin": b"new"}


def test_a_download_that_was_killed_leaves_nothing_in_the_artifact(bucket, machine, monkeypatch):
    class Killed(BaseException):
        pass

    work = f"{bucket}/work"
    made = make(machine("a", work), fill())
    there = machine("b", work)
    one_piece = Objects.pieces
    folder = there / "train" / made.path.name
    seen = []

    def pieces(self, name):
        yield next(one_piece(self, name))
        seen.extend(f.name for f in folder.rglob("*") if f.is_file())
        raise Killed

    monkeypatch.setattr(Objects, "pieces", pieces)
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # nor does it clean up
    with pytest.raises(Killed):
        make(there, refuse)
    monkeypatch.undo()
    monkeypatch.setenv("CADC_REC_CACHE", str(there.parent))
    assert set(seen) == {"manifest.json"}
    assert len(list((there / ".tmp").glob("*.download"))) >= 1


def test_two_processes_that_bring_one_artifact_both_have_it(bucket, machine):
    work = f"{bucket}/work"
    made = make(machine("a", work), fill({f"{n}.bin": bytes([n]) * 2000 for n in range(20)}))
    there = machine("b", work)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cadc_rec.store.artifact import open_artifact\n"
        "sys.stdin.read(1)\n"
        "print(open_artifact(Path(sys.argv[1])).fingerprint)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, there / "train" / made.path.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    assert said == [made.fingerprint] * 2


def test_an_artifact_that_is_made_while_the_store_is_listed_stays(bucket, machine, monkeypatch):
    workdir = machine("a", f"{bucket}/work")
    made = []
    listed = Objects.list

    def list_then_make(self, prefix=""):
        found = list(listed(self, prefix))
        monkeypatch.setattr(Objects, "list", listed)
        made.append(make(workdir, fill()))
        return iter(found)

    monkeypatch.setattr(Objects, "list", list_then_make)
    assert committed(workdir, "train") == []
    assert bytes_of(made[0].path) == FILES


def test_a_damaged_manifest_of_another_artifact_keeps_nobody_from_work(
    bucket, machine, objects, monkeypatch
):
    age_all(monkeypatch)
    for number, text in enumerate((b"{", b"[]", b"{}", b'{"files": {"a": 1}}')):
        objects.put(f"train/damaged-{number}/manifest.json", text)
        objects.put(f"train/damaged-{number}/00ff/file.bin", b"x")
    make(machine("a", f"{bucket}/work"), fill())
    assert sum(name.endswith("file.bin") for name in names(objects)) == 4


def test_a_renewal_whose_answer_was_lost_does_not_lose_the_lease(objects):
    held = lease.Lease(objects, "train-x")
    assert held.take()
    assert objects.replace(held.object, held._body(), held._version) is not None  # never heard of
    assert held._replaced() is not None
    other = json.dumps({"holder": "another", "seconds": 60}).encode()
    objects.put(held.object, other)
    assert held._replaced() is None


def test_the_cache_keeps_its_bound_and_what_is_in_use(bucket, machine, monkeypatch, tmp_path):
    work = f"{bucket}/work"
    first = make(machine("a", work), fill())
    one_manifest = (first.path / "manifest.json").stat().st_size
    monkeypatch.setenv(cache.BOUND_VARIABLE, str((7000 + 2 * one_manifest) / 2**30))
    second = run_stage(machine("a", work), "train", {"seed": 1}, {}, fill({"v": b"v" * 5000}))
    assert (first.path / "user.bin").exists()  # this process uses both
    for lock in cache._held.values():  # that process ends
        lock.close()
    cache._held.clear()
    third = run_stage(machine("a", work), "train", {"seed": 2}, {}, fill({"w": b"w" * 1000}))
    assert not first.path.exists()
    assert third.path.exists()
    assert (second.path / "v").exists()
    assert bytes_of(make(machine("a", work), refuse).path) == FILES
    monkeypatch.setenv(cache.BOUND_VARIABLE, "much")
    with pytest.raises(CadcError, match="as a number of GiB"):
        cache.keep_bound()


def test_what_is_made_while_the_store_is_down_is_sent_by_the_next_command(
    server, bucket, machine, objects
):
    work = f"{bucket}/work"

    def build(draft):
        fill()(draft)
        server.stop()

    try:
        with pytest.raises(CadcError, match="What was made is whole in") as raised:
            make(machine("a", work), build)
    finally:
        server.start()
    assert str(raised.value).count("\n") == 0
    assert not any(name.startswith("train") for name in names(objects))
    sent = make(machine("a", work), refuse)
    assert bytes_of(sent.path) == FILES
    assert bytes_of(make(machine("b", work), refuse).path) == FILES


def test_a_bucket_that_is_not_there_and_rights_that_are_missing_are_said_before_any_work(
    server, bucket, machine
):
    absent = "s3://no-such-bucket-here/work"
    with pytest.raises(CadcError, match="there is no such bucket; correct the address") as raised:
        origin.origin_of(machine("a", absent)).require_usable()
    assert str(raised.value).startswith(absent)
    server.ask("POST", "/moto-api/reset-auth", b"0")  # from now on, keys are looked at
    try:
        with pytest.raises(CadcError, match="may not be written with the credentials") as raised:
            origin.origin_of(machine("a", f"{bucket}/work")).require_usable()
    finally:
        server.ask("POST", "/moto-api/reset-auth", b"inf")
    assert str(raised.value).startswith(f"{bucket}/work")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "the credentials are right"),
        (403, "RequestTimeTooSkewed", f"the clock of {platform.node()} is not the store's"),
    ],
)
def test_an_expired_credential_and_a_clock_that_is_off_are_one_sentence(
    status, code, said, machine, environ, monkeypatch
):
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            body = f"<Error><Code>{code}</Code><Message>It is refused</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_port}")
    try:
        with pytest.raises(CadcError, match=said) as raised:
            origin.origin_of(machine("a", "s3://bucket/work")).require_usable()
    finally:
        running.shutdown()
    assert str(raised.value).count("\n") == 0
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)


def test_a_damaged_manifest_is_refused(bucket, machine, objects):
    work = f"{bucket}/work"
    made = make(machine("a", work), fill())
    objects.put(f"train/{made.path.name}/manifest.json", b"{}")
    with pytest.raises(CadcError, match="is not a manifest of cadc-rec"):
        make(machine("b", work), refuse)


def test_in_a_store_ranks_wait_until_the_lease_of_a_killed_job_runs_out(machine, tmp_path):
    in_store = machine("a", "s3://bucket/work")
    assert lease.patience(in_store, 1800, restarted=False) > lease.LEASE_SECONDS
    assert lease.patience(in_store, 10, restarted=False) == 5  # or the others take it for lost
    assert lease.patience(tmp_path, 1800, restarted=False) == 0
    assert lease.patience(tmp_path, 1800, restarted=True) == 900
