"""The command that plans an experiment for any number of processes, without starting one."""

from functools import partial
from typing import Annotated, Any, Literal

import typer

from cadc_rec import strict_json
from cadc_rec.cli.options import WORKDIR, AsJson, Cache, Config, Debug, Method, Sets, Workdir
from cadc_rec.errors import CadcError

_GPU, _HOST = "80GiB", "128GiB"


def _count(option: str, text: str) -> int:
    """A whole number above 0, such as 50M.

    Raises:
        CadcError: it is none.
    """
    from cadc_rec.config.types import parse_number

    try:
        number = parse_number(text)
    except ValueError:
        number = 0.0
    if not number.is_integer() or not 1 <= number < 2**63:
        raise CadcError(
            f"{option} {text}: write a whole number above 0, such as 3000 or 50M (K, M, B)."
        )
    return int(number)


def _number(name: str, what: str = "") -> Any:
    """The option of a size that the prepared dataset has, too."""
    return typer.Option(
        help=f"Number of {what or name}, such as 50M. Default: the prepared dataset's.",
        metavar="NUMBER",
        parser=partial(_count, f"--{name}"),
    )


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(plan)


def plan(
    config: Config,
    world_size: Annotated[int, typer.Option(min=1, help="Number of processes.")],
    local_world_size: Annotated[int, typer.Option(min=1, help="Processes on each node.")] = 8,
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="Device they run on.")] = "cuda",
    hbm: Annotated[
        str,
        typer.Option(
            help="Memory of each GPU. Default: sharding.device_memory, else 80GiB.", metavar="SIZE"
        ),
    ] = "",
    ddr: Annotated[
        str,
        typer.Option(
            help="Host memory of each process. Default: sharding.host_memory, else 128GiB.",
            metavar="SIZE",
        ),
    ] = "",
    users: Annotated[int | None, _number("users")] = None,
    items: Annotated[int | None, _number("items")] = None,
    interactions: Annotated[int | None, _number("interactions", "training interactions")] = None,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    method: Method = None,
    sets: Sets = None,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the sharding plan, each rank's memory and the estimated cost; needs no GPU."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.versions import require_trio

    if hbm and device == "cpu":
        raise CadcError("--hbm is a GPU's memory, and --device is cpu; give --ddr instead.")
    overrides = [*(sets or ()), f"compute.device={device}"]
    experiment = load_experiment(config, method=method, overrides=overrides)
    sharding = experiment.sharding
    host = _bytes("--ddr", ddr or sharding.host_memory or _HOST)
    gpu = _bytes("--hbm", hbm or sharding.device_memory or _GPU) if device == "cuda" else 0
    require_trio()
    from cadc_rec.planning.plan import plan_experiment
    from cadc_rec.planning.report import plan_document, plan_lines
    from cadc_rec.planning.sizes import Machines, find_sizes

    local = min(local_world_size, world_size)
    if world_size % local:
        raise CadcError(
            f"--world-size {world_size} is not a multiple of --local-world-size {local}; every "
            "node must have the same number of processes."
        )
    sizes = find_sizes(experiment.data, workdir, users, items, str(config), interactions)
    planned = plan_experiment(experiment, sizes, Machines(world_size, local, device, gpu, host))
    if json:
        print(strict_json.dumps(plan_document(planned)))
    else:
        for line in plan_lines(planned):
            print(line)
    if planned.problems:
        raise CadcError("\n".join(planned.problems))


def _bytes(option: str, text: str) -> int:
    """The bytes of a size such as 80GiB.

    Raises:
        CadcError: it is not a size.
    """
    from cadc_rec.config.experiment import ShardingConfig
    from cadc_rec.config.types import parse_memory

    try:
        # The config's own rule: 80GiB, 1.5 TB.
        checked = ShardingConfig(device_memory=text).device_memory
        size = parse_memory(checked)
    except (ValueError, IndexError):
        size = 0
    if not size:
        raise CadcError(f"{option} {text}: write a size such as 80GiB or 500GB.")
    return size
