"""Pipes that close, disks that are full, encodings without the letters, links to nowhere."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = "user_id,item_id,größe\n1,é1,5\n2,日本,6\n1,日本,6\n"

WRITERS = (
    "--help",
    pytest.param("inspect größe.csv --json", marks=pytest.mark.slow),
    pytest.param("inspect größe.csv", marks=pytest.mark.slow),
)


def shell(command, folder, **environ):
    """A command line in a shell with the program as $C; its exit code and output."""
    program = f"{sys.executable} -m cadc_rec"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "C": program, **environ},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )


@pytest.fixture
def table(tmp_path):
    (tmp_path / "größe.csv").write_text(TABLE, "utf-8")
    return tmp_path


@pytest.mark.parametrize("arguments", WRITERS)
def test_a_reader_that_has_gone_ends_it_in_silence(table, arguments):
    # The pipe is closed before anything is written, so that it does not depend on time.
    done = shell(f"$C {arguments} | true; echo ${{PIPESTATUS[0]}}", table)
    assert done.stdout == "141\n"
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", WRITERS)
def test_a_full_standard_output_is_one_sentence(table, arguments):
    done = shell(f"$C {arguments} > /dev/full", table)
    assert done.returncode == 2
    said = "error: standard output cannot be written (No space left on device); free some space.\n"
    assert done.stderr == said


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"LC_ALL": "C"}, marks=pytest.mark.slow),
        pytest.param(
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_letters_that_the_encoding_lacks_are_escaped_and_json_stays_json(table, environ):
    done = shell("$C inspect größe.csv --json", table, **environ)
    assert done.returncode == 0, done.stderr
    columns = json.loads(done.stdout)["tables"][0]["columns"]
    assert [column["name"] for column in columns] == ["user_id", "item_id", "größe"]


@pytest.mark.slow
def test_names_that_a_locale_without_utf_8_cannot_say_are_one_sentence(table):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell("$C inspect größe.csv", table, **ascii_only)
    assert done.returncode == 2
    assert "set LC_ALL=C.UTF-8" in done.stderr
    assert "defect" not in done.stderr


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("nodir/g.toml", ": there is no folder {}/nodir; make it, or name another file."),
        ("there", " already exists; remove it or name another file."),
        ("link.toml", " already exists; remove it or name another file."),
    ],
)
def test_a_config_that_cannot_be_written_is_refused_first(cli, table, out, sentence):
    (table / "there").mkdir()
    (table / "link.toml").symlink_to("nowhere.toml")
    done = cli("inspect", table / "missing.csv", "--out", table / out)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: {table / out}{sentence.format(table)}\n"


def test_links_that_lead_nowhere_are_named(cli, tmp_path):
    folder = tmp_path / "fold"
    folder.mkdir()
    (folder / "a.csv").write_text("user_id,item_id\n1,2\n")
    (folder / "b.csv").symlink_to("gone.csv")
    config = tmp_path / "c.toml"
    config.write_text(f'[data]\nsource = "tables"\n[data.tables.interactions]\npath = "{folder}"\n')
    (tmp_path / "l.toml").symlink_to("nowhere.toml")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    told = "is a link that leads nowhere (to"
    for arguments, link in (
        (("prepare", config, "--workdir", tmp_path / "w"), folder / "b.csv"),
        (("prepare", tmp_path / "l.toml", "--workdir", tmp_path / "w"), tmp_path / "l.toml"),
        (("inspect", folder), folder / "b.csv"),
        (("inspect", tmp_path / "loop.csv"), tmp_path / "loop.csv"),
    ):
        done = cli(*arguments)
        assert (done.code, done.out) == (2, "")
        assert f"error: {link}: {told}" in done.err


def test_a_command_waits_for_the_stage_that_another_job_makes_or_refuses(
    cli, finished, tiny, tmp_path
):
    work = Path(shutil.copytree(finished.workdir, tmp_path / "work"))
    key = Path(finished.result["artifacts"]["evaluate"]).name
    shutil.rmtree(work / "evaluate" / key)
    (work / ".tmp").mkdir(exist_ok=True)
    asked = ("evaluate", tiny, "--workdir", work)
    with (work / ".tmp" / f"evaluate-{key}.lock").open("a") as held:  # as the other job does
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = cli(*asked, "--no-wait")
        assert refused.code == 2
        assert "another job is making the same evaluate artifact there" in refused.err
        threading.Timer(1.0, lambda: fcntl.flock(held, fcntl.LOCK_UN)).start()
        done = cli(*asked)
    assert done.code == 0, done.err
    said = f"waiting for another job that is making {work / 'evaluate' / key}; --no-wait refuses"
    assert said in done.err
    assert done.err.index(said) < done.err.index("evaluate: made in")
