"""torchx components: cadc-rec's stages as distributed jobs.

``torchx run -s local_cwd launch/components.py:train --config configs/demo.toml`` starts two local
processes. The plain equivalent is
``torchrun --standalone --nproc-per-node 2 -m cadc_rec train configs/demo.toml``.
"""

import torchx.specs as specs
from torchx.components import dist

from cadc_rec.distributed.launch import ENVIRONMENT


def train(
    config: str,
    workdir: str = "work",
    method: str = "",
    data_dir: str = "",
    set: str = "",
    j: str = "1x2",
    image: str = "",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    max_retries: int = 0,
) -> specs.AppDef:
    """Train the two towers, after whichever stages before that are not there yet.

    All ranks need to see `workdir`: a shared file system when they are on several nodes.

    Args:
        config: the experiment's TOML file
        workdir: where artifacts are kept
        method: cadc, random, gold or another; default: the experiment's
        data_dir: where raw archives lie
        set: settings to override, separated by semicolons: section.key=value;section.key=value
        j: nodes x processes per node, such as 2x8
        image: container image, for schedulers that run one
        cpu: cores to ask for on each node
        gpu: GPUs to ask for on each node; give as many as processes per node
        memMB: memory to ask for on each node, in MB
        max_retries: how often the whole job may be started anew
    """
    arguments = ["train", config, "--workdir", workdir]
    if method:
        arguments += ["--method", method]
    if data_dir:
        arguments += ["--data-dir", data_dir]
    for override in filter(None, set.split(";")):
        arguments += ["--set", override]
    return dist.ddp(
        *arguments,
        m="cadc_rec",
        name="cadc-rec-train",
        image=image,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        j=j,
        env=dict(ENVIRONMENT),
        max_retries=max_retries,
    )
