"""The wheel: what it holds, and that it alone runs the demo from another folder."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def ran(*command, **more):
    """Standard output of a command that ends well."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, timeout=250, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The checkout's wheel, built of a copy: a build leaves folders behind."""
    made = tmp_path_factory.mktemp("wheel")
    tracked = ran("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (made / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, made / "checkout" / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", made / "wheels")
    ran(*PIP, "wheel", *options, made / "checkout")
    (file,) = (made / "wheels").glob("*.whl")
    return file


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
    tops = {name.parts[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cadc_rec"}
    packed = {str(name) for name in names if name.parts[0] == "cadc_rec"}
    tracked = set(ran("git", "ls-files", "cadc_rec", cwd=ROOT).split())
    assert packed == {name for name in tracked if (ROOT / name).is_file()}


def test_the_wheel_installed_in_an_empty_environment_runs_the_demo_from_another_folder(
    wheel, tmp_path
):
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    ran(*PIP, "--python", home / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    # The libraries of the tests' environment without its own links, one of which is the checkout.
    (packages,) = home.glob("lib/python3*/site-packages")
    theirs = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "libraries.pth").write_text(f"{theirs}\n")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CADC_REC"))}
    elsewhere = {"cwd": tmp_path, "env": plain}
    code = "import cadc_rec; print(cadc_rec.__file__)"
    where = ran(home / "bin" / "python", "-c", code, **elsewhere)
    assert Path(where.strip()).is_relative_to(home)
    command = home / "bin" / "cadc-rec"
    demo = (command, "run", ROOT / "configs" / "demo.toml", "--workdir", tmp_path / "work")
    result = json.loads(ran(*demo, "--json", **elsewhere))
    assert set(result["metrics"]) == {"hr@10", "ndcg@10"}
    assert "export" in ran(command, "--help", **elsewhere)
