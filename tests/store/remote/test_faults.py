"""A store that is slow, full, refuses or asks for patience: nothing is lost, and one sentence."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import run_stage
from cadc_rec.store.remote import address, lease, origin
from cadc_rec.store.remote.address import Objects
from tests.store.remote.conftest import bytes_of, names
from tests.store.remote.faults import Proxy, refusal

FILES = {"user.bin": b"u" * 3000, "part/0.bin": b"p" * 100}
ROOT = Path(__file__).parents[3]


@pytest.fixture
def proxy(server, bucket, monkeypatch):
    """Between the tests and the server; what is written before and after goes around it."""
    running = Proxy(server.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
    monkeypatch.setattr(address, "_RETRIES", 1)  # each takes a third of a second
    yield running
    running.stop()


def make(workdir, allowed=True):
    def build(draft):
        assert allowed, "made again"
        for name, data in FILES.items():
            (draft.path / name).parent.mkdir(exist_ok=True)
            (draft.path / name).write_bytes(data)

    return run_stage(workdir, "train", {"seed": 0}, {}, build)


def writes(method, path):
    """Whether a request writes a file of an artifact, or its manifest."""
    return method == "PUT" and "/train/" in path


SAID = {
    "another region": (301, "PermanentRedirect", "the bucket is in another region; name it with"),
    "a key of another region": (400, "AuthorizationHeaderMalformed", "in another region; name it"),
    "expired": (400, "ExpiredToken", "the credentials have expired; renew them"),
    "no rights": (403, "AccessDenied", "may not be written with the credentials that were found"),
    "a clock hours off": (403, "RequestTimeTooSkewed", "this machine's clock is off; set it (NTP)"),
    "full": (507, "XMinioStorageFull", "the store is full; free some space there"),
    "a quota": (403, "QuotaExceeded", "the store is full; free some space there"),
    "too busy": (503, "SlowDown", "the store has too many requests; wait a while"),
    "no conditions": (501, "NotImplemented", "this store has no conditional writes; use one"),
    "absent": (404, "NoSuchBucket", "there is no such bucket; correct the address"),
    "unknown": (500, "InternalError", "see that the store answers"),
}


@pytest.mark.parametrize("kind", SAID)
def test_what_a_store_says_is_one_sentence_with_its_remedy(proxy, bucket, kind):
    status, code, sentence = SAID[kind]
    proxy.refuses = lambda method, path: refusal(status, code, "do tell\n<StringToSign>x-secret")
    with pytest.raises(CadcError) as raised:
        Objects(f"{bucket}/work").create("a", b"1")
    said = str(raised.value)
    assert said.startswith(f"{bucket}/work: ")
    assert sentence in said
    assert "\n" not in said
    assert "x-secret" not in said
    assert status in (301, 404) or code in said
    proxy.refuses = lambda method, path: None
    assert names(Objects(f"{bucket}/work")) == []


@pytest.mark.parametrize(
    "kind", ["another region", "expired", "no rights", "a clock hours off", "full", "absent"]
)
def test_a_command_on_a_store_that_refuses_ends_with_code_2_before_any_work(
    proxy, bucket, cli, tiny, tmp_path, monkeypatch, kind
):
    monkeypatch.setenv("CADC_REC_CACHE", str(tmp_path / "cache"))
    status, code, sentence = SAID[kind]
    proxy.refuses = lambda method, path: refusal(status, code)
    for command in ("run", "export"):
        out = ("--out", f"{bucket}/bundle") if command == "export" else ()
        ended = cli(command, tiny, "--workdir", f"{bucket}/work", *out)
        assert ended.code == 2
        assert ended.err.startswith(f"error: {bucket}/")
        assert sentence in ended.err
        assert ended.err.count("\n") == 1
    proxy.refuses = lambda method, path: None
    assert names(Objects(bucket)) == []
    assert not list((tmp_path / "cache").glob("*/[!.]*"))  # of any artifact


@pytest.mark.parametrize(
    ("status", "code"), [(507, "XMinioStorageFull"), (503, "SlowDown"), (403, "AccessDenied")]
)
def test_what_a_store_does_not_take_stays_and_is_sent_by_the_next_command(
    proxy, bucket, machine, status, code
):
    workdir = machine("a", f"{bucket}/work")
    proxy.refuses = lambda method, path: refusal(status, code) if writes(method, path) else None
    with pytest.raises(CadcError, match="What was made is whole in") as raised:
        make(workdir)
    assert str(raised.value).startswith(f"{bucket}/work: ")
    assert code in str(raised.value)
    assert "\n" not in str(raised.value)
    proxy.refuses = lambda method, path: None
    assert bytes_of(make(workdir, allowed=False).path) == FILES
    machine("b", f"{bucket}/work")
    assert bytes_of(make(machine("b", f"{bucket}/work"), allowed=False).path) == FILES


def test_files_that_were_sent_before_the_store_refused_are_not_sent_again(proxy, bucket, machine):
    workdir = machine("a", f"{bucket}/work")

    def refuse_manifest(method, path):
        return refusal(507, "XMinioStorageFull") if path.endswith("manifest.json") else None

    def refuse(method, path):
        return refuse_manifest(method, path) if writes(method, path) else None

    proxy.refuses = refuse
    with pytest.raises(CadcError, match="the store is full"):
        make(workdir)
    other = machine("b", f"{bucket}/work")
    assert not origin.origin_of(other).known("train")  # half uploaded: none, for a reader
    proxy.refuses = lambda method, path: None
    proxy.asked.clear()
    make(machine("a", f"{bucket}/work"), allowed=False)
    sent = [path for method, path in proxy.asked if writes(method, path)]
    assert len(sent) == 1
    assert sent[0].endswith("/manifest.json")


def test_a_store_that_refuses_for_a_moment_is_asked_again(proxy, bucket, machine):
    left = [1]

    def refuse(method, path):
        if writes(method, path) and left[0]:
            left[0] -= 1
            return refusal(503, "SlowDown")
        return None

    proxy.refuses = refuse
    make(machine("a", f"{bucket}/work"))
    assert left == [0]
    assert bytes_of(make(machine("b", f"{bucket}/work"), allowed=False).path) == FILES


def test_two_writers_that_a_store_refuses_both_try_again(proxy, bucket):
    left = [1]

    def refuse(method, path):
        if method == "PUT" and left[0]:
            left[0] -= 1
            return refusal(409, "ConditionalRequestConflict")
        return None

    proxy.refuses = refuse
    objects = Objects(f"{bucket}/work")
    assert objects.create("a", b"1") is not None
    assert objects.create("a", b"2") is None
    assert objects.get("a")[0] == b"1"


def test_what_a_store_refuses_time_and_again_stays_and_is_sent_by_the_next_command(
    proxy, bucket, machine, monkeypatch
):
    monkeypatch.setattr(address, "_PAUSES", (0.0, 0.0))

    def refuse(method, path):
        if method == "PUT" and path.endswith("manifest.json"):
            return refusal(409, "ConditionalRequestConflict")
        return None

    proxy.refuses = refuse
    with pytest.raises(CadcError, match=r"is not there; run again\. What was made is whole in"):
        make(machine("a", f"{bucket}/work"))
    proxy.refuses = lambda method, path: None
    assert bytes_of(make(machine("a", f"{bucket}/work"), allowed=False).path) == FILES


@pytest.mark.slow
def test_a_store_that_takes_200_ms_a_request_gives_the_same(proxy, bucket, machine):
    proxy.delay = 0.2
    started = time.perf_counter()
    make(machine("a", f"{bucket}/work"))
    assert bytes_of(make(machine("b", f"{bucket}/work"), allowed=False).path) == FILES
    assert time.perf_counter() - started > 0.2 * 5
    assert len(proxy.asked) < 40  # of which each file takes one to send and two to bring


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.distributed
def test_ranks_wait_for_an_upload_and_a_download_that_take_longer_than_a_time_out(
    proxy, bucket, tmp_path
):
    """Time-out 5 s; 12 MB at 1.5 MB/s up are 8 s, and the other node's download takes as long."""
    proxy.bytes_per_second = 1.5 * 2**20
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:29617"]
    program = Path(__file__).with_name("slow_upload.py")
    started = time.monotonic()
    both = [
        subprocess.Popen(
            [*launcher, program, f"{bucket}/work", "12", tmp_path / f"{name}.txt"],
            env=os.environ
            | {
                "CADC_REC_CACHE": str(tmp_path / name),
                "PYTHONPATH": str(ROOT),
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert time.monotonic() - started > 16
    (written,) = tmp_path.glob("*.txt")
    assert written.read_text() == str([12 << 20] * 2)


# --- a connection that breaks while a lock or a manifest is on its way ---------------------------


def conditional(method, path):
    """Whether a request writes a lock, or a manifest."""
    is_lock = "/.locks/" in path and "/.locks/clock-" not in path
    return method == "PUT" and (is_lock or path.endswith("manifest.json"))


@pytest.fixture
def breaks(proxy):
    """breaks("before" or "after", times): the next such requests end without an answer."""

    def after(when, times=1):
        left = [times]

        def drop(method, path):
            if conditional(method, path) and left[0]:
                left[0] -= 1
                return when
            return None

        proxy.drops = drop
        return left

    return after


WHEN = pytest.mark.parametrize("when", ["before", "after"])  # the store did it


@WHEN
@pytest.mark.parametrize("times", [1, 3])
def test_a_lock_whose_answer_was_lost_is_the_writers_own(proxy, bucket, breaks, when, times):
    objects = Objects(f"{bucket}/work")
    left = breaks(when, times)
    own, other = lease.Lease(objects, "train-x"), lease.Lease(objects, "train-x")
    assert own.take()
    assert left == [0 if when == "before" else times - 1]
    assert own._holder.encode() in objects.get(own.object)[0]
    proxy.drops = None
    assert not other.take()
    own.release()
    assert other.take()
    other.release()
    assert names(objects) == []


@WHEN
def test_a_lock_that_another_took_meanwhile_is_not_ours(proxy, bucket, breaks, monkeypatch, when):
    """A late request: the store had it before this process's, whose answer is lost, too."""
    objects = Objects(f"{bucket}/work")
    own, other = lease.Lease(objects, "train-x"), lease.Lease(objects, "train-x")
    assert other.take()
    left = breaks(when)
    assert not own.take()
    assert left == [0]
    assert other._holder.encode() in objects.get(own.object)[0]


@WHEN
def test_a_dead_jobs_lock_is_taken_over_although_the_answer_was_lost(
    proxy, bucket, breaks, monkeypatch, when
):
    objects = Objects(f"{bucket}/work")
    assert lease.Lease(objects, "train-x").take()
    monkeypatch.setattr(lease, "_seconds", lambda data: -1.0)  # it ran out
    own = lease.Lease(objects, "train-x")
    left = [2]  # its first request finds the lock, its second takes it over

    def drop(method, path):
        if conditional(method, path):
            left[0] -= 1
            return when if left[0] == 0 else None
        return None

    proxy.drops = drop
    assert own.take()
    assert own._holder.encode() in objects.get(own.object)[0]
    proxy.drops = None
    own.release()
    assert names(objects) == []


@WHEN
def test_an_artifact_is_committed_although_its_manifests_answer_was_lost(
    proxy, bucket, breaks, machine, when
):
    def drop(method, path):
        return when if path.endswith("manifest.json") and conditional(method, path) else None

    done = []

    def once(method, path):
        found = None if done else drop(method, path)
        done.extend([found] if found else [])
        return found

    proxy.drops = once
    made = make(machine("a", f"{bucket}/work"))
    assert done == [when]
    assert not made.cached
    assert bytes_of(made.path) == FILES
    assert bytes_of(make(machine("b", f"{bucket}/work"), allowed=False).path) == FILES


def test_a_store_that_dies_while_a_lock_is_taken_is_one_sentence(proxy, bucket, server):
    objects = Objects(f"{bucket}/work")
    proxy.drops = lambda method, path: "before"  # nothing is answered any more
    with pytest.raises(CadcError) as refused:
        lease.Lease(objects, "train-x").take()
    assert str(refused.value).startswith(f"{bucket}/work: cannot be written (")
    assert "see that the store answers" in str(refused.value)
    proxy.drops = None
    assert names(objects) == []
