"""A real Slurm runs the train component, on one node and on two."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "launch" / "slurm"
NEEDED = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "sbatch")

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def slurm(environment):
    """The environment of a person on a cluster of two nodes."""
    if os.geteuid():
        pytest.skip("bringing a Slurm up needs root")
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        pytest.skip(
            f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge "
            "slurmdbd mariadb-server"
        )
    # Not pytest's folder: the database runs as another user, who cannot get in there.
    lab = Path(tempfile.mkdtemp(prefix="slurm-lab-"))
    started = {**environment, "SLURM_LAB": str(lab)}
    try:
        up = subprocess.run(
            [SCRIPTS / "up.sh", "2"],
            env=started,
            # A file: the daemons keep what they inherit open, and a pipe would never end.
            stdout=(lab / "up.log").open("w"),
            stderr=subprocess.STDOUT,
            timeout=90,
        )
        assert up.returncode == 0, (lab / "up.log").read_text()
        yield {**environment, "SLURM_CONF": str(lab / "slurm.conf")}
    finally:
        subprocess.run([SCRIPTS / "down.sh"], env=started, check=True, timeout=60)
        shutil.rmtree(lab, ignore_errors=True)


def torchx(scheduler, folder, config, nodes_by_processes, environment, *options):
    """Run the component to its end; what the train stage says."""
    done = subprocess.run(
        [
            *("torchx", "run", "--wait", "-s", scheduler, *options),
            *("launch/components.py:train", "--config", str(config)),
            *("--workdir", str(folder / "work"), "-j", nodes_by_processes),
            *("--cpu", "1", "--memMB", "2000"),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    logs = "\n".join(p.read_text()[-3000:] for p in folder.glob("job/slurm-*.err"))
    assert done.returncode == 0, done.stderr[-3000:] + logs
    assert "SUCCEEDED" in done.stderr
    return trained(folder / "work")


def trained(workdir):
    (manifest,) = (workdir / "train").glob("*/manifest.json")
    return json.loads(manifest.read_text())["info"]


@pytest.fixture(scope="module")
def local(tiny, environment, tmp_path_factory):
    """The same on two local processes, without Slurm."""
    folder = tmp_path_factory.mktemp("local")
    logs = ("-cfg", f"log_dir={folder / 'logs'}")
    return torchx("local_cwd", folder, tiny, "1x2", environment, *logs)


@pytest.mark.parametrize("nodes_by_processes", ["1x2", "2x1"])
def test_slurm_trains_to_the_metrics_of_a_local_run(
    nodes_by_processes, slurm, local, tiny, tmp_path
):
    options = ("-cfg", f"job_dir={tmp_path / 'job'}")
    info = torchx("slurm", tmp_path, tiny, nodes_by_processes, slurm, *options)
    assert info["world_size"] == 2
    assert info["best_epoch"] == local["best_epoch"]
    for mine, theirs in zip(info["history"], local["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)
    nodes = int(nodes_by_processes[0])
    assert len(list((tmp_path / "job").glob("slurm-*.err"))) == nodes


def test_what_a_user_can_mend_is_in_the_jobs_log_and_stays_there_when_it_is_requeued(
    slurm, tiny, tmp_path
):
    command = [
        *("torchx", "run", "-s", "slurm", "-cfg", f"job_dir={tmp_path / 'job'}"),
        *("launch/components.py:prepare", "--config", str(tiny), "--set", "data.k_core=99"),
        *("--workdir", str(tmp_path / "work"), "--memMB", "2000"),
    ]
    asked = subprocess.run(
        command, cwd=ROOT, env=slurm, check=True, capture_output=True, text=True, timeout=60
    )
    number = asked.stdout.rpartition("/")[2].strip()
    batch = tmp_path / "job" / f"slurm-{number}.out"
    said = "traceback : error: data.k_core = 99 leaves no interaction"

    def control(*words):
        return subprocess.run(["scontrol", *words], env=slurm, capture_output=True, text=True)

    def ends(times):
        """Wait until it has ended so often; what its rank wrote."""
        end = time.monotonic() + 200
        while True:
            text = "".join(path.read_text() for path in tmp_path.glob("job/slurm-*.err"))
            shown = batch.read_text() if batch.exists() else ""
            ended = shown.count("\njob exited with code 1")
            state = control("show", "job", number).stdout
            if ended == times and "JobState=FAILED" in state:
                return text
            assert time.monotonic() < end, f"ended {ended} times\n{text}\n{shown}\n{state}"
            # Slurm lets a requeued job wait for two minutes.
            control("update", f"JobId={number}", "StartTime=now")
            time.sleep(1)

    assert ends(1).count(said) == 1
    # A node counts whole seconds: it takes a start in the second of the job's end for one of the
    # job that it has just killed ("already killed, do not launch"), and never runs it.
    time.sleep(2)
    assert control("requeue", number).returncode == 0
    # What the rank and the script of the first start wrote is still there.
    assert ends(2).count(said) == 2
