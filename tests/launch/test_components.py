"""The torchx components: what they ask each scheduler for, and a real run in two processes."""

import json
import os
import subprocess

import pytest
import yaml
from torchx.components.component_test_base import ComponentTestCase
from torchx.runner import get_runner
from torchx.specs.builders import materialize_appdef

from cadc_rec.distributed.launch import ENVIRONMENT
from launch import components

STAGES = ("pretrain", "train", "evaluate")


class TestComponents(ComponentTestCase):
    def test_all_are_valid_components(self):
        for name in components.NAMES:
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


def line_of(app):
    """The command line of each node."""
    return " ".join(app.roles[0].args)


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("prepare", {}, "prepare a.toml --workdir work"),
        ("select", {"force": True}, "select a.toml --workdir work --force"),
        ("export", {"out": "/bundle"}, "export a.toml --workdir work --out /bundle"),
    ],
)
def test_what_one_process_does_is_a_job_of_one(name, more, said):
    app = getattr(components, name)(config="a.toml", **more)
    assert "--nnodes 1 --nproc_per_node 1" in line_of(app)
    assert line_of(app).endswith(f"-m cadc_rec {said}")


def test_an_update_is_a_job_of_several():
    app = components.update(config="a.toml", new="/days/2", j="2x4")
    assert "--nnodes 2 --nproc_per_node 4" in line_of(app)
    assert line_of(app).endswith("-m cadc_rec update a.toml --workdir work --new /days/2")


def test_a_run_is_forced_and_goes_on_from_a_checkpoint_where_that_is_asked_for():
    app = components.run(config="a.toml", j="2x8", force=True, resume="/c/000001-step-9")
    assert line_of(app).endswith("run a.toml --workdir work --force --resume /c/000001-step-9")


@pytest.mark.parametrize(
    ("asked", "cpu", "memory"),
    [
        ({"j": "1x2"}, 2, 4096),  # a core and 2 GiB a process
        ({"j": "2x8", "gpu": 8}, 64, 512_000),  # 8 cores and 64 GB a GPU
        ({"j": "1:4x4", "gpu": 4, "cpu": 10}, 10, 256_000),
        ({"j": "1x4", "memMB": 500}, 4, 500),
    ],
)
def test_what_a_node_is_asked_for_follows_from_its_gpus_and_processes(asked, cpu, memory, capsys):
    resource = components.train(config="a.toml", **asked).roles[0].resource
    assert (resource.cpu, resource.memMB) == (cpu, memory)
    assert f"asked for {cpu} cores" in capsys.readouterr().err


def test_the_network_more_variables_caches_and_machines_reach_the_nodes():
    app = components.train(
        config="a.toml",
        gpu=8,
        fabric="efa",
        devices="vpc.amazonaws.com/efa=32",
        env="NCCL_DEBUG=INFO;LISTED=a=b",
        cache="/shared/cache",
        instance_type="p5.48xlarge",
    )
    (role,) = app.roles
    assert (
        role.env.items()
        >= {
            "FI_PROVIDER": "efa",
            "NCCL_DEBUG": "INFO",
            "LISTED": "a=b",
            "XDG_CACHE_HOME": "/shared/cache",
            "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        }.items()
    )
    assert role.resource.devices == {"vpc.amazonaws.com/efa": 32}
    assert role.resource.capabilities == {"node.kubernetes.io/instance-type": "p5.48xlarge"}


@pytest.mark.parametrize(
    ("fabric", "variables", "devices"),
    [
        ("ib", {"NCCL_IB_DISABLE": "0", "NCCL_IB_HCA": "mlx5", "NCCL_IB_TIMEOUT": "22"}, {}),
        ("tcp", {"NCCL_IB_DISABLE": "1", "NCCL_NET": "Socket"}, {}),
        ("efa", {"FI_PROVIDER": "efa"}, {"vpc.amazonaws.com/efa": 1}),
        ("", {}, {}),
    ],
)
def test_each_network_has_its_variables_and_devices(fabric, variables, devices):
    (role,) = components.run(config="a.toml", gpu=8, j="2x8", fabric=fabric).roles
    of_network = {k: v for k, v in role.env.items() if k.startswith(("NCCL_", "FI_"))}
    assert of_network.items() >= variables.items()
    assert bool(of_network) == bool(fabric)
    assert role.resource.devices == devices


def test_the_doctor_examines_the_ranks_that_a_job_would_have():
    app = components.doctor(workdir="s3://bucket/work", j="2x8", gpu=8)
    assert "--nnodes 2 --nproc_per_node 8" in line_of(app)
    assert line_of(app).endswith("-m cadc_rec doctor --distributed --workdir s3://bucket/work")
    script = dryrun("slurm", app, partition="gpu").request.materialize()
    assert script.count("-m cadc_rec doctor --distributed") == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fabric": "wifi"}, "choose one of efa, ib, tcp"),
        ({"env": "TOKEN=se;cret"}, "--env: part 2 is wrong; give NAME=VALUE"),
        ({"j": "2by8"}, "-j 2by8: give nodes x processes per node"),
        ({"devices": "x=y"}, "--devices x=y: give a number"),
    ],
)
def test_a_wrong_argument_is_one_sentence(wrong, said, capsys):
    with pytest.raises(SystemExit) as ended:
        components.train(config="a.toml", **wrong)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert "cret" not in err


def test_help_lists_each_argument_with_what_it_is(capsys):
    with pytest.raises(SystemExit):
        materialize_appdef(components.train, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--config str the experiment's TOML file (required)" in text
    assert "--resume str the checkpoint to go on from" in text


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
    # srun and sbatch read it: a requeued job's output is added to that of its first start.
    assert os.environ["SLURM_OPEN_MODE"] == os.environ["SBATCH_OPEN_MODE"] == "append"


def test_the_request_to_kubernetes():
    app = components.train(
        config="a.toml",
        workdir="/shared/work",
        j="1:2x4",
        image="registry/cadc-rec:1",
        gpu=4,
        mounts="type=volume,src=claim,dst=/shared",
        max_retries=3,
    )
    job = yaml.safe_load(str(dryrun("kubernetes", app, queue="default").request))
    assert (job["apiVersion"], job["kind"]) == ("batch.volcano.sh/v1alpha1", "Job")
    assert job["spec"]["queue"] == "default"
    assert job["spec"]["maxRetry"] == 3
    assert job["spec"]["tasks"][0]["policies"] == [
        {"event": "PodEvicted", "action": "RestartJob"},
        {"event": "PodFailed", "action": "RestartJob"},
    ]
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
