"""Libraries of CUDA's that are missing: a sentence with a remedy, and no defect of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cadc_rec.versions import missing_cuda_library

MISSING = "cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("library", "remedy"),
    [
        ("libcuda.so.1", "NVIDIA's driver: start this on a machine that has one"),
        ("libnvidia-ml.so.1", "NVIDIA's driver"),
        ("libcudart.so.12", "comes with CUDA: run `make install-cuda` again, or"),
        ("libnccl.so.2", "comes with CUDA"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(library, remedy):
    inner = OSError(f"{library}: {MISSING}")
    outer = OSError("Could not load this library: /x/fbgemm_gpu_py.so")  # as torch says it
    outer.__cause__ = inner
    for error in (inner, outer, ImportError(f"{library}: {MISSING}")):
        said = str(missing_cuda_library(error))
        assert said.startswith(f"{library} is not on this machine")
        assert remedy in said
        assert said.endswith("or install the CPU build (make install).")


@pytest.mark.parametrize(
    "error",
    [
        OSError(f"libcurl.so.4: {MISSING}"),
        OSError("libcuda.so.1: file too short"),
        ValueError(f"libcuda.so.1: {MISSING}"),
        FileNotFoundError(2, "No such file or directory", "libcuda.so.1"),
    ],
    ids=str,
)
def test_other_errors_are_left_as_they_are(error):
    assert missing_cuda_library(error) is None


@pytest.mark.slow
def test_a_command_whose_fbgemm_finds_no_driver_is_refused(tiny, tmp_path):
    """A library of that name that needs one which is nowhere, as the CUDA build's does."""
    package = tmp_path / "fbgemm_gpu"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import torch\n"
        "try:\n    import ctypes; ctypes.CDLL('libcuda.so.1.0.0')\n"
        "except OSError as error:\n"
        "    raise OSError('Could not load this library: fbgemm_gpu_py.so') from error\n"
    )
    root = Path(__file__).parents[1]
    command = ["train", tiny, "--workdir", tmp_path / "work"]
    done = subprocess.run(
        [sys.executable, "-m", "cadc_rec", *command],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: libcuda.so.1")
    assert "defect" not in done.stderr
