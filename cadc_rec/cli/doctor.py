"""``cadc-rec doctor``: can this machine run the main job, and if not, what must be mended?"""

import importlib
import json as jsonlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadc_rec import versions
from cadc_rec.cli.doctor_ranks import examine_ranks
from cadc_rec.cli.options import WORKDIR, AsJson, DataDir, Debug, Workdir
from cadc_rec.errors import ExitCode
from cadc_rec.machine import available_cores

if TYPE_CHECKING:
    from rich.table import Table

# A run of configs/ml-1m.toml leaves well under 1 GB and holds about as much in memory.
_LOW_DISK = 2 * 10**9
_NO_DISK = 200 * 10**6
_LOW_MEMORY = 2 * 10**9

_FBGEMM_CAPABILITIES = (8, 9, 10)  # major ones; a wheel has sm_80, sm_90 and sm_100

LIBRARIES = (
    *("torchrec", "duckdb", "ibis", "numpy", "pyarrow", "pydantic", "safetensors"),
    *("scipy", "numba", "jinja2", "tensorboard"),
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(doctor)


def doctor(
    workdir: Workdir = WORKDIR,
    data_dir: DataDir = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Check the ranks of a launched job instead.")
    ] = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check this machine: what it has, what is wrong, and how to mend it."""
    from rich.console import Console

    if distributed:
        examine_ranks(workdir, json)
        return
    report = diagnose(workdir, data_dir)
    if json:
        print(jsonlib.dumps(report.to_dict()))
    else:
        Console().print(render(report))
    if not report.ok:
        raise typer.Exit(ExitCode.DEFECT)


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was looked at.
        value: What was found, for a person to read.
        ok: True if fine, None if the main job can run all the same, False if it cannot.
        problem: What is wrong, empty if nothing is.
        remedy: How to mend it, or how to get what is absent.
    """

    name: str
    value: str
    ok: bool | None = True
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """The results of all checks, in the order in which they are shown."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether the main job can run."""
        return all(check.ok is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}


def diagnose(workdir: Path, data_dir: Path | None = None) -> Report:
    """Looks at the installation, the machine, the data and the work folder.

    It leaves no files behind and raises nothing: a check that fails unexpectedly becomes a result
    with its error.

    Args:
        workdir: Where a run would write; it need not exist yet.
        data_dir: Where to look for the public archives; default: where `run` looks.
    """
    sections: list[Callable[[], Iterator[Check]]] = [
        _versions,
        _torch,
        _libraries,
        _memory,
        partial(_disk, workdir),
        partial(_writable, workdir),
        partial(_data, data_dir),
    ]
    checks: list[Check] = []
    for section in sections:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # libraries' deprecations are not the user's
                checks.extend(section())
        except Exception as error:
            checks.append(_warning("doctor", "?", _short(error), "Report this as a defect."))
    return Report(tuple(checks))


def render(report: Report) -> "Table":
    """The report as a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="cadc-rec doctor", title_justify="left")
    for column in ("", "check", "found", "problem and remedy"):
        table.add_column(column, overflow="fold")
    for check in report.checks:
        if check.ok is False:
            mark = Text("FAIL", style="bold red")
        elif check.problem:
            mark = Text("warn", style="yellow")
        else:
            mark = Text("ok" if check.ok else "-", style="green" if check.ok else "dim")
        advice = ". ".join(part for part in (check.problem, check.remedy) if part)
        # Text, not str: a path may hold what rich takes for markup.
        table.add_row(mark, check.name, Text(check.value), Text(advice))
    return table


def _warning(name: str, value: str, problem: str, remedy: str) -> Check:
    return Check(name, value, None, problem, remedy)


def _failure(name: str, value: str, problem: str, remedy: str) -> Check:
    return Check(name, value, False, problem, remedy)


def _broken(name: str, error: Exception) -> Check:
    problem, remedy = _short(error), versions.INSTALL_REMEDY
    if "libnvidia-ml" in problem or "libcuda.so" in problem:
        remedy = "Install the NVIDIA driver, or run `make install` for a machine without a GPU."
    return _failure(name, "does not load", problem, remedy)


def _versions() -> Iterator[Check]:
    installed = versions.library_versions()
    yield Check("python", installed["python"])
    yield Check("cadc-rec", installed["cadc-rec"])
    name = ", ".join(versions.TRIO)
    value = ", ".join(installed.get(library, "missing") for library in versions.TRIO)
    problem = versions.installed_trio_problem()
    if problem is None:
        note = versions.trio_note(installed["torch"])
        yield Check(name, f"{value} ({note})" if note else value)
    else:
        yield _failure(name, value, problem, versions.INSTALL_REMEDY)


def _torch() -> Iterator[Check]:
    try:
        import torch
    except Exception as error:
        yield _broken("torch", error)
        return
    yield Check("torch", "loads")
    cuda = torch.cuda.is_available()
    yield _fbgemm(torch, "cuda" if cuda else "cpu")
    if cuda:
        name, (major, minor) = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
        value = f"cuda: {torch.cuda.device_count()} x {name}, capability {major}.{minor}"
        yield Check("device", value)
    elif Path("/proc/driver/nvidia/version").exists():
        remedy = "To use it, run `make install-cuda` and check that its driver is recent enough."
        yield _warning("device", "cpu", "torch cannot use this machine's NVIDIA GPU", remedy)
    else:
        yield Check("device", "cpu")
    yield _backend(torch, "nccl" if cuda else "gloo")
    yield _threads(torch.get_num_threads())


def _fbgemm(torch: Any, device: str) -> Check:
    """Look rows up and train them on the device: fbgemm has kernels for some GPUs only."""
    try:
        # Loading the Python package proves little: run what trains a table.
        trained = _train_table(torch, torch.device(device))
        if trained != [0.0, -1.0]:
            raise RuntimeError(f"two rows of ones, used once and twice, became {trained}")
    except Exception as error:
        major, minor = torch.cuda.get_device_capability(0) if device == "cuda" else (0, 0)
        if device == "cpu" or major in _FBGEMM_CAPABILITIES:
            return _broken("fbgemm", error)
        problem = (
            "fbgemm's wheel has kernels for NVIDIA's compute capabilities 8, 9 and 10 (A100, H100, "
            f"B200 and their like), and this GPU has {major}.{minor}: nothing can be trained on it"
        )
        return _failure("fbgemm", "does not work", problem, "Set compute.device = 'cpu'.")
    return Check("fbgemm", f"trains tables on {device}")


def _train_table(torch: Any, device: Any) -> list[float]:
    """The first column of two rows of ones, after one was looked up once and the other twice."""
    from fbgemm_gpu import split_table_batched_embeddings_ops_training as tbe

    place = (tbe.EmbeddingLocation.HOST, tbe.ComputeDevice.CPU)
    if device.type == "cuda":
        place = (tbe.EmbeddingLocation.DEVICE, tbe.ComputeDevice.CUDA)
    tables = tbe.SplitTableBatchedEmbeddingBagsCodegen(
        [(2, 4, *place)], optimizer=tbe.OptimType.EXACT_SGD, learning_rate=1.0, device=device
    )
    (weight,) = tables.split_embedding_weights()
    weight.detach().fill_(1.0)
    ids, offsets = (torch.tensor(each, device=device) for each in ([0, 1, 1], [0, 3]))
    tables(ids, offsets).sum().backward()
    first: list[float] = weight[:, 0].tolist()
    return first


def _backend(torch: Any, backend: str) -> Check:
    dist = torch.distributed
    if dist.is_available() and getattr(dist, f"is_{backend}_available")():
        return Check("backend", backend)
    problem = f"this torch was built without {backend}"
    return _failure("backend", "none", problem, versions.INSTALL_REMEDY)


def _threads(threads: int) -> Check:
    cores = available_cores()
    omp = os.environ.get("OMP_NUM_THREADS", "unset")
    value = f"{threads} on {cores} cores (OMP_NUM_THREADS {omp})"
    if threads <= cores:
        return Check("threads", value)
    problem = "more threads than cores slow each other down"
    return _warning("threads", value, problem, f"Set OMP_NUM_THREADS={cores}.")


def _libraries() -> Iterator[Check]:
    for name in LIBRARIES:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            yield _broken(name, error)
        else:
            yield Check(name, str(getattr(module, "__version__", "loads")))


def _memory() -> Iterator[Check]:
    available = _available_memory()
    value = "unknown" if available is None else f"{_size(available)} available"
    if available is not None and available < _LOW_MEMORY:
        remedy = "Close other programs, or lower the batch size with --set."
        yield _warning("memory", value, "little memory for a large dataset", remedy)
    else:
        yield Check("memory", value)


def _available_memory() -> int | None:
    try:
        # Unlike the free pages below, this counts what the kernel would give up from its caches.
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _disk(workdir: Path) -> Iterator[Check]:
    free = shutil.disk_usage(_existing(workdir)).free
    value = f"{_size(free)} free at {workdir}"
    remedy = "Free some space, or name a work folder on another disk with --workdir."
    if free < _NO_DISK:
        yield _failure("disk", value, "too little space for any run", remedy)
    elif free < _LOW_DISK:
        yield _warning("disk", value, "little space for a large dataset", remedy)
    else:
        yield Check("disk", value)


def _writable(workdir: Path) -> Iterator[Check]:
    parent = _existing(workdir)
    try:
        # Really make a file: permission bits do not show a read-only mount.
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".cadc-rec-doctor-"):
            pass
    except OSError as error:
        problem = f"cannot write in {parent}: {_short(error)}"
        remedy = "Get permission to write there, or name another folder with --workdir."
        yield _failure("work folder", str(workdir), problem, remedy)
    else:
        value = str(workdir) if workdir.exists() else f"{workdir} (will be created)"
        yield Check("work folder", value)


def _data(data_dir: Path | None) -> Iterator[Check]:
    """Where `cadc-rec run` would take each public dataset from."""
    from cadc_rec.data.sources.raw_input import ARCHIVES, locate
    from cadc_rec.errors import CadcError

    for name, archive in ARCHIVES.items():
        try:
            path = locate(name, data_dir)
        except CadcError as error:
            yield _warning("data folder", "not found", str(error), "")
            return
        # A missing archive is no problem: the demo generates its data.
        remedy = f"To use it, put {archive.names[0]} into a folder named by --data-dir."
        yield Check(name, str(path)) if path else Check(name, "not found", None, remedy=remedy)


def _existing(path: Path) -> Path:
    """The nearest ancestor that exists, the path itself included."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _short(error: Exception) -> str:
    # torch wraps the loader's error, which names the library that is missing, in a vaguer one.
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}".rstrip(": ")
