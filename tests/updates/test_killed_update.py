"""An update killed at any stage leaves what was there, and the same command ends it."""

import json
import shutil
import time

import pytest

from cadc_rec.store.artifact import open_artifact
from tests.updates.conftest import as_toml, settings

pytestmark = pytest.mark.slow


@pytest.fixture
def config(shop, tmp_path):
    path = tmp_path / "shop.toml"
    path.write_text(as_toml(settings(shop)))
    return path


def finished(spawn, config, folder, workdir):
    process = spawn("update", config, "--new", folder, "--workdir", workdir, "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return json.loads(out)


def bytes_of(workdir):
    """Every file of every artifact, each artifact whole; manifests tell the hour, and are left."""
    folders = [path.parent for path in workdir.glob("*/*/manifest.json")]
    files = [file for f in folders for file in open_artifact(f).path.rglob("*") if file.is_file()]
    return {
        file.relative_to(workdir): file.read_bytes()
        for file in files
        if file.name not in ("manifest.json", "metrics.json", "update.json")
    }


def test_killed_at_every_stage_it_ends_as_if_nothing_had_happened(
    workdir, config, day, spawn, tmp_path
):
    folder, undisturbed = day(), tmp_path / "undisturbed"
    shutil.copytree(workdir, undisturbed)
    expected = finished(spawn, config, folder, undisturbed)
    before = bytes_of(workdir)
    kills = 0
    for stage in ("prepare", "pretrain", "select", "train", "evaluate", "updates"):
        process = spawn("update", config, "--new", folder, "--workdir", workdir)
        end = time.monotonic() + 100
        pattern = f".tmp/{stage}-*" if stage != "updates" else ".tmp/updates-[0-9a-f]*"
        while process.poll() is None and not any(p.is_dir() for p in workdir.glob(pattern)):
            assert time.monotonic() < end
            time.sleep(0.001)
        process.kill()
        process.communicate()
        kills += process.returncode == -9
        there = bytes_of(workdir)
        assert before.items() <= there.items()
    assert kills >= 4  # a commit may slip in between the look and the kill
    again = finished(spawn, config, folder, workdir)
    assert again["report"]["metrics"] == expected["report"]["metrics"]
    assert bytes_of(workdir) == bytes_of(undisturbed)
    left = [p.name for p in (workdir / ".tmp").iterdir() if p.suffix != ".lock"]
    assert left == []
