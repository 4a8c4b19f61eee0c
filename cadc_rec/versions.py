"""The versions a result was made with, and the rule that ties torch, torchrec and fbgemm together.

Reads the installed metadata only: importing torch takes seconds, this takes milliseconds.
"""

import platform
import re
from pathlib import Path

from cadc_rec import __version__
from cadc_rec.errors import CadcError

# What pyproject.toml pins.
TRIO = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm": "1.8.0"}

# Other trios that were tried by hand, by torch's version: on a CPU, Linux, Python 3.11, with what
# of the quick tests. Their packages have to be there already: pip would take the pinned ones.
_MOST = (
    "tried: quick tests of models, pre-training, training, sharding, evaluation, export, storage, "
    "planning and commands pass"
)
TRIED = {
    "2.11": "tried: quick tests of models, training, sharding and export pass",
    "2.12": _MOST,
    "2.14": f"{_MOST}, but for one that was not repeated",
}

INSTALL_REMEDY = "Run `make install` (or `make install-cuda` on a machine with an NVIDIA GPU)."

_OF_DRIVER = ("libcuda.", "libnvidia-")
# The others come with CUDA, as packages.
_CUDA_LIBRARIES = (
    "cuda|cublas|cudnn|cufft|cufile|cupti|curand|cusolver|cusparse|nccl|nvidia-|nvrtc|nvJitLink|"
    "nvToolsExt|nvshmem"
)
_NO_CUDA_LIBRARY = re.compile(
    rf"(lib(?:{_CUDA_LIBRARIES})[\w-]*\.so[\d.]*): cannot open shared object file"
)

# The CPU build comes first: beside it, `fbgemm-gpu` is the empty stand-in from packaging/.
_DISTRIBUTIONS = {
    "torch": ("torch",),
    "torchrec": ("torchrec",),
    "fbgemm": ("fbgemm-gpu-cpu", "fbgemm-gpu"),
    "numpy": ("numpy",),
    "pyarrow": ("pyarrow",),
    "duckdb": ("duckdb",),
    "numba": ("numba",),
}


def library_versions() -> dict[str, str]:
    """The versions of Python, this package and the libraries results depend on.

    A library that is not installed has no entry.
    """
    found = {"python": platform.python_version(), "cadc-rec": __version__}
    for name, distributions in _DISTRIBUTIONS.items():
        for distribution in distributions:
            version = _installed(distribution)
            if version is not None:
                found[name] = version
                break
    return found


def code_commit() -> str | None:
    """The commit of the checkout that this package runs from, as git names it.

    ``-dirty`` stands behind it where files of the checkout differ from it. None if the package is
    installed elsewhere, or git does not say.
    """
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    import subprocess  # takes 10 ms, which `--help` does not have

    # Locks nothing, so that git can be used beside a study.
    command = ["git", "--no-optional-locks", "-C", str(checkout), "describe"]
    command += ["--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


def trio_problem(torch: str, torchrec: str, fbgemm: str) -> str | None:
    """Why these three versions do not work together, or None if they do.

    The rule: fbgemm 1.X goes with torch 2.(X+5) and torchrec 1.X. Anything else fails at import
    with a missing symbol that names none of the three.
    """
    numbers = {}
    for name, version in (("torch", torch), ("torchrec", torchrec), ("fbgemm", fbgemm)):
        match = re.match(r"(\d+)\.(\d+)", version)
        if match is None:
            return f"the version of {name}, {version!r}, cannot be read"
        numbers[name] = (int(match[1]), int(match[2]))
    major, minor = numbers["torch"]
    partner = (1, minor - 5)
    if major == 2 and minor >= 5 and numbers["torchrec"] == numbers["fbgemm"] == partner:
        return None
    problem = f"torch {torch}, torchrec {torchrec} and fbgemm {fbgemm} do not work together"
    if major == 2 and minor >= 5:
        wanted = f"1.{minor - 5}"
        problem += f": torch 2.{minor} needs torchrec {wanted} and fbgemm {wanted}"
    return problem


def trio_note(torch: str) -> str:
    """What is known of the trio of this torch, in words; empty for the pinned one."""
    minor = ".".join(torch.split(".")[:2])
    if minor == ".".join(TRIO["torch"].split(".")[:2]):
        return ""
    return TRIED.get(minor, "this trio was not tried")


def fbgemm_clash() -> str | None:
    """Whether the CUDA build of fbgemm was installed over the CPU build, or None.

    Both own the folder ``fbgemm_gpu/``: the later one overwrites the earlier one's files and the
    import then fails on a CUDA library. The stand-in owns no files, so it never clashes.
    """
    cpu, cuda = _installed("fbgemm-gpu-cpu"), _installed("fbgemm-gpu")
    if cpu is None or cuda is None:
        return None
    from importlib import metadata

    files = metadata.files("fbgemm-gpu") or []
    if not any(file.parts[0] == "fbgemm_gpu" for file in files):
        return None
    return f"fbgemm-gpu {cuda} (CUDA) and fbgemm-gpu-cpu {cpu} are installed over each other"


def installed_trio_problem() -> str | None:
    """Why the installed torch, torchrec and fbgemm cannot work, or None if they can."""
    versions = library_versions()
    missing = [name for name in TRIO if name not in versions]
    if missing:
        return f"{', '.join(missing)} not installed"
    return fbgemm_clash() or trio_problem(*(versions[name] for name in TRIO))


def require_trio() -> None:
    """Stops with one sentence, before torch is imported, if the trio cannot work.

    Raises:
        CadcError: if one of the three is missing or they do not match.
    """
    problem = installed_trio_problem()
    if problem is not None:
        raise CadcError(f"{problem}. {INSTALL_REMEDY}")


def missing_cuda_library(error: BaseException | None) -> CadcError | None:
    """The sentence for an import that failed for a library of CUDA's or the driver's, or None.

    The loader's OSError says which library; torch raises another one from it.

    Args:
        error: whatever was raised.
    """
    while error is not None:
        found = _NO_CUDA_LIBRARY.match(str(error))
        if found and isinstance(error, OSError | ImportError):
            remedy = "It comes with CUDA: run `make install-cuda` again,"
            if found[1].startswith(_OF_DRIVER):
                remedy = "It comes with NVIDIA's driver: start this on a machine that has one (a "
                remedy += "container with --gpus all),"
            return CadcError(
                f"{found[1]} is not on this machine, but the installed CUDA build of torch and "
                f"fbgemm needs it. {remedy} or install the CPU build (make install)."
            )
        error = error.__cause__ or error.__context__
    return None


def _installed(distribution: str) -> str | None:
    from importlib import metadata  # takes 50 ms, which `--help` does not have

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
