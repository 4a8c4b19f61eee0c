import importlib
import io
import json
import shutil
from collections import namedtuple
from importlib import metadata

import pytest
import torch
from rich.console import Console

from cadc_rec import versions
from cadc_rec.cli import doctor as doctor_module
from cadc_rec.cli.doctor import Check, Report, diagnose, render
from cadc_rec.errors import CadcError


def found(report, name):
    """The one check of that name."""
    (check,) = [check for check in report.checks if check.name == name]
    return check


@pytest.fixture(autouse=True)
def no_data_in_the_environment(monkeypatch):
    monkeypatch.delenv("CADC_REC_DATA", raising=False)


@pytest.mark.parametrize(
    "trio",
    [
        ("2.13.0", "1.8.0", "1.8.0"),
        ("2.13.0+cpu", "1.8.0", "1.8.0"),
        ("2.12.1+cu130", "1.7.0", "1.7.2"),
        ("2.5.0", "1.0.0", "1.0.0"),
    ],
)
def test_a_matching_trio_has_no_problem(trio):
    assert versions.trio_problem(*trio) is None


@pytest.mark.parametrize(
    ("trio", "wanted"),
    [
        (("2.13.0", "1.8.0", "1.9.0"), "torch 2.13 needs torchrec 1.8 and fbgemm 1.8"),
        (("2.13.0", "1.7.0", "1.8.0"), "torch 2.13 needs torchrec 1.8 and fbgemm 1.8"),
        (("2.14.0", "1.8.0", "1.8.0"), "torch 2.14 needs torchrec 1.9 and fbgemm 1.9"),
        (("3.13.0", "1.8.0", "1.8.0"), "do not work together"),
        (("2.4.0", "1.8.0", "1.8.0"), "do not work together"),
        (("2.13.0", "2.8.0", "2.8.0"), "torch 2.13 needs torchrec 1.8 and fbgemm 1.8"),
        (("2.13.0", "unknown", "1.8.0"), "the version of torchrec, 'unknown', cannot be read"),
    ],
)
def test_a_mismatched_trio_is_named_with_what_fits(trio, wanted):
    assert wanted in versions.trio_problem(*trio)


def test_what_is_known_of_a_trio_is_said_but_of_the_pinned_one():
    assert versions.trio_note(versions.TRIO["torch"] + "+cpu") == ""
    for tried in ("2.11.0+cu130", "2.12.1", "2.14.1"):
        assert versions.trio_note(tried).startswith("tried: ")
    assert versions.trio_note("2.10.1") == "this trio was not tried"


def test_the_pinned_trio_matches_itself_and_the_installed_one():
    assert versions.trio_problem(**versions.TRIO) is None
    assert versions.installed_trio_problem() is None
    versions.require_trio()


def install(monkeypatch, distributions, files=()):
    """Makes importlib.metadata report exactly these distributions."""

    def version(name):
        try:
            return distributions[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "files", lambda name: [metadata.PackagePath(f) for f in files])


def test_a_mismatch_stops_with_the_versions_and_the_remedy(monkeypatch):
    install(monkeypatch, {"torch": "2.12.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"})
    with pytest.raises(CadcError, match=r"torch 2\.12\.0.*make install"):
        versions.require_trio()


def test_a_missing_member_of_the_trio_is_named(monkeypatch):
    install(monkeypatch, {"torch": "2.13.0", "torchrec": "1.8.0"})
    assert "fbgemm" not in versions.library_versions()
    with pytest.raises(CadcError, match=r"^fbgemm not installed"):
        versions.require_trio()


def test_the_cuda_fbgemm_over_the_cpu_one_is_a_problem_and_the_stand_in_is_none(monkeypatch):
    both = {
        "torch": "2.13.0",
        "torchrec": "1.8.0",
        "fbgemm-gpu-cpu": "1.8.0",
        "fbgemm-gpu": "1.8.0",
    }
    install(monkeypatch, both, files=["fbgemm_gpu-1.8.0.dist-info/METADATA"])
    assert versions.installed_trio_problem() is None
    install(monkeypatch, both, files=["fbgemm_gpu/__init__.py"])
    assert "over each other" in versions.installed_trio_problem()


def test_this_environment_can_run_the_main_job_and_is_left_as_it_was(tmp_path):
    workdir = tmp_path / "not" / "there"
    report = diagnose(workdir)
    assert report.ok, [check for check in report.checks if check.ok is False]
    assert list(tmp_path.iterdir()) == []
    assert found(report, "fbgemm").ok
    assert found(report, "backend").value in ("gloo", "nccl")


@pytest.fixture
def gpu(monkeypatch):
    """gpu(capability, trains): torch says that there is such a GPU, and its kernels do that."""

    def there(capability, trains):
        def train(torch, device):
            assert device.type == "cuda"
            return trains()

        for name, value in {
            "is_available": True,
            "get_device_name": "NVIDIA T4",
            "device_count": 1,
            "get_device_capability": capability,
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
        monkeypatch.setattr(doctor_module, "_train_table", train)

    return there


def no_kernel():
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


def test_a_gpu_that_fbgemm_has_no_kernels_for_is_named_with_what_it_means(gpu, tmp_path):
    gpu((7, 5), no_kernel)
    report = diagnose(tmp_path)
    assert found(report, "device").value == "cuda: 1 x NVIDIA T4, capability 7.5"
    check = found(report, "fbgemm")
    assert check.ok is False
    assert "compute capabilities 8, 9 and 10" in check.problem
    assert "this GPU has 7.5" in check.problem
    assert check.remedy == "Set compute.device = 'cpu'."


def test_a_gpu_with_kernels_is_tried(gpu, tmp_path):
    gpu((9, 0), lambda: [0.0, -1.0])
    assert found(diagnose(tmp_path), "fbgemm").value == "trains tables on cuda"
    gpu((9, 0), no_kernel)
    check = found(diagnose(tmp_path), "fbgemm")
    assert (check.ok, "no kernel image" in check.problem) == (False, True)
    gpu((9, 0), lambda: [1.0, 1.0])  # nothing was trained
    assert found(diagnose(tmp_path), "fbgemm").ok is False


def test_a_table_is_trained_on_the_cpu(tmp_path):
    assert found(diagnose(tmp_path), "fbgemm").value == "trains tables on cpu"


def test_a_library_that_fails_to_import_is_a_named_problem(tmp_path, monkeypatch):
    genuine = importlib.import_module

    def broken(name, *rest):
        if name == "duckdb":
            raise OSError("libmissing.so: undefined symbol\nsecond line") from None
        return genuine(name, *rest)

    monkeypatch.setattr(importlib, "import_module", broken)
    report = diagnose(tmp_path)
    check = found(report, "duckdb")
    assert not report.ok
    assert (check.ok, check.problem) == (False, "OSError: libmissing.so: undefined symbol")
    assert "make install" in check.remedy


def test_a_check_that_breaks_is_reported_and_the_others_still_run(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("no metadata")

    monkeypatch.setattr(versions, "library_versions", broken)
    report = diagnose(tmp_path)
    assert any(check.problem == "RuntimeError: no metadata" for check in report.checks)
    assert found(report, "disk")


@pytest.mark.parametrize(("free", "ok"), [(10**8, False), (10**9, None), (3 * 10**9, True)])
def test_little_disk_warns_and_hardly_any_fails(tmp_path, monkeypatch, free, ok):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, free))
    check = found(diagnose(tmp_path), "disk")
    assert check.ok is ok
    assert bool(check.remedy) is (ok is not True)


def test_a_work_folder_below_a_file_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("x")
    report = diagnose(tmp_path / "file" / "work")
    assert not report.ok
    assert str(tmp_path / "file") in found(report, "work folder").problem


def test_data_is_found_where_run_would_take_it_from(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second, second / "epinions"):
        folder.mkdir()
    (first / "ml-1m.zip").touch()
    (second / "ml-1m.zip").touch()
    (second / "epinions" / "ratings_data.txt.bz2").touch()
    monkeypatch.setenv("CADC_REC_DATA", str(second))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    named, unnamed = diagnose(tmp_path, first), diagnose(tmp_path)
    assert found(named, "movielens-1m").value == str(first / "ml-1m.zip")
    assert found(unnamed, "movielens-1m").value == str(second / "ml-1m.zip")
    ratings = second / "epinions" / "ratings_data.txt.bz2"
    assert found(unnamed, "epinions").value == str(ratings)
    assert found(named, "movielens-10m").value == "not found"


def test_missing_data_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    report = diagnose(tmp_path, tmp_path)
    assert report.ok
    note = found(report, "movielens-10m")
    assert (note.ok, note.problem) == (None, "")
    assert "ml-10m.zip" in note.remedy


def test_a_wrong_data_dir_is_a_warning_and_no_problem_of_the_demo(tmp_path):
    report = diagnose(tmp_path, tmp_path / "typo")
    assert report.ok
    warning = found(report, "data folder")
    assert warning.ok is None
    assert f"{tmp_path / 'typo'}: no such folder" in warning.problem


def test_only_a_failed_check_makes_the_report_fail_and_all_of_it_is_json():
    fine, note, failed = Check("a", "1"), Check("b", "2", None), Check("c", "3", False, "p", "r.")
    assert Report((fine, note)).ok
    plain = json.loads(json.dumps(Report((fine, failed)).to_dict()))
    assert plain["ok"] is False
    assert plain["checks"][1] == {
        "name": "c",
        "value": "3",
        "ok": False,
        "problem": "p",
        "remedy": "r.",
    }


def test_the_table_shows_problems_remedies_and_paths_with_brackets():
    report = Report((Check("disk", "/tmp/[red]x", False, "too little space", "Free some."),))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(report))
    text = console.export_text()
    for part in ("FAIL", "/tmp/[red]x", "too little space. Free some."):
        assert part in text
