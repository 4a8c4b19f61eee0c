import errno
import fcntl
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.store import atomic
from cadc_rec.store.artifact import Artifact, Draft, artifact_key, open_artifact, run_stage

SETTINGS = {"epochs": 3, "tower": [16, 8]}
INPUTS = {"raw": "0123abcd"}


def writes(text, calls=None):
    """A build that leaves two files, one of them in a folder."""

    def build(draft):
        if calls is not None:
            calls.append(text)
        (draft.path / "part").mkdir()
        (draft.path / "part" / "rows.txt").write_text(text)
        (draft.path / "note.txt").write_text("note")
        draft.info["said"] = text

    return build


def make(workdir, text="contents", *, calls=None, **changes):
    """Run a stage whose artifact holds `text`."""
    arguments = {"settings": SETTINGS, "inputs": INPUTS, "stage": "train"} | changes
    return run_stage(workdir, build=writes(text, calls), **arguments)


def committed(workdir):
    """The names of the committed artifacts."""
    manifests = [path for path in workdir.glob("*/*/manifest.json") if ".tmp" not in path.parts]
    return sorted(path.parent.name for path in manifests)


def leftovers(workdir):
    """What lies in the temporary folder besides lock files."""
    temporary = workdir / ".tmp"
    return [path.name for path in temporary.iterdir() if path.suffix != ".lock"]


def refusal(action):
    """The message with which `action` is refused."""
    with pytest.raises(CadcError) as caught:
        action()
    return str(caught.value)


def test_an_artifact_holds_its_files_and_a_manifest_with_their_checksums(tmp_path):
    artifact = make(tmp_path, "contents")
    assert artifact.path.parent == tmp_path / "train"
    assert not artifact.cached
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["files"] == {
        "note.txt": {"bytes": 4, "sha256": hashlib.sha256(b"note").hexdigest()},
        "part/rows.txt": {"bytes": 8, "sha256": hashlib.sha256(b"contents").hexdigest()},
    }
    assert manifest["settings"] == SETTINGS
    assert manifest["inputs"] == INPUTS
    assert manifest["info"] == artifact.info == {"said": "contents"}
    assert manifest["stage"] == artifact.stage == "train"
    assert {"python", "cadc-rec", "torch"} <= set(manifest["versions"])
    assert manifest["peak_memory_bytes"] > 2**20
    assert leftovers(tmp_path) == []


def test_the_manifest_says_how_long_it_took_and_how_fast(tmp_path):
    def build(draft):
        time.sleep(0.05)
        draft.rows = 100

    artifact = run_stage(tmp_path, "select", SETTINGS, INPUTS, build)
    assert 0.05 <= artifact.seconds < 5
    assert artifact.manifest["rows"] == 100
    assert artifact.manifest["rows_per_second"] == pytest.approx(100 / artifact.seconds)


def test_a_second_call_builds_nothing_and_reports_the_first_ones_seconds(tmp_path):
    calls = []
    first = make(tmp_path, calls=calls)
    second = make(tmp_path, calls=calls)
    assert calls == ["contents"]
    assert second.cached
    assert (second.path, second.seconds) == (first.path, first.seconds)
    assert second.manifest == first.manifest


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"epochs": 4, "tower": [16, 8]}},
        {"settings": {"epochs": 3, "tower": [8, 16]}},
        {"settings": {"epochs": 3}},
        {"inputs": {"raw": "0123abce"}},
        {"inputs": {"raw": "0123abcd", "tables": "77"}},
        {"inputs": {"cooked": "0123abcd"}},
        {"stage": "evaluate"},
    ],
    ids=str,
)
def test_another_setting_input_or_stage_is_another_artifact(tmp_path, change):
    calls = []
    first = make(tmp_path, calls=calls)
    second = make(tmp_path, calls=calls, **change)
    assert len(calls) == 2
    assert first.path.name != second.path.name
    assert len(committed(tmp_path)) == 2


def test_the_order_in_which_settings_are_written_does_not_matter():
    reversed_settings = dict(reversed(SETTINGS.items()))
    assert artifact_key("train", SETTINGS, {}) == artifact_key("train", reversed_settings, {})


def test_equal_contents_have_an_equal_fingerprint_whatever_made_them(tmp_path):
    here = make(tmp_path / "here", "same")
    there = make(tmp_path / "there", "same", settings={"epochs": 77})
    other = make(tmp_path / "other", "not the same")
    assert here.fingerprint == there.fingerprint != other.fingerprint
    assert here.path.name != there.path.name
    # so what builds upon them is found again, and what builds upon changed contents is not
    keys = [artifact_key("evaluate", {}, {"checkpoint": a}) for a in (here, there, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_file_of_another_name_is_another_fingerprint(tmp_path):
    def build(name):
        return lambda draft: (draft.path / name).write_text("x")

    a = run_stage(tmp_path, "select", {"n": 1}, {}, build("a"))
    b = run_stage(tmp_path, "select", {"n": 2}, {}, build("b"))
    assert a.fingerprint != b.fingerprint


def flip_a_byte(artifact):
    (artifact.path / "part" / "rows.txt").write_text("content5")


def append_a_byte(artifact):
    (artifact.path / "part" / "rows.txt").write_text("contents.")


def remove_a_file(artifact):
    (artifact.path / "part" / "rows.txt").unlink()


def put_a_folder_for_a_file(artifact):
    remove_a_file(artifact)
    (artifact.path / "part" / "rows.txt").mkdir()


def edit_manifest(artifact, **changes):
    file = artifact.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


DAMAGES = {
    "flipped byte": (flip_a_byte, "part/rows.txt", "changed since it was written"),
    "longer file": (append_a_byte, "part/rows.txt", "changed since it was written"),
    "missing file": (remove_a_file, "part/rows.txt", "is missing from a finished artifact"),
    "folder for a file": (put_a_folder_for_a_file, "part/rows.txt", "changed|cannot be read"),
    "edited result": (
        lambda a: edit_manifest(a, info={"said": "better"}),
        "manifest.json",
        "changed since it was written",
    ),
    "edited checksums": (
        lambda a: edit_manifest(a, files={}),
        "manifest.json",
        "changed since it was written",
    ),
    "older schema": (
        lambda a: edit_manifest(a, schema_version=0),
        "manifest.json",
        "has schema 0, but this version of cadc-rec reads schema 1",
    ),
    "torn manifest": (
        lambda a: (a.path / "manifest.json").write_text('{"stage": "tr'),
        "manifest.json",
        "is not a manifest of cadc-rec",
    ),
    "another manifest": (
        lambda a: (a.path / "manifest.json").write_text("[1, 2]"),
        "manifest.json",
        "is not a manifest of cadc-rec",
    ),
    "binary manifest": (
        lambda a: (a.path / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        "manifest.json",
        "is not a manifest of cadc-rec",
    ),
    "no manifest": (
        lambda a: (a.path / "manifest.json").unlink(),
        "",
        "has no manifest.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_refused_with_file_and_remedy_and_never_used(tmp_path, damage):
    act, file, text = DAMAGES[damage]
    artifact = make(tmp_path)
    act(artifact)
    calls = []
    message = refusal(lambda: make(tmp_path, calls=calls))
    assert str(artifact.path / file) in message
    assert any(part in message for part in text.split("|"))
    assert message.endswith(f"delete {artifact.path} and run again.")
    assert calls == []
    assert message == refusal(lambda: open_artifact(artifact.path))


@pytest.mark.parametrize("damage", DAMAGES)
def test_force_replaces_a_damaged_artifact(tmp_path, damage):
    artifact = make(tmp_path)
    DAMAGES[damage][0](artifact)
    assert not make(tmp_path, force=True).cached
    assert open_artifact(artifact.path).info == {"said": "contents"}


def test_a_file_where_the_artifact_should_be_is_refused_with_the_remedy(tmp_path):
    artifact = make(tmp_path)
    path = artifact.path.rename(tmp_path / "aside").parent / "train" / artifact.path.name
    path.write_text("")
    message = refusal(lambda: make(tmp_path))
    assert str(path) in message
    assert message.endswith(f"delete {path} and run again.")


def test_force_makes_it_anew(tmp_path):
    old = make(tmp_path, "old")
    new = make(tmp_path, "new", force=True)
    assert new.path == old.path
    assert not new.cached
    assert (new.path / "part" / "rows.txt").read_text() == "new"
    assert open_artifact(new.path).fingerprint == new.fingerprint
    assert leftovers(tmp_path) == []


def test_the_old_artifact_stands_whole_until_the_forced_one_is(tmp_path):
    old = make(tmp_path, "old")
    seen = []

    def build(draft):
        writes("new")(draft)
        seen.append(open_artifact(old.path).info["said"])

    run_stage(tmp_path, "train", SETTINGS, INPUTS, build, force=True)
    assert seen == ["old"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("error", [ValueError("boom"), CadcError("mend it"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_nothing_and_loses_nothing(tmp_path, force, error):
    if force:
        make(tmp_path, "old")
    other = make(tmp_path, "other", stage="select")

    def build(draft):
        writes("new")(draft)
        raise error

    with pytest.raises(type(error)) as caught:
        run_stage(tmp_path, "train", SETTINGS, INPUTS, build, force=force)
    assert caught.value is error
    assert leftovers(tmp_path) == []
    assert open_artifact(other.path).info == {"said": "other"}
    assert len(committed(tmp_path)) == 1 + force
    assert make(tmp_path, "again").info == {"said": "old" if force else "again"}


def test_ctrl_c_at_the_moment_a_draft_is_made_leaves_none(tmp_path, monkeypatch):
    make_folder = Path.mkdir

    def interrupted(path, *arguments, **named):
        make_folder(path, *arguments, **named)
        if path.parent.name == ".tmp":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    assert leftovers(tmp_path) == []
    assert committed(tmp_path) == []


# --- killed at any moment ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
def test_a_job_killed_at_any_file_operation_leaves_whole_artifacts_and_the_next_one_goes_on(
    tmp_path, force, dies_at
):
    make(tmp_path / "warm")  # so that a child imports nothing
    contents = set()
    for moment in itertools.count():
        workdir = tmp_path / str(moment)
        if force:
            make(workdir, "old")
        killed = dies_at(moment, lambda where=workdir: make(where, "new", force=force))
        for name in committed(workdir):
            open_artifact(workdir / "train" / name)  # raises if it is not whole
        calls = []
        after = make(workdir, "new", calls=calls)
        assert not (force and calls), f"killed at operation {moment}, the old artifact was lost"
        contents.add(after.info["said"])
        make(workdir, stage="select")  # any later stage sweeps
        assert leftovers(workdir) == []
        if not killed:
            break
    assert moment > 20  # there were many moments to die at
    assert contents == ({"old", "new"} if force else {"new"})


# --- several jobs ------------------------------------------------------------------------------


def hold(lock):
    """A live process that holds the lock file `lock`; ends when its input is closed."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    program = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_drafts_of_dead_jobs_are_swept_and_those_of_live_ones_kept(tmp_path):
    temporary = tmp_path / ".tmp"
    for name in ("train-dead", "train-live", "select-without-lock", "train-dead.old"):
        (temporary / name).mkdir(parents=True)
        (temporary / name / "half").write_text("written")
    (tmp_path / "train" / "dead").mkdir(parents=True)  # its replacement was in place already
    (temporary / "train-dead.lock").touch()
    with hold(temporary / "train-live.lock") as live:
        make(tmp_path)
        assert leftovers(tmp_path) == ["train-live"]
        assert (temporary / "train-live" / "half").read_text() == "written"
        live.stdin.close()
    make(tmp_path, stage="evaluate")
    assert leftovers(tmp_path) == []


def test_a_second_job_on_the_same_artifact_is_refused_and_does_not_disturb_the_first(tmp_path):
    messages = []

    def build(draft):
        writes("first")(draft)
        child = os.fork()  # a job of its own, while this one is at work
        if child == 0:
            try:
                make(tmp_path, "second")
            except CadcError as error:
                (tmp_path / "message").write_text(str(error))
            os._exit(0)
        os.waitpid(child, 0)
        messages.append((tmp_path / "message").read_text())

    artifact = run_stage(tmp_path, "train", SETTINGS, INPUTS, build)
    assert messages == [
        f"{tmp_path}: another job is making the same train artifact there; wait for it, or give "
        "this one a work folder of its own with --workdir."
    ]
    assert open_artifact(artifact.path).info == {"said": "first"}


@pytest.mark.parametrize("first_finishes", [True, False])
def test_a_second_job_that_may_wait_takes_what_the_first_made_or_makes_it(
    tmp_path, first_finishes, caplog
):
    caplog.set_level("INFO")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # the first job

        def build(draft):
            os.write(writing, b"x")
            time.sleep(0.5)
            if not first_finishes:
                os._exit(1)
            writes("first")(draft)

        make_with(tmp_path, build)
        os._exit(0)
    os.read(reading, 1)  # it is at work
    artifact = make_with(tmp_path, writes("second"), wait=True)
    os.waitpid(child, 0)
    assert artifact.cached == first_finishes
    assert artifact.info == {"said": "first" if first_finishes else "second"}
    (said,) = [r.message for r in caplog.records]
    assert said.startswith("waiting for another job that is making ")
    assert said.endswith(f"/train/{artifact.path.name}; --no-wait refuses instead")


def test_a_lock_is_waited_for_so_many_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_LOOK_SECONDS", 0.01)
    path = tmp_path / "lock"
    with atomic.locked(path) as first, atomic.locked(path, "waiting", 0.1) as second:
        assert (first, second) == (True, False)
    held, given_back = threading.Event(), threading.Event()

    def hold():
        with atomic.locked(path):
            held.set()
            given_back.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    threading.Timer(0.2, given_back.set).start()
    with atomic.locked(path, "waiting", 20) as mine:
        assert mine
    thread.join()


def test_a_draft_of_another_machine_is_left_for_a_day_though_its_lock_looks_free(tmp_path):
    """Locks that each machine keeps for itself, as with NFS mounted with `local_lock`."""
    theirs = tmp_path / ".tmp" / "train-0123456789abcdef"
    theirs.mkdir(parents=True)
    (theirs / "half").write_text("written")
    theirs.with_name(f"{theirs.name}.lock").write_text("another-machine")
    make(tmp_path, "mine")
    assert (theirs / "half").read_text() == "written"
    two_days_ago = time.time() - 2 * 24 * 3600
    for path in (theirs / "half", theirs):
        os.utime(path, (two_days_ago, two_days_ago))
    make(tmp_path, "mine again", force=True)
    assert not theirs.exists()


def make_with(workdir, build, **options):
    return run_stage(workdir, "train", SETTINGS, INPUTS, build, **options)


def test_jobs_on_different_artifacts_share_a_work_folder(tmp_path):
    def build(draft):
        writes("outer")(draft)
        make(tmp_path, "inner", stage="select")

    outer = run_stage(tmp_path, "train", SETTINGS, INPUTS, build)
    assert open_artifact(outer.path).info == {"said": "outer"}
    assert len(committed(tmp_path)) == 2


def test_what_another_job_finished_while_we_waited_for_the_lock_is_kept(tmp_path, monkeypatch):
    sweep, calls = atomic._sweep, []

    def sweep_slowly(temporary):
        monkeypatch.setattr(atomic, "_sweep", sweep)
        make(tmp_path, "theirs")
        sweep(temporary)

    monkeypatch.setattr(atomic, "_sweep", sweep_slowly)
    mine = make(tmp_path, "mine", calls=calls)
    assert mine.info == {"said": "theirs"}
    assert mine.cached
    assert calls == []


class Rank:
    """One of several ranks that run as threads; the box has a place for rank 0's word and each."""

    def __init__(self, rank, box, meet):
        self.rank, self.box, self.meet = rank, box, meet

    def broadcast(self, value):
        if self.rank == 0:
            self.box[0] = value
        self.meet.wait(20)
        value = self.box[0]
        self.meet.wait(20)
        return value

    def all_gather(self, value):
        self.box[1 + self.rank] = value
        self.meet.wait(20)
        values = self.box[1:]
        self.meet.wait(20)
        return values

    def barrier(self):
        self.meet.wait(20)

    def together(self, work=None):
        result = work() if work is not None else None
        self.meet.wait(20)
        return result


def run_on_two_ranks(workdir, builds):
    """What `run_stage` returns on each of two ranks."""
    box, meet, results = [None] * 3, threading.Barrier(2), {}

    def rank(number):
        def build(draft):
            builds.append(number)
            assert draft.path.is_dir()
            if number == 0:
                writes("shared")(draft)

        group = Rank(number, box, meet)
        results[number] = run_stage(workdir, "train", SETTINGS, INPUTS, build, group=group)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results[0], results[1]


def test_every_rank_builds_rank_0_commits_and_all_get_the_same_artifact(tmp_path):
    builds = []
    first, second = run_on_two_ranks(tmp_path, builds)
    assert sorted(builds) == [0, 1]
    assert first == second
    assert open_artifact(first.path).info == {"said": "shared"}
    first, second = run_on_two_ranks(tmp_path, builds)
    assert sorted(builds) == [0, 1]  # nobody builds what is there
    assert first.cached
    assert second.cached


# --- a disk that is full, protected or no folder ------------------------------------------------


def raises(error):
    def build(draft):
        (draft.path / "half.txt").write_text("written")
        raise error

    return build


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        # as DuckDB and safetensors say it
        RuntimeError("Failed to commit: Could not write file: No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError("20420 requested and 6112 written"),  # NumPy's
    ],
    ids=str,
)
def test_a_full_disk_ends_with_a_sentence_and_leaves_nothing(tmp_path, error):
    message = refusal(lambda: run_stage(tmp_path, "train", SETTINGS, INPUTS, raises(error)))
    assert message == (
        f"{tmp_path}: no space left; nothing was committed. Free some space, or choose another "
        "disk with --workdir."
    )
    assert committed(tmp_path) == leftovers(tmp_path) == []


def test_a_disk_that_is_full_for_a_rank_other_than_0_is_a_sentence_too(tmp_path):
    """Every rank writes its rows of tables."""
    second = SimpleNamespace(
        rank=1,
        together=lambda work=None: None,
        broadcast=lambda _: (False, str(tmp_path / "draft")),
    )
    (tmp_path / "draft").mkdir()
    error = OSError(errno.ENOSPC, "No space left on device")
    message = refusal(
        lambda: run_stage(tmp_path, "train", SETTINGS, INPUTS, raises(error), group=second)
    )
    assert message.startswith(f"{tmp_path}: no space left; nothing was committed.")


@pytest.mark.parametrize("force", [False, True])
def test_a_disk_that_is_full_at_the_last_moment_commits_nothing(tmp_path, monkeypatch, force):
    if force:
        make(tmp_path, "old")

    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        assert "no space left; nothing was committed" in refusal(
            lambda: make(tmp_path, "new", force=force)
        )
    assert leftovers(tmp_path) == []
    assert len(committed(tmp_path)) == int(force)
    assert make(tmp_path, "after").info == {"said": "old" if force else "after"}


def test_a_full_disk_is_found_on_a_real_one(small_disk):
    def build(draft):
        (draft.path / "large").write_bytes(os.urandom(2**20))

    workdir = small_disk("64k")
    message = refusal(lambda: run_stage(workdir, "train", SETTINGS, INPUTS, build))
    assert f"{workdir}" in message
    assert "no space left; nothing was committed" in message
    assert committed(workdir) == leftovers(workdir) == []
    assert make(workdir, "small").info == {"said": "small"}  # it was given back


def test_a_read_only_disk_is_named_with_the_remedy(small_disk):
    workdir = small_disk("64k,ro") / "work"
    assert refusal(lambda: make(workdir)) == (
        f"{workdir}: not writable; mend its rights, or choose another folder with --workdir."
    )


@pytest.fixture
def no_privileges():
    """Be an ordinary user, to whom the rights of files apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder(tmp_path):
    """A folder that an ordinary user can reach: pytest's own are its maker's alone."""
    folder = Path("/tmp") / f"cadc-rec-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    subprocess.run(["rm", "-r", str(folder)], check=True)


def test_a_folder_without_rights_is_named_with_the_remedy(open_folder, request):
    workdir = open_folder / "work"
    workdir.mkdir()
    workdir.chmod(0o555)
    request.getfixturevalue("no_privileges")
    message = refusal(lambda: make(workdir))
    assert message.startswith(f"{workdir}")
    assert "not writable; mend its rights, or choose another folder with --workdir." in message


def test_a_folder_that_may_not_be_entered_is_named_with_the_remedy(open_folder, request):
    (open_folder / "closed").mkdir(mode=0o700)
    (open_folder / "closed").chmod(0o000)
    workdir = open_folder / "closed" / "work"
    request.getfixturevalue("no_privileges")
    assert f"{workdir}" in refusal(lambda: make(workdir))
    assert "not writable" in refusal(lambda: make(workdir))


@pytest.mark.parametrize("file", ["manifest.json", "part/rows.txt"])
def test_a_file_that_may_not_be_read_is_named_with_the_remedy(open_folder, request, file):
    artifact = make(open_folder)
    (artifact.path / file).chmod(0o000)
    request.getfixturevalue("no_privileges")
    message = refusal(lambda: make(open_folder))
    assert f"{artifact.path / file}: cannot be read (Permission denied); mend its rights" in message


@pytest.mark.parametrize("place", ["work", "work/deeper/still", "work/.tmp", "work/train"])
def test_a_work_folder_that_is_a_file_is_named(tmp_path, place):
    file = tmp_path / place
    workdir = tmp_path / "work"
    if place == "work/deeper/still":
        file, workdir = tmp_path / "work", tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    calls = []
    message = refusal(lambda: make(workdir, calls=calls))
    assert message == f"{file}: is a file, not a folder; choose another one with --workdir."
    assert calls == []  # said before the work, not after
    assert file.read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_a_work_folder_that_cannot_be_made_is_named():
    message = refusal(lambda: make(Path("/proc/cadc-rec")))
    assert message.startswith("/proc/cadc-rec: cannot be made (")
    assert message.endswith("choose another folder with --workdir.")


def test_an_error_that_is_not_the_disks_stays_as_it_is(tmp_path):
    for error in (OSError(errno.EIO, "Input/output error"), FileExistsError(errno.EEXIST, "there")):
        with pytest.raises(OSError, match=error.strerror) as caught:
            run_stage(tmp_path, "train", SETTINGS, INPUTS, raises(error))
        assert caught.value is error


def test_settings_that_json_writes_differently_are_read_back_as_written(tmp_path):
    made = run_stage(tmp_path, "train", {"tower": (16, 8)}, {}, lambda draft: None)
    assert isinstance(made, Artifact)
    assert made.manifest == open_artifact(made.path).manifest
    assert isinstance(Draft(tmp_path).info, dict)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(CadcError, match="gives no locks") as raised:
        run_stage(tmp_path, "prepare", {}, {}, lambda draft: None)
    assert os.strerror(number) in str(raised.value)
    assert not list((tmp_path / "prepare").iterdir())
