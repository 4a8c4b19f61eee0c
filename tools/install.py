"""Makes ``.venv``: the CPU flavour or the CUDA flavour of everything the project needs.

Called by ``make install`` and ``make install-cuda``; by ``make install-serve`` for ``.venv-serve``,
where the service runs and is tested. Standard library only, any Python >= 3.11.
It resolves first, checks the resolution (see check_resolution.py), then installs exactly what it
checked. Both environments can be made at the same time. ``.venv/.flavour`` says which flavour a
folder is from its first moment, and ``.venv/.installed-FLAVOUR`` that it is complete, so an
interrupted installation is resumed and a change of flavour starts from an empty folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.check_resolution import cuda_download, cuda_packages, exact_versions, refusal

ROOT = Path(__file__).resolve().parent.parent
# A known pip, because the check reads its report and its output. setuptools is torch's own
# requirement; having it here first spares two throw-away build environments.
BOOTSTRAP = ("pip==26.3", "setuptools==84.2.1")
CPU_STAND_IN = ROOT / "packaging" / "fbgemm-gpu-cpu"
# Imports whatever the program imports, late imports too; extras that are missing are passed over.
COMPILE = """
import contextlib, importlib, pkgutil
import cadc_rec
ours = [module.name for module in pkgutil.walk_packages(cadc_rec.__path__, "cadc_rec.")]
beside = ["torch.distributed.run", "torch.utils.tensorboard", "pandas", "pytest", "hypothesis"]
for name in [name for name in ours if "__main__" not in name] + beside:
    with contextlib.suppress(Exception):
        importlib.import_module(name)
"""


@dataclass(frozen=True)
class Environment:
    """What is to be made: one flavour in one folder."""

    flavour: str
    folder: Path
    extras: str
    constraints: str
    cuda: bool = False


ENVIRONMENTS = {
    made.flavour: made
    for made in (
        Environment("cpu", ROOT / ".venv", "dev", "packaging/constraints.txt"),
        Environment("cuda", ROOT / ".venv", "dev", "packaging/constraints.txt", cuda=True),
        # Apart: KServe's requirements and torchx's contradict each other.
        Environment(
            "serve", ROOT / ".venv-serve", "serve,serve-dev", "packaging/constraints-serve.txt"
        ),
    )
}


class InstallError(Exception):
    """One sentence for the person at the keyboard."""


def make_venv(made: Environment) -> None:
    """Creates the folder, keeps one of the same flavour, replaces one of the other flavour."""
    venv, flavour = made.folder, made.flavour
    marker = venv / ".flavour"
    if venv.exists() and not marker.exists():
        raise InstallError(
            f"{venv} was not made by this Makefile: move it away, or remove it with `make clean`."
        )
    # The stamp goes first: from here to the end the folder is incomplete.
    for stamp in venv.glob(".installed-*"):
        stamp.unlink()
    same = marker.exists() and marker.read_text(encoding="utf-8").strip() == flavour
    if not same or _run(_pip(made, "--version"), quiet=True) != 0:
        print(f"Creating {venv.name} ({flavour}, Python {sys.version.split()[0]})", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        # The marker comes before the contents: a kill in between leaves a folder that the next
        # call knows to be ours.
        venv.mkdir()
        marker.write_text(flavour + "\n", encoding="utf-8")
        if _run([sys.executable, "-m", "venv", str(venv)]) != 0:
            raise InstallError(
                f"`{sys.executable} -m venv` failed: install your system's venv package for this "
                "Python (python3-venv on Debian and Ubuntu)."
            )
    if _run(_pip(made, "install", "-qq", "--upgrade", *BOOTSTRAP)) != 0:
        raise InstallError(f"pip could not fetch {' and '.join(BOOTSTRAP)}: check the network.")


def resolve(made: Environment, torch_index: str) -> Path:
    """Asks pip what it would install; returns the exact versions as a constraints file.

    Raises:
        InstallError: if the CPU flavour would bring CUDA, or the CUDA flavour a CPU torch.
    """
    report_file = made.folder / "resolution.json"
    report_file.unlink(missing_ok=True)
    # fast-deps reads a wheel's metadata through byte ranges where the index has no metadata
    # files, so that even an index without them is asked without downloading any wheel.
    command = _pip(
        made, "install", "--dry-run", "--report", str(report_file), "--use-feature=fast-deps",
        "--progress-bar=off", *_requirements(made, torch_index),
    )  # fmt: skip
    lines = []
    pip = subprocess.Popen(
        command, cwd=ROOT, env=_environment(), text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert pip.stdout is not None
    for line in pip.stdout:
        lines.append(line)
        wheel = None if made.cuda else cuda_download(line)
        if wheel:
            pip.kill()
            pip.wait()
            raise InstallError(refusal([wheel], torch_index))
    if pip.wait() != 0:
        errors = [line for line in lines if "ERROR" in line] or lines[-15:]
        sys.stderr.writelines(errors)
        raise InstallError("pip found no set of packages to install; its errors are above.")
    report = json.loads(report_file.read_text(encoding="utf-8"))
    if not made.cuda:
        packages = cuda_packages(report)
        if packages:
            raise InstallError(refusal(packages, torch_index))
    for item in report["install"]:
        if made.cuda and item["metadata"]["version"].endswith("+cpu"):
            raise InstallError(
                f"The CUDA installation would take {item['metadata']['name']} "
                f"{item['metadata']['version']}, a CPU build: pip's configuration names a place "
                "with CPU wheels (find-links or an extra index); run it without."
            )
    exact = made.folder / "resolved.txt"
    exact.write_text("\n".join(exact_versions(report)) + "\n", encoding="utf-8")
    return exact


def install(made: Environment, torch_index: str) -> None:
    started = time.monotonic()
    make_venv(made)
    print("Resolving", flush=True)
    exact = resolve(made, torch_index)
    size = "about 3 GB" if made.cuda else "about 250 MB"
    print(f"Installing the {made.flavour} flavour ({size} where nothing is cached)", flush=True)
    # -qq: errors only. The versions are those just checked.
    # Nothing is resolved again, and nothing compiled to bytecode: two thirds of pip's time would go
    # into files that are never imported.
    command = _pip(made, "install", "-qq", "--no-deps", "--no-compile", "-r", str(exact))
    if _run([*command, *_requirements(made, torch_index)]) != 0:
        raise InstallError("pip could not install the packages; its errors are above.")
    if _run(_pip(made, "check")) != 0:
        raise InstallError("pip installed packages that contradict each other; see above.")
    _compile(made)
    (made.folder / f".installed-{made.flavour}").touch()
    print(f"Installed into {made.folder.name} in {time.monotonic() - started:.0f} s", flush=True)


def _requirements(made: Environment, torch_index: str) -> list[str]:
    arguments = ["--no-build-isolation", "-c", made.constraints, "-e", f".[{made.extras}]"]
    if not made.cuda:
        arguments.append(str(_own_copy(CPU_STAND_IN, made.folder / "stand-in")))
        if torch_index:
            # torch==2.13.0 stays as it is: pip ranks 2.13.0+cpu above 2.13.0, and on systems
            # whose CPU wheels carry no label the plain version is the right one.
            arguments += ["--extra-index-url", torch_index]
    return arguments


def _own_copy(source: Path, copy: Path) -> Path:
    """A copy to build in, so that two installations at the same time do not meet."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    shutil.copy(source / "pyproject.toml", copy)
    return copy


def _compile(made: Environment) -> None:
    """Compile to bytecode what the program imports; the rest is, when it is first imported.

    Where it cannot be imported (a CUDA build without its driver), nothing is lost but seconds.
    """
    environment = {k: v for k, v in _environment().items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(
        [str(made.folder / "bin" / "python"), "-c", COMPILE], cwd=ROOT, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def _pip(made: Environment, *arguments: str) -> list[str]:
    return [str(made.folder / "bin" / "python"), "-m", "pip", *arguments]


def _environment() -> dict[str, str]:
    return os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def _run(command: list[str], quiet: bool = False) -> int:
    output = subprocess.DEVNULL if quiet else None
    try:
        return subprocess.run(
            command, cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, check=False,
        ).returncode  # fmt: skip
    except OSError:  # no such program: a .venv whose Python went away
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("flavour", choices=tuple(ENVIRONMENTS))
    parser.add_argument("--torch-index", default="", help="an extra index with CPU wheels of torch")
    options = parser.parse_args()
    try:
        install(ENVIRONMENTS[options.flavour], options.torch_index)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
