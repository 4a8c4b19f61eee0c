"""torchx components: cadc-rec's commands as distributed jobs.

``torchx run -s local_cwd launch/components.py:train --config configs/demo.toml`` starts two local
processes; with ``-s slurm`` or ``-s kubernetes`` the same line starts them on a cluster. Each is a
thin layer over ``dist.ddp``, which runs ``torchrun ... -m cadc_rec COMMAND CONFIG``: the plain
equivalents are in docs/launching.md.
"""

# torchx executes this file's text among names of its own: nothing here may be called like one of
# them, or rely on the file's place. It reads the arguments from each component's signature.
import dataclasses
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torchx.specs as specs
from torchx.components import dist

from cadc_rec.distributed.launch import ENVIRONMENT

# How long an elastic job waits for more nodes once it has its fewest, at the start and at each
# restart. torchrun's default of 30 seconds would be most of what a restart takes.
_LAST_CALL_SECONDS = 5

# Asked for where nothing else is said; a process on a CPU, or a GPU of a node.
_CORES_PER_PROCESS, _MEMORY_PER_PROCESS = 1, 2048
_CORES_PER_GPU, _MEMORY_PER_GPU = 8, 64_000

# What NCCL needs of each kind of network between the nodes, and what the pods ask for.
_FABRICS: Mapping[str, Mapping[str, str]] = {
    "efa": {"FI_PROVIDER": "efa", "FI_EFA_USE_HUGE_PAGE": "0"},
    "ib": {"NCCL_IB_DISABLE": "0", "NCCL_IB_HCA": "mlx5", "NCCL_IB_TIMEOUT": "22"},
    "tcp": {"NCCL_IB_DISABLE": "1", "NCCL_NET": "Socket"},
}
_FABRIC_DEVICES = {"efa": {"vpc.amazonaws.com/efa": 1}}
# A collective that waited in vain leaves what each rank did last (torch's flight recorder).
_OF_GPUS = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}

NAMES = (
    *("prepare", "pretrain", "select", "train", "evaluate"),
    *("run", "update", "export", "study", "doctor"),
)


class _Argument(NamedTuple):
    """An argument of a component; without a default it must be given."""

    name: str
    default: str | int | bool | None
    help: str


_EXPERIMENT = (
    _Argument("config", None, "the experiment's TOML file"),
    _Argument("workdir", "work", "folder that keeps all artifacts; all ranks must see it"),
    _Argument("method", "", "cadc, random, gold or another; default: the experiment's"),
    _Argument("data_dir", "", "folder with the raw data"),
    _Argument("set", "", "settings to override: section.key=value;section.key=value"),
)
_FORCE = (_Argument("force", False, "True makes the result again even if it exists"),)
_RESUME = (_Argument("resume", "", "the checkpoint to go on from; default: the newest"),)
_SEVERAL = (
    _Argument("j", "1x2", "nodes x processes per node, such as 2x8; 1:4x8 accepts 1 to 4 nodes"),
    _Argument("restarts", 0, "how often torchrun may start all workers again after one died"),
    _Argument("rdzv_port", 29500, "port on the first node, where the nodes meet"),
)
_JOB = (
    _Argument("image", "", "container image, for schedulers that run one"),
    _Argument("h", "", "a resource by name; then cpu, gpu and memMB are ignored"),
    _Argument("cpu", 0, "cores to ask for on each node; 0: 8 a GPU, or 1 a process"),
    _Argument("gpu", 0, "GPUs to ask for on each node; give as many as processes per node"),
    _Argument("memMB", 0, "memory of each node, in MB; 0: 64000 a GPU, or 2048 a process"),
    _Argument("max_retries", 0, "how often the scheduler may start the whole job again"),
    _Argument("log_dir", "", "folder for each process's output, on its node; default: temporary"),
    _Argument("mounts", "", "volumes, such as type=volume,src=CLAIM,dst=/shared"),
    _Argument("cache", "", "folder that keeps downloads and compiled kernels for later jobs"),
    _Argument("env", "", "environment variables: NAME=VALUE;NAME=VALUE"),
    _Argument("fabric", "", "network between the nodes: efa, ib or tcp; default: NCCL chooses"),
    _Argument("devices", "", "more to ask for on each node: vpc.amazonaws.com/efa=32"),
    _Argument("instance_type", "", "Kubernetes: only nodes of this machine type"),
)


def _cadc_rec_component(
    *groups: tuple[_Argument, ...],
) -> Callable[[Callable[..., specs.AppDef]], Callable[..., specs.AppDef]]:
    """Give a component these arguments, in its signature and its help, and their defaults."""
    arguments = [argument for group in groups for argument in group]

    def signed(function: Callable[..., specs.AppDef]) -> Callable[..., specs.AppDef]:
        @functools.wraps(function)
        def component(**given: Any) -> specs.AppDef:
            return function(**{a.name: given.get(a.name, a.default) for a in arguments})

        parameters = [
            inspect.Parameter(
                argument.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if argument.default is None else argument.default,
                annotation=str if argument.default is None else type(argument.default),
            )
            for argument in arguments
        ]
        signature = inspect.Signature(parameters, return_annotation=specs.AppDef)
        component.__signature__ = signature  # type: ignore[attr-defined]
        helps = "\n".join(f"    {argument.name}: {argument.help}" for argument in arguments)
        component.__doc__ = f"{function.__doc__}\n\nArgs:\n{helps}\n"
        return component

    return signed


@_cadc_rec_component(_EXPERIMENT, _FORCE, _JOB)
def prepare(**asked: Any) -> specs.AppDef:
    """Make the dataset; one process."""
    return _job("prepare", _experiment(asked), asked)


@_cadc_rec_component(_EXPERIMENT, _FORCE, _SEVERAL, _JOB)
def pretrain(**asked: Any) -> specs.AppDef:
    """Learn id vectors from every training interaction, after preparing the data if needed."""
    return _job("pretrain", _experiment(asked), asked)


@_cadc_rec_component(_EXPERIMENT, _FORCE, _JOB)
def select(**asked: Any) -> specs.AppDef:
    """Choose the interactions that the towers are trained on; one process."""
    return _job("select", _experiment(asked), asked)


@_cadc_rec_component(_EXPERIMENT, _FORCE, _RESUME, _SEVERAL, _JOB)
def train(**asked: Any) -> specs.AppDef:
    """Train the two towers, after any earlier stages that are not finished yet."""
    return _job("train", _experiment(asked), asked)


@_cadc_rec_component(_EXPERIMENT, _FORCE, _SEVERAL, _JOB)
def evaluate(**asked: Any) -> specs.AppDef:
    """Rank the held-out items and measure, after any earlier stages that are not finished yet."""
    return _job("evaluate", _experiment(asked), asked)


@_cadc_rec_component(_EXPERIMENT, _FORCE, _RESUME, _SEVERAL, _JOB)
def run(**asked: Any) -> specs.AppDef:
    """Run all stages."""
    return _job("run", _experiment(asked), asked)


@_cadc_rec_component(
    _EXPERIMENT, (_Argument("new", None, "folder with the new tables"),), _SEVERAL, _JOB
)
def update(**asked: Any) -> specs.AppDef:
    """Add a day's new interactions to a finished run."""
    return _job("update", [*_experiment(asked), "--new", asked["new"]], asked)


@_cadc_rec_component(
    _EXPERIMENT, (_Argument("out", None, "folder of the bundle to write"),), _FORCE, _JOB
)
def export(**asked: Any) -> specs.AppDef:
    """Write the bundle that a service needs of a finished run; one process."""
    return _job("export", [*_experiment(asked), "--out", asked["out"]], asked)


@_cadc_rec_component(
    (
        _Argument("grid", None, "the study's TOML file"),
        _Argument("workdir", "work", "where artifacts and records are kept"),
        _Argument("data_dir", "", "folder with the raw data"),
        _Argument("jobs", 1, "cells that run at the same time; times compare only with 1"),
    ),
    _JOB,
)
def study(**asked: Any) -> specs.AppDef:
    """Run a grid of experiments, cell by cell; a restarted job continues where it stopped.

    A study is one process: it starts each cell as processes of its own, as many as that cell's
    compute.processes says. So there is nothing to spread over several nodes.
    """
    arguments = [asked["grid"], "--workdir", asked["workdir"], "--jobs", str(asked["jobs"])]
    if asked["data_dir"]:
        arguments += ["--data-dir", asked["data_dir"]]
    return _job("study", arguments, asked)


@_cadc_rec_component(
    (_Argument("workdir", "work", "the work folder that the job would have"),), _SEVERAL, _JOB
)
def doctor(**asked: Any) -> specs.AppDef:
    """Check the ranks, machines and the work folder that a job would have; one table."""
    return _job("doctor", ["--distributed", "--workdir", asked["workdir"]], asked)


def _experiment(asked: Mapping[str, Any]) -> list[str]:
    """A command's arguments, after its name."""
    arguments = [asked["config"], "--workdir", asked["workdir"]]
    for name in ("method", "data_dir"):
        if asked[name]:
            arguments += [f"--{name.replace('_', '-')}", asked[name]]
    for override in filter(None, asked["set"].split(";")):
        arguments += ["--set", override]
    if asked.get("force"):
        arguments.append("--force")
    if asked.get("resume"):
        arguments += ["--resume", asked["resume"]]
    return arguments


def _job(command: str, arguments: list[str], asked: Mapping[str, Any]) -> specs.AppDef:
    """``torchrun -m cadc_rec COMMAND ARGUMENTS`` on the nodes and with the resources asked for."""
    # A requeued job would write over the output of its first start: srun the ranks', and sbatch
    # that of the script. Each reads this from the environment of `torchx run`.
    for reader in ("SLURM", "SBATCH"):
        os.environ.setdefault(f"{reader}_OPEN_MODE", "append")
    j, gpu = asked.get("j", "1x1"), asked["gpu"]
    if re.fullmatch(r"((\d+:)?\d+x)?\d+", j) is None:
        _refuse(f"-j {j}: give nodes x processes per node, such as 2x8, or 1:4x8 for 1 to 4 nodes.")
    processes = gpu or int(j.rpartition("x")[2])
    cpu = asked["cpu"] or processes * (_CORES_PER_GPU if gpu else _CORES_PER_PROCESS)
    memory = asked["memMB"] or processes * (_MEMORY_PER_GPU if gpu else _MEMORY_PER_PROCESS)
    if not asked["h"]:
        print(
            f"each node is asked for {cpu} cores, {gpu} GPUs and {memory:,} MB of memory (--cpu, "
            "--gpu, --memMB); shared memory in containers is part of it",
            file=sys.stderr,
        )
    app = dist.ddp(
        command,
        *arguments,
        m="cadc_rec",
        name=f"cadc-rec-{command}",
        image=asked["image"],
        h=asked["h"] or None,
        cpu=cpu,
        gpu=gpu,
        memMB=memory,
        j=j,
        env=_environment(asked, j),
        max_retries=asked["max_retries"],
        rdzv_port=asked.get("rdzv_port", 29500),
        mounts=asked["mounts"].split(",") if asked["mounts"] else None,
    )
    (role,) = app.roles
    capabilities, devices = dict(role.resource.capabilities), dict(role.resource.devices)
    if asked["instance_type"]:
        capabilities["node.kubernetes.io/instance-type"] = asked["instance_type"]
    devices |= _FABRIC_DEVICES.get(asked["fabric"], {})
    for name, count in _pairs("devices", asked["devices"]).items():
        if not count.isdecimal():
            _refuse(f"--devices {name}={count}: give a number, such as vpc.amazonaws.com/efa=32.")
        devices[name] = int(count)
    role.resource = dataclasses.replace(role.resource, capabilities=capabilities, devices=devices)
    return app


def _environment(asked: Mapping[str, Any], j: str) -> dict[str, str]:
    """The environment of every node's torchrun, and so of its processes."""
    environment = dict(ENVIRONMENT)
    # dist.ddp has no arguments for these; torchrun reads each of its options from PET_NAME too.
    if ":" in j:
        environment["PET_RDZV_CONF"] = f"last_call_timeout={_LAST_CALL_SECONDS}"
    if asked.get("restarts"):
        environment["PET_MAX_RESTARTS"] = str(asked["restarts"])
    if asked["log_dir"]:
        environment["PET_LOG_DIR"] = asked["log_dir"]
    if asked["gpu"]:
        environment |= _OF_GPUS
    if asked["cache"]:
        for name, part in (
            ("XDG_CACHE_HOME", ""),
            ("TRITON_CACHE_DIR", "/triton"),
            ("NUMBA_CACHE_DIR", "/numba"),
        ):
            environment[name] = f"{asked['cache']}{part}"
    if asked["fabric"]:
        if asked["fabric"] not in _FABRICS:
            _refuse(f"--fabric {asked['fabric']}: choose one of {', '.join(_FABRICS)}.")
        environment |= _FABRICS[asked["fabric"]]
    return environment | _pairs("env", asked["env"])


def _pairs(name: str, text: str) -> dict[str, str]:
    """The parts of ``NAME=VALUE;NAME=VALUE``."""
    parts = [part.partition("=") for part in filter(None, text.split(";"))]
    for number, (key, equals, _) in enumerate(parts, 1):
        if not (key and equals):  # which may be the rest of a secret, so it is not printed
            _refuse(f"--{name}: part {number} is wrong; give NAME=VALUE, separated by semicolons.")
    return {key: value for key, _, value in parts}


def _refuse(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)
