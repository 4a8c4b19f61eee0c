"""Libraries of CUDA's that are missing are a sentence with a remedy; the code's commit is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cadc_rec import versions
from cadc_rec.versions import code_commit, missing_cuda_library

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


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of git's with the package's file in it; gives what runs git there."""
    file = tmp_path / "cadc_rec" / "versions.py"
    file.parent.mkdir()
    file.write_text("first\n")
    monkeypatch.setattr(versions, "__file__", str(file))

    def git(*command):
        who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        words = ["git", "-C", tmp_path, *who, *command]
        return subprocess.run(words, capture_output=True, check=True, text=True).stdout.strip()

    return git


def test_the_commit_of_a_checkout_is_told_and_whether_files_differ(checkout, tmp_path):
    assert code_commit() is None  # a package that is installed, not checked out
    checkout("init")
    assert code_commit() is None  # without a commit
    checkout("add", "cadc_rec")
    checkout("commit", "-m", "first")
    checkout("tag", "v1")  # git would name it by its tag
    commit = checkout("rev-parse", "HEAD")
    assert code_commit() == commit
    (tmp_path / "data").touch()  # git does not know it
    assert code_commit() == commit
    (tmp_path / "cadc_rec" / "versions.py").write_text("second\n")
    assert code_commit() == f"{commit}-dirty"


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    checkout("init")
    monkeypatch.setenv("PATH", "")
    assert code_commit() is None
