"""Bundles, reports and vectors by address: whole or not at all, whoever writes or reads."""

import json
import subprocess
import sys

import pytest

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.pipeline.job import checkpoint_folder
from cadc_rec.serving.bundle.bundle import Bundle, manifest_of
from cadc_rec.store.checkpoints.store import CheckpointStore, open_checkpoint
from cadc_rec.store.manifest import file_entry
from cadc_rec.store.remote import cache, finished, lease, sending
from cadc_rec.store.remote.address import Objects
from cadc_rec.store.remote.trees import bring_files, send_files
from tests.store.remote.conftest import bytes_of, names
from tests.store.remote.test_nodes import Alone

FILES = {"model.json": b"{}", "items/vectors.safetensors": b"v" * 5000}


def fill(folder, files=FILES, signature=None):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    manifest = manifest_of(folder, "toy", {}, {}, "2026-01-01T00:00:00Z")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if signature is not None:
        (folder / "manifest.sig").write_text(signature)


def send(address, files=FILES, replace=False, signature=None):
    with sending.sent(address, replace) as folder:
        fill(folder, files, signature)


@pytest.fixture
def bundle(bucket, machine):
    machine("a", bucket)
    return f"{bucket}/bundles/toy"


def test_a_bundle_that_one_machine_sends_another_one_opens(bundle, machine):
    send(bundle)
    machine("b", bundle)
    opened = Bundle.open(finished.brought(bundle))
    assert {name: opened.read(name) for name in FILES} == FILES
    before = {file: file.stat().st_ino for file in opened.path.rglob("*.safetensors")}
    again = finished.brought(bundle)
    assert again == opened.path
    assert {file: file.stat().st_ino for file in again.rglob("*.safetensors")} == before


_WORKERS = """
import os, sys

from cadc_rec.serving.http.workers import apart
from cadc_rec.store.remote.finished import brought, newest

folder = apart(brought, sys.argv[1])  # as the parent of a service's workers
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        os._exit(brought(sys.argv[1]) != folder or newest(sys.argv[1]) is None)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_workers_that_are_forked_bring_a_bundle_their_parent_has_had_brought(bundle, machine):
    send(bundle)
    machine("b", bundle)
    command = [sys.executable, "-c", _WORKERS, bundle]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_path_is_itself_and_nothing_is_sent(tmp_path):
    with sending.sent(tmp_path / "b") as folder:
        assert folder == tmp_path / "b"
        fill(folder)
    assert finished.brought(f"file://{tmp_path}/b") == tmp_path / "b"
    assert finished.brought_file(tmp_path / "x.parquet") == tmp_path / "x.parquet"


def test_a_signature_lies_with_its_manifest(bundle, machine):
    send(bundle, signature="of one")
    send(bundle, {"model.json": b"[]"}, replace=True, signature="of another")
    machine("b", bundle)
    assert (finished.brought(bundle) / "manifest.sig").read_text() == "of another"


def test_a_bundle_that_is_there_is_replaced_only_if_asked_for(bundle, machine):
    sending.require_free(bundle)
    send(bundle)
    with pytest.raises(CadcError, match="already exists; name another folder") as raised:
        sending.require_free(bundle)
    assert str(raised.value).startswith(bundle)
    sending.require_free(bundle, replace=True)
    with pytest.raises(CadcError, match=r"already exists.*What was made is whole in") as raised:
        send(bundle, {"model.json": b"[]"})  # that of another job came in between
    machine("b", bundle)
    assert finished.brought(bundle).joinpath("model.json").read_bytes() == b"{}"
    send(bundle, {"model.json": b"[]"}, replace=True)
    assert bytes_of(finished.brought(bundle)) == {"model.json": b"[]"}


def test_a_bundle_that_another_machine_is_sending_is_waited_for_and_then_left_alone(
    bundle, machine, monkeypatch
):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)  # stores tell whole seconds
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.1)
    other = lease.Lease(Objects(bundle), "sent")
    assert other.take()
    other.start()
    with pytest.raises(CadcError, match=r"another job is writing it.*What was made is whole in"):
        send(bundle)
    assert [name for name in names(Objects(bundle)) if not name.startswith(".locks")] == []
    other.release()
    sending.require_free(bundle)
    send(bundle)
    assert bytes_of(finished.brought(bundle)) == FILES


@pytest.mark.parametrize(
    ("other", "refused"), [("s3://b/x", 1), ("s3://b", 1), ("s3://b/x/y/", 1), ("s3://b/xy", 0)]
)
def test_addresses_in_one_another_are_refused(other, refused, tmp_path):
    def asked():
        sending.require_apart({"--out": "s3://b/x", "--triton": other, "--workdir": None})

    sending.require_apart({"--out": tmp_path, "--triton": tmp_path / "below"})
    if not refused:
        asked()
        return
    with pytest.raises(CadcError, match=r"^--out s3://b/x and --triton s3://.*one lies in the"):
        asked()


def test_what_replaced_bundles_left_is_swept_and_nothing_else(bundle, machine, monkeypatch):
    send(bundle)
    mine = Objects(bundle)
    mine.put("notes.txt", b"a person's")
    monkeypatch.setattr(sending, "SWEEP_SECONDS", -1.0)
    send(bundle, {"model.json": b"[]"}, replace=True)
    left = names(mine)
    assert [name.rpartition("/")[2] for name in left if "/" in name] == ["model.json"]
    assert [name for name in left if "/" not in name] == ["manifest.json", "notes.txt"]


def test_a_reader_of_a_bundle_that_is_replaced_gets_the_new_one(bundle, machine, monkeypatch):
    send(bundle)
    machine("b", bundle)
    get, seen = Objects.get, []

    def get_then_replace(self, name):
        found = get(self, name)
        if name == "manifest.json" and not seen:
            seen.append(name)
            monkeypatch.setattr(sending, "SWEEP_SECONDS", -1.0)
            send(bundle, {"model.json": b"[]"}, replace=True)
        return found

    monkeypatch.setattr(Objects, "get", get_then_replace)
    assert bytes_of(finished.brought(bundle)) == {"model.json": b"[]"}


def test_a_bundle_that_is_half_uploaded_is_none(bundle, machine, monkeypatch):
    create = Objects.create

    def refuse(self, name, data):
        if name == "manifest.json":
            raise CadcError(f"{self.address}: cannot be written (503).")
        return create(self, name, data)

    monkeypatch.setattr(Objects, "create", refuse)
    with pytest.raises(CadcError, match=r"cannot be written \(503\)\. What was made is whole in"):
        send(bundle)
    monkeypatch.setattr(Objects, "create", create)
    machine_of_reader = machine("b", bundle)
    with pytest.raises(CadcError, match="holds no bundle; correct the address") as raised:
        finished.brought(bundle)
    assert str(raised.value).startswith(bundle)
    assert str(raised.value).count("\n") == 0
    assert not list(machine_of_reader.rglob("*.safetensors"))


def test_bytes_that_changed_are_refused_and_those_of_the_cache_brought_again(bundle, machine):
    send(bundle)
    copy = finished.brought(bundle)
    (copy / "model.json").write_bytes(b"[]")
    (copy / "stray.json").write_bytes(b"[]")
    assert bytes_of(finished.brought(bundle)) == FILES
    (changed,) = [name for name in names(Objects(bundle)) if name.endswith("model.json")]
    Objects(bundle).put(changed, b"[]")
    machine("b", bundle)
    with pytest.raises(CadcError, match="does not have the bytes that its manifest names"):
        finished.brought(bundle)
    Objects(bundle).delete([changed])
    with pytest.raises(CadcError, match=r"model\.json: is missing from the store; export"):
        finished.brought(bundle)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b'{"files": {"a": {"sha256": "x", "bytes": 1}}}',
        b'{"files": {"../../../a.json": {"sha256": "' + b"0" * 64 + b'", "bytes": 1}}}',
    ],
)
def test_a_manifest_of_something_else_leads_nowhere(bundle, text):
    objects = Objects(bundle)
    objects.put("manifest.json", text)
    with pytest.raises(CadcError, match=r"not the manifest|leads out|is missing") as raised:
        finished.brought(bundle)
    assert str(raised.value).startswith(bundle)


def test_two_jobs_of_one_machine_do_not_write_one_bundle(bundle):
    with sending.sent(bundle) as folder:
        fill(folder)
        with (
            pytest.raises(BusyError, match="another job of this machine is writing it"),
            sending.sent(bundle),
        ):
            raise AssertionError("written twice")
    assert bytes_of(finished.brought(bundle)) == FILES


def test_a_copy_that_was_let_go_may_be_removed_for_space(bundle, monkeypatch):
    send(bundle)
    copy = finished.brought(bundle)
    monkeypatch.setenv(cache.BOUND_VARIABLE, str(100 / 2**30))
    cache.keep_bound()
    assert copy.exists()
    cache.let_go(copy)
    cache.keep_bound()
    assert not copy.exists()


def test_a_page_lies_under_its_plain_names_and_replaces_only_a_page(server, bucket, machine):
    machine("a", bucket)
    address = f"{bucket}/report"

    def page(names_of_files):
        with sending.sent_plainly(address, last="index.html", ours="our report") as folder:
            folder.mkdir()
            for name in names_of_files:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text("<!-- our report -->")

    objects = Objects(address)
    server.ask("PUT", f"/{bucket.removeprefix('s3://')}/report/")  # consoles make such for folders
    sending.require_free(address)
    page(["index.html", "figures/one.svg"])
    lease.Lease(objects, "sent").take()
    objects.put("models/other.pt", b"1")
    page(["index.html", "figures/two.svg"])
    left = names(objects)
    assert left == ["", ".locks/sent", "figures/two.svg", "index.html", "models/other.pt"]
    objects.put("index.html", b"<p>of somebody else</p>")
    with pytest.raises(CadcError, match="exists and is not a report") as raised:
        page(["index.html"])
    assert str(raised.value).startswith(address)


def test_one_file_is_sent_and_brought(bucket, machine):
    machine("a", bucket)
    address = f"{bucket}/out/vectors.parquet"
    with sending.sent_file(address) as file:
        file.write_bytes(b"PAR1")
    machine("b", bucket)
    copy = finished.brought_file(address)
    assert copy.name == "vectors.parquet"
    assert copy.read_bytes() == b"PAR1"
    with pytest.raises(CadcError, match=r"other\.parquet: there is no such object"):
        finished.brought_file(f"{bucket}/out/other.parquet")
    with pytest.raises(CadcError, match="is a bucket; name a file in it"):
        finished.brought_file(bucket)


def test_records_of_a_study_are_there_for_another_machine(bucket, machine):
    work = machine("a", f"{bucket}/work")
    file = work / "studies" / "small" / "cells" / "one.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    send_files(work, [file])
    there = machine("b", f"{bucket}/work")
    bring_files(there / "studies" / "small", there)
    here = there / "studies" / "small" / "cells" / "one.json"
    assert here.read_text() == "{}"
    here.write_text("failed here")
    bring_files(there / "studies" / "small", there)
    assert here.read_text() == "failed here"
    bring_files(there / "studies" / "small", there, {here})
    assert here.read_text() == "{}"


def test_a_checkpoint_by_address_is_brought_from_another_work_folder(bucket, machine):
    store = CheckpointStore(machine("a", f"{bucket}/work"), "abc")
    with store.owned():
        store.draft(9).mkdir(parents=True)
        (store.draft(9) / "one.bin").write_bytes(b"1")
        store.commit(9, {"one.bin": file_entry(store.draft(9) / "one.bin")}, {"score": 0.0})
    machine("b", f"{bucket}/other")
    folder = checkpoint_folder(f"{bucket}/work/checkpoints/abc/000001-step-9")
    assert open_checkpoint(folder, Alone()).step == 9
    assert (folder / "one.bin").read_bytes() == b"1"
    absent = f"{bucket}/work/checkpoints/abc/000002-step-9"
    with pytest.raises(CadcError, match=r"has no manifest\.json; correct it") as raised:
        open_checkpoint(checkpoint_folder(absent), Alone())
    assert str(raised.value).startswith(absent)
    with pytest.raises(CadcError, match="is no checkpoint's address"):
        checkpoint_folder("s3://bucket/abc/000001-step-9")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_write_and_read_bundles_vectors_and_reports_by_address(
    tmp_path, bucket, environ, tiny, spawn
):
    def command(*arguments, code=0):
        process = spawn(*arguments, "--cache", tmp_path / "cache", **environ)
        out, said = process.communicate(timeout=600)
        assert process.returncode == code, said
        return out, said

    work = ("--workdir", f"{bucket}/work")
    address = f"{bucket}/bundles/tiny"
    command("run", tiny, *work)
    out, _ = command("export", tiny, "--out", address, "--precision", "none", *work)
    assert out.splitlines()[-1] == address
    _, said = command("export", tiny, "--out", address, *work, code=2)
    assert f"{address} already exists; name another folder" in said
    (table,) = (tmp_path / "cache").glob("*/prepare/*/users.parquet")
    Objects(f"{bucket}/in").upload("users.parquet", table)
    history = ("--history", f"{bucket}/in/none.parquet")
    vectors = ("--out", f"{bucket}/out/new.parquet")
    given = ("embed", address, "--users", f"{bucket}/in/users.parquet")
    _, said = command(*given, *history, *vectors, code=2)
    assert f"{bucket}/in/none.parquet: there is no such object" in said
    study = tmp_path / "small.toml"
    study.write_text(
        'title = "Small"\nlayout = "grid"\nseeds = [0]\n'
        f'[datasets.generated]\ntitle = "Tiny"\nconfig = "{tiny}"\n'
        '[[grid]]\nmethods = ["popularity"]\n'
    )
    out, _ = command("study", study, *work)
    named = out.splitlines()[-1]
    assert named == f"{bucket}/work/studies/small"
    out, _ = command("report", named)
    assert out.splitlines()[-1] == f"{named}/report/index.html"
    assert b"<html" in Objects(named).get("report/index.html")[0]
