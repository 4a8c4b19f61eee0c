"""torchx components: cadc-rec's stages as distributed jobs.

``torchx run -s local_cwd launch/components.py:train --config configs/demo.toml`` starts two local
processes; with ``-s slurm`` or ``-s kubernetes`` the same line starts them on a cluster. Each is a
thin layer over ``dist.ddp``, which runs ``torchrun ... -m cadc_rec STAGE CONFIG``: the plain
equivalents are in docs/launching.md.
"""

# torchx reads the arguments' types from the signatures, so `from __future__ import annotations`
# must not stand here. It also reads this file's text, so each component writes out its signature.
import torchx.specs as specs
from torchx.components import dist

from cadc_rec.distributed.launch import ENVIRONMENT

# How long an elastic job waits for more nodes once it has its fewest, at the start and at each
# restart. torchrun's default of 30 seconds would be most of what a restart takes.
_LAST_CALL_SECONDS = 5


def pretrain(
    config: str,
    workdir: str = "work",
    method: str = "",
    data_dir: str = "",
    set: str = "",
    j: str = "1x2",
    image: str = "",
    h: str = "",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    max_retries: int = 0,
    restarts: int = 0,
    log_dir: str = "",
    rdzv_port: int = 29500,
    mounts: str = "",
) -> specs.AppDef:
    """Learn id vectors from every training interaction, after preparing the data if needed.

    All ranks need to see `workdir`: a shared file system when they are on several nodes.

    Args:
        config: the experiment's TOML file
        workdir: folder that keeps all artifacts
        method: cadc, random, gold or another; default: the experiment's
        data_dir: folder with the raw data
        set: settings to override, separated by semicolons: section.key=value;section.key=value
        j: nodes x processes per node, such as 2x8; 1:4x8 accepts 1 to 4 nodes
        image: container image, for schedulers that run one
        h: a resource by name, such as a cloud's machine type; then cpu, gpu and memMB are ignored
        cpu: cores to ask for on each node
        gpu: GPUs to ask for on each node; give as many as processes per node
        memMB: memory to ask for on each node, in MB
        max_retries: how often the scheduler may start the whole job again
        restarts: how often torchrun may start all workers again within the job, after one died
        log_dir: folder for each process's own output, on its node; default: a temporary folder
        rdzv_port: port on the first node, where the nodes meet
        mounts: volumes for container schedulers, such as type=volume,src=CLAIM,dst=/shared
    """
    return _job(
        "pretrain",
        _experiment(config, workdir, method, data_dir, set),
        j=j,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        restarts=restarts,
        log_dir=log_dir,
        rdzv_port=rdzv_port,
        mounts=mounts,
    )


def train(
    config: str,
    workdir: str = "work",
    method: str = "",
    data_dir: str = "",
    set: str = "",
    j: str = "1x2",
    image: str = "",
    h: str = "",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    max_retries: int = 0,
    restarts: int = 0,
    log_dir: str = "",
    rdzv_port: int = 29500,
    mounts: str = "",
) -> specs.AppDef:
    """Train the two towers, after any earlier stages that are not finished yet.

    All ranks need to see `workdir`: a shared file system when they are on several nodes.

    Args:
        config: the experiment's TOML file
        workdir: folder that keeps all artifacts
        method: cadc, random, gold or another; default: the experiment's
        data_dir: folder with the raw data
        set: settings to override, separated by semicolons: section.key=value;section.key=value
        j: nodes x processes per node, such as 2x8; 1:4x8 accepts 1 to 4 nodes
        image: container image, for schedulers that run one
        h: a resource by name, such as a cloud's machine type; then cpu, gpu and memMB are ignored
        cpu: cores to ask for on each node
        gpu: GPUs to ask for on each node; give as many as processes per node
        memMB: memory to ask for on each node, in MB
        max_retries: how often the scheduler may start the whole job again
        restarts: how often torchrun may start all workers again within the job, after one died
        log_dir: folder for each process's own output, on its node; default: a temporary folder
        rdzv_port: port on the first node, where the nodes meet
        mounts: volumes for container schedulers, such as type=volume,src=CLAIM,dst=/shared
    """
    return _job(
        "train",
        _experiment(config, workdir, method, data_dir, set),
        j=j,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        restarts=restarts,
        log_dir=log_dir,
        rdzv_port=rdzv_port,
        mounts=mounts,
    )


def evaluate(
    config: str,
    workdir: str = "work",
    method: str = "",
    data_dir: str = "",
    set: str = "",
    j: str = "1x2",
    image: str = "",
    h: str = "",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    max_retries: int = 0,
    restarts: int = 0,
    log_dir: str = "",
    rdzv_port: int = 29500,
    mounts: str = "",
) -> specs.AppDef:
    """Rank the held-out items and measure, after any earlier stages that are not finished yet.

    All ranks need to see `workdir`: a shared file system when they are on several nodes.

    Args:
        config: the experiment's TOML file
        workdir: folder that keeps all artifacts
        method: cadc, random, gold or another; default: the experiment's
        data_dir: folder with the raw data
        set: settings to override, separated by semicolons: section.key=value;section.key=value
        j: nodes x processes per node, such as 2x8; 1:4x8 accepts 1 to 4 nodes
        image: container image, for schedulers that run one
        h: a resource by name, such as a cloud's machine type; then cpu, gpu and memMB are ignored
        cpu: cores to ask for on each node
        gpu: GPUs to ask for on each node; give as many as processes per node
        memMB: memory to ask for on each node, in MB
        max_retries: how often the scheduler may start the whole job again
        restarts: how often torchrun may start all workers again within the job, after one died
        log_dir: folder for each process's own output, on its node; default: a temporary folder
        rdzv_port: port on the first node, where the nodes meet
        mounts: volumes for container schedulers, such as type=volume,src=CLAIM,dst=/shared
    """
    return _job(
        "evaluate",
        _experiment(config, workdir, method, data_dir, set),
        j=j,
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        restarts=restarts,
        log_dir=log_dir,
        rdzv_port=rdzv_port,
        mounts=mounts,
    )


def study(
    grid: str,
    workdir: str = "work",
    data_dir: str = "",
    jobs: int = 1,
    image: str = "",
    h: str = "",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    max_retries: int = 0,
    log_dir: str = "",
    mounts: str = "",
) -> specs.AppDef:
    """Run a grid of experiments, cell by cell; a restarted job continues where it stopped.

    A study is one process: it starts each cell as processes of its own, as many as that cell's
    compute.processes says. So there is nothing to spread over several nodes.

    Args:
        grid: the study's TOML file
        workdir: where artifacts and records are kept
        data_dir: folder with the raw data
        jobs: cells that run at the same time; measured times compare only with 1
        image: container image, for schedulers that run one
        h: a resource by name, such as a cloud's machine type; then cpu, gpu and memMB are ignored
        cpu: cores to ask for
        gpu: GPUs to ask for; as many as a cell's processes, times jobs
        memMB: memory to ask for, in MB
        max_retries: how often the scheduler may start the job again
        log_dir: folder for the process's own output; default: a temporary folder
        mounts: volumes for container schedulers, such as type=volume,src=CLAIM,dst=/shared
    """
    arguments = [grid, "--workdir", workdir, "--jobs", str(jobs)]
    if data_dir:
        arguments += ["--data-dir", data_dir]
    return _job(
        "study",
        arguments,
        j="1x1",
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        restarts=0,
        log_dir=log_dir,
        rdzv_port=29500,
        mounts=mounts,
    )


def _experiment(config: str, workdir: str, method: str, data_dir: str, set: str) -> list[str]:
    """A stage's command line, after its name."""
    arguments = [config, "--workdir", workdir]
    if method:
        arguments += ["--method", method]
    if data_dir:
        arguments += ["--data-dir", data_dir]
    for override in filter(None, set.split(";")):
        arguments += ["--set", override]
    return arguments


def _job(
    command: str,
    arguments: list[str],
    *,
    j: str,
    image: str,
    h: str,
    cpu: int,
    gpu: int,
    memMB: int,
    max_retries: int,
    restarts: int,
    log_dir: str,
    rdzv_port: int,
    mounts: str,
) -> specs.AppDef:
    """``torchrun -m cadc_rec COMMAND ARGUMENTS`` on the nodes and with the resources asked for."""
    environment = dict(ENVIRONMENT)
    # dist.ddp has no arguments for these; torchrun reads each of its options from PET_NAME too.
    if ":" in j:
        environment["PET_RDZV_CONF"] = f"last_call_timeout={_LAST_CALL_SECONDS}"
    if restarts:
        environment["PET_MAX_RESTARTS"] = str(restarts)
    if log_dir:
        environment["PET_LOG_DIR"] = log_dir
    return dist.ddp(
        command,
        *arguments,
        m="cadc_rec",
        name=f"cadc-rec-{command}",
        image=image,
        h=h or None,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=j,
        env=environment,
        max_retries=max_retries,
        rdzv_port=rdzv_port,
        mounts=mounts.split(",") if mounts else None,
    )
