"""Says whether what pip is about to install would bring CUDA.

A CPU machine must never download gigabytes of CUDA libraries by accident. pip's dry run writes
what it would install as a JSON report; ``cuda_packages`` names the entries that belong to a GPU.
Standard library only: install.py uses it before anything is installed.
"""

import re
from collections.abc import Iterable
from typing import Any

CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# What only a GPU build of torch or fbgemm depends on.
_CUDA_NAME = re.compile(r"^(nvidia-.+|cuda-.+|triton|pytorch-triton.*)$")
_DOWNLOAD = re.compile(r"^\s*Downloading (?:\S*/)?(?P<wheel>\S+\.whl) \(")


def normalize(name: str) -> str:
    """The one spelling of a distribution's name that indexes compare by (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def cuda_packages(report: dict[str, Any]) -> list[str]:
    """The packages of a pip report that belong to a CUDA build, as ``name version``.

    ``fbgemm-gpu`` is the CUDA build when it comes from an index; the stand-in in ``packaging/``
    has the same name but is installed from its folder.
    """
    found = []
    for item in report["install"]:
        name = normalize(item["metadata"]["name"])
        version = item["metadata"]["version"]
        local_folder = "dir_info" in item["download_info"]
        gpu_torch = name == "torch" and re.search(r"\+(cu|rocm|xpu)", version)
        real_fbgemm = name == "fbgemm-gpu" and not local_folder
        if _CUDA_NAME.match(name) or gpu_torch or real_fbgemm:
            found.append(f"{name} {version}")
    return found


def cuda_download(line: str) -> str | None:
    """The CUDA wheel that this line of pip's output announces, if it does.

    With an index that serves neither metadata files nor byte ranges, pip has to download a wheel
    to learn its dependencies, even in a dry run. Its "Downloading ..." line comes first, which is
    the last moment to stop it. torch's Linux wheels without a ``+cpu`` label are CUDA builds.
    """
    match = _DOWNLOAD.match(line)
    if match is None:
        return None
    wheel = match["wheel"].replace("%2B", "+")
    name, version = normalize(wheel.split("-")[0]), wheel.split("-")[1]
    gpu_torch = name == "torch" and "linux" in wheel and "+cpu" not in version
    if _CUDA_NAME.match(name) or gpu_torch or name == "fbgemm-gpu":
        return f"{name} {version}"
    return None


def refusal(packages: list[str], torch_index: str = "") -> str:
    """The one sentence that tells why the CPU installation stopped, and the remedy."""
    shown = ", ".join(packages[:3])
    if len(packages) > 3:
        shown += f" and {len(packages) - 3} more"
    if torch_index:
        where = f"even with TORCH_INDEX={torch_index}"
        remedy = f"set TORCH_INDEX={CPU_INDEX}, and check that this machine can reach it"
    else:
        where = "from the default index"
        remedy = f"set TORCH_INDEX={CPU_INDEX}"
    return (
        f"Stopped before downloading CUDA wheels ({shown}), which the CPU installation would take "
        f"{where}: {remedy}; on a machine with an NVIDIA GPU, run `make install-cuda` instead."
    )


def exact_versions(report: dict[str, Any]) -> Iterable[str]:
    """One ``name==version`` constraint per package the report takes from an index."""
    for item in report["install"]:
        if "dir_info" not in item["download_info"]:
            yield f"{item['metadata']['name']}=={item['metadata']['version']}"
