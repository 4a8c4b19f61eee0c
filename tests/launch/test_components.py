"""The torchx components: what they ask each scheduler for, and a real run in two processes."""

import json
import subprocess

import pytest
import yaml
from torchx.components.component_test_base import ComponentTestCase
from torchx.runner import get_runner

from cadc_rec.distributed.launch import ENVIRONMENT
from launch import components

STAGES = ("pretrain", "train", "evaluate")


class TestComponents(ComponentTestCase):
    def test_all_are_valid_components(self):
        for name in (*STAGES, "study"):
            self.validate(components, name)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_asks_for_the_processes_and_passes_the_experiment_on(stage):
    app = getattr(components, stage)(
        config="configs/ml-1m.toml",
        method="gold",
        set="train.epochs=3;evaluate.k=[1,10]",
        j="2x4",
        gpu=4,
        max_retries=2,
    )
    (role,) = app.roles
    assert role.num_replicas == role.min_replicas == 2
    assert role.resource.gpu == 4
    assert role.max_retries == 2
    line = " ".join(role.args)
    assert "--nproc_per_node 4" in line
    assert f"-m cadc_rec {stage} configs/ml-1m.toml --workdir work --method gold" in line
    assert "--set train.epochs=3 --set 'evaluate.k=[1,10]'" in line
    assert role.env.items() >= ENVIRONMENT.items()
    assert not any(name.startswith("PET_") for name in role.env)


def test_an_elastic_size_restarts_and_a_log_folder_reach_torchrun():
    app = components.train(config="a.toml", j="1:4x8", restarts=3, log_dir="/logs")
    (role,) = app.roles
    assert (role.min_replicas, role.num_replicas) == (1, 4)
    assert "--nnodes 1:4 --nproc_per_node 8" in " ".join(role.args)
    # torchrun itself says what it makes of them.
    from torch.distributed.run import get_args_parser

    with pytest.MonkeyPatch.context() as patch:
        for name, value in role.env.items():
            patch.setenv(name, value)
        understood = get_args_parser().parse_args(["-m", "cadc_rec"])
    assert (understood.max_restarts, understood.log_dir) == (3, "/logs")
    assert understood.rdzv_conf == "last_call_timeout=5"


def test_a_study_is_one_process():
    (role,) = components.study(grid="configs/study/smoke.toml", jobs=2, data_dir="/raw").roles
    assert role.num_replicas == 1
    line = " ".join(role.args)
    assert "--nnodes 1 --nproc_per_node 1" in line
    assert line.endswith(
        "-m cadc_rec study configs/study/smoke.toml --workdir work --jobs 2 --data-dir /raw"
    )


def dryrun(scheduler, app, **settings):
    with get_runner() as runner:
        return runner.dryrun(app, scheduler, settings)


def test_the_request_to_slurm():
    app = components.train(
        config="a.toml", workdir="/nfs/work", j="2x8", cpu=16, gpu=8, memMB=64000, max_retries=1
    )
    script = dryrun("slurm", app, partition="gpu").request.materialize()
    exported = ",".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    for node in range(2):
        assert (
            f"#SBATCH --job-name=cadc_rec-{node} --requeue --partition=gpu --ntasks-per-node=1 "
            "--cpus-per-task=16 --mem=64000 --gpus-per-task=8\n"
        ) in script
        assert f'--error=slurm-"$SLURM_JOB_ID"-cadc_rec-{node}.err' in script
    assert script.count(f"--export=ALL,{exported},") == 2
    # Both meet at the first node of the job.
    assert script.count("--rdzv_endpoint ${SLURM_JOB_NODELIST_HET_GROUP_0:=localhost}:29500") == 2
    assert script.count("--nnodes 2 --nproc_per_node 8") == 2
    assert script.count("-m cadc_rec train a.toml --workdir /nfs/work") == 2
    assert "export TORCHX_MAX_RETRIES=1\n" in script


def test_the_request_to_kubernetes():
    pytest.importorskip("kubernetes")
    app = components.train(
        config="a.toml",
        workdir="/shared/work",
        j="1:2x4",
        image="registry/cadc-rec:1",
        gpu=4,
        mounts="type=volume,src=claim,dst=/shared",
    )
    job = yaml.safe_load(str(dryrun("kubernetes", app, queue="default").request))
    assert (job["apiVersion"], job["kind"]) == ("batch.volcano.sh/v1alpha1", "Job")
    assert job["spec"]["queue"] == "default"
    first, second = job["spec"]["tasks"]
    assert (first["minAvailable"], second["minAvailable"]) == (1, 0)  # the second may come later
    hosts = ("TORCHX_RANK0_HOST", "VC_CADCREC_0_HOSTS")
    for task, host in zip((first, second), hosts, strict=True):
        assert task["replicas"] == 1
        spec = task["template"]["spec"]
        (container,) = spec["containers"]
        assert container["image"] == "registry/cadc-rec:1"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
        shell, option, line = container["command"]
        assert (shell, option) == ("bash", "-c")
        assert f"--rdzv_endpoint ${{{host}:=localhost}}:29500" in line
        assert "--nnodes 1:2 --nproc_per_node 4" in line
        assert line.endswith("-m cadc_rec train a.toml --workdir /shared/work")
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment.items() >= ENVIRONMENT.items()
        assert {"mountPath": "/shared", "name": "mount-0", "readOnly": False} in container[
            "volumeMounts"
        ]
        assert any(
            volume.get("persistentVolumeClaim") == {"claimName": "claim"}
            for volume in spec["volumes"]
        )


@pytest.mark.distributed
@pytest.mark.slow
def test_torchx_trains_in_two_local_processes(tiny, environment, tmp_path):
    done = subprocess.run(
        [
            *("torchx", "run", "--wait", "-s", "local_cwd"),
            *("-cfg", f"log_dir={tmp_path / 'logs'}", "launch/components.py:train"),
            *("--config", str(tiny), "--workdir", str(tmp_path / "work"), "-j", "1x2"),
            *("--log_dir", str(tmp_path / "processes")),
        ],
        cwd=components.__file__.removesuffix("/launch/components.py"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SUCCEEDED" in done.stderr
    (manifest,) = (tmp_path / "work" / "train").glob("*/manifest.json")
    info = json.loads(manifest.read_text())["info"]
    assert info["world_size"] == 2
    assert [entry["epoch"] for entry in info["history"]] == [1, 2]
    # A file for each process's own output.
    assert len(list((tmp_path / "processes").rglob("stderr.log"))) == 2
