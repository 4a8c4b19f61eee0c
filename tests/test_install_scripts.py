"""What `make install` refuses, and that the files which repeat a version agree."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from cadc_rec.versions import TRIO
from tools.check_resolution import (
    CPU_INDEX,
    cuda_download,
    cuda_packages,
    exact_versions,
    refusal,
)

ROOT = Path(__file__).parent.parent


def item(name, version, url="https://example.org/x.whl", **info):
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": url, **(info or {"archive_info": {}})},
    }


STAND_IN = item("fbgemm-gpu", "1.8.0", "file:///checkout/packaging/x", dir_info={})
CPU = [
    item("torch", "2.13.0+cpu"),
    item("torchrec", "1.8.0"),
    STAND_IN,
    item("fbgemm_gpu-cpu", "1.8.0"),
]


def test_a_cpu_resolution_passes():
    assert cuda_packages({"install": CPU}) == []


def test_an_unlabelled_torch_without_cuda_dependencies_passes():
    assert cuda_packages({"install": [item("torch", "2.13.0"), STAND_IN]}) == []


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("nvidia-cublas", "13.1.1.3"),
        ("nvidia_cudnn_cu13", "9.20.0.48"),
        ("cuda-toolkit", "13.0.3.0"),
        ("triton", "3.7.1"),
        ("torch", "2.13.0+cu130"),
        ("fbgemm_gpu", "1.8.0"),
    ],
)
def test_each_kind_of_cuda_package_is_found(name, version):
    expected = f"{name.replace('_', '-')} {version}"
    assert cuda_packages({"install": [*CPU, item(name, version)]}) == [expected]


@pytest.mark.parametrize(
    ("line", "wheel"),
    [
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (526.6 MB)", "torch"),
        ("  Downloading https://x.org/a/nvidia_nccl_cu13-2.29.7-py3-none-any.whl (2 MB)", "nvidia"),
        ("  Downloading fbgemm_gpu-1.8.0-cp311-cp311-manylinux_2_28_x86_64.whl (500 MB)", "fbgemm"),
        ("  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (3 kB)", None),
        ("  Downloading torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl (180 MB)", None),
        ("  Downloading torch-2.13.0-cp311-none-macosx_14_0_arm64.whl (80 MB)", None),
        ("  Downloading fbgemm_gpu_cpu-1.8.0-cp311-cp311-manylinux_2_28_x86_64.whl (6 MB)", None),
        ("Collecting nvidia-nccl-cu13==2.29.7 (from torch==2.13.0)", None),
    ],
)
def test_a_cuda_wheel_is_recognized_before_its_download(line, wheel):
    answer = cuda_download(line)
    assert (answer is None) if wheel is None else answer.startswith(wheel)


def test_the_refusal_is_one_line_that_names_the_packages_and_the_remedy():
    sentence = refusal(["torch 2.13.0", "triton 3.7.1", "a 1", "b 2", "c 3"])
    assert "\n" not in sentence
    for part in ("triton 3.7.1", "and 2 more", f"TORCH_INDEX={CPU_INDEX}", "make install-cuda"):
        assert part in sentence
    assert "reach it" in refusal(["triton 3.7.1"], CPU_INDEX)


def test_what_was_checked_is_what_is_installed():
    assert list(exact_versions({"install": CPU})) == [
        "torch==2.13.0+cpu",
        "torchrec==1.8.0",
        "fbgemm_gpu-cpu==1.8.0",
    ]


def fake_wheel(folder, name, version, requires=()):
    """The smallest wheel pip accepts."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def resolved(folder, *requirements):
    """The report of pip's dry run over these wheels alone."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--dry-run", "--quiet"]
    command += ["--ignore-installed", "--no-index", f"--find-links={folder}", f"--report={report}"]
    subprocess.run([*command, *requirements], check=True, stdin=subprocess.DEVNULL)
    return json.loads(report.read_text())


def test_pips_own_report_is_understood_and_a_cpu_index_wins_over_the_default(tmp_path):
    fake_wheel(tmp_path, "torch", "2.13.0", ["nvidia-cublas", 'triton; sys_platform != "none"'])
    fake_wheel(tmp_path, "nvidia_cublas", "13.1")
    fake_wheel(tmp_path, "triton", "3.7.1")
    packages = cuda_packages(resolved(tmp_path, "torch==2.13.0"))
    assert sorted(packages) == ["nvidia-cublas 13.1", "triton 3.7.1"]
    # What TORCH_INDEX adds: the same requirement now takes the labelled CPU wheel.
    fake_wheel(tmp_path, "torch", "2.13.0+cpu")
    report = resolved(tmp_path, "torch==2.13.0")
    assert cuda_packages(report) == []
    assert list(exact_versions(report)) == ["torch==2.13.0+cpu"]


def checkout(tmp_path):
    """A copy of what `make install` reads."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("tools", "packaging"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_without_a_new_enough_python_make_install_says_so(tmp_path):
    result = make(checkout(tmp_path), "install", "PYTHON=")
    assert result.returncode != 0
    assert "no Python 3.11 or newer" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_venv_that_someone_else_made_is_left_alone(tmp_path):
    (checkout(tmp_path) / ".venv").mkdir()
    (tmp_path / ".venv" / "mine").touch()
    result = make(tmp_path, "install", f"PYTHON={sys.executable}")
    assert result.returncode != 0
    assert "was not made by this Makefile" in result.stderr
    assert [path.name for path in (tmp_path / ".venv").iterdir()] == ["mine"]


def test_an_installed_checkout_is_not_installed_again(tmp_path):
    venv = checkout(tmp_path) / ".venv"
    venv.mkdir()
    (venv / ".installed-cpu").touch()
    assert make(tmp_path, "--question", "install").returncode == 0
    assert make(tmp_path, "--question", "install-cuda").returncode == 1
    later = (venv / ".installed-cpu").stat().st_mtime + 10
    os.utime(tmp_path / "pyproject.toml", (later, later))
    assert make(tmp_path, "--question", "install").returncode == 1


def test_the_demo_uses_the_cuda_environment_where_that_is_installed(tmp_path):
    venv = checkout(tmp_path) / ".venv"
    venv.mkdir()
    assert "install.py cpu" in make(tmp_path, "--dry-run", "demo").stdout
    (venv / ".installed-cuda").touch()
    assert "install.py" not in make(tmp_path, "--dry-run", "demo").stdout


def test_every_file_that_pins_the_trio_pins_the_same_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stand_in = tomllib.loads((ROOT / "packaging/fbgemm-gpu-cpu/pyproject.toml").read_text())
    for library, name in (("torch", "torch"), ("torchrec", "torchrec"), ("fbgemm", "fbgemm-gpu")):
        assert f"{name}=={TRIO[library]}" in project["dependencies"]
    assert stand_in["project"]["name"] == "fbgemm-gpu"
    assert stand_in["project"]["version"] == TRIO["fbgemm"]
    assert stand_in["project"]["dependencies"] == [f"fbgemm-gpu-cpu=={TRIO['fbgemm']}"]
    constraints = (ROOT / "packaging/constraints.txt").read_text()
    assert not re.search(r"^(torch|torchrec|fbgemm[-_]gpu.*|nvidia.*)==", constraints, re.MULTILINE)
