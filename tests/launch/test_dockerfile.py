"""The images' recipes, as far as they can be checked without a Docker engine."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import dockerfile_steps

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "cadc_rec" / "cli" / "serve.py"
KNOWN = {"FROM", "WORKDIR", "ENV", "COPY", "RUN", "USER", "CMD"}
JOBS, SERVICE = "Dockerfile", "Dockerfile.serve"
both = pytest.mark.parametrize("file", [JOBS, SERVICE])


def instructions(file=JOBS):
    """(instruction, the rest) of each step, comments gone and lines joined."""
    return list(dockerfile_steps.instructions((ROOT / "launch" / file).read_text()))


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {r.name: r for r in map(Requirement, project["dependencies"])}


@both
def test_every_step_is_one_that_docker_knows_and_the_first_is_from(file):
    steps = instructions(file)
    assert {name for name, _ in steps} <= KNOWN | {"ARG", "ENTRYPOINT", "EXPOSE"}
    assert steps[0][0] == "FROM"
    (command,) = (rest for name, rest in steps if name == "CMD")
    entries = [rest for name, rest in steps if name == "ENTRYPOINT"]
    assert json.loads([*entries, command][0])[0] == "cadc-rec"


@both
def test_it_runs_as_an_ordinary_user_whose_number_is_known_to_the_cluster(file):
    steps = instructions(file)
    (user,) = (rest for name, rest in steps if name == "USER")
    assert int(user) > 0  # a name would not do for Kubernetes' runAsNonRoot
    made = next(rest for name, rest in steps if name == "RUN" and "useradd" in rest)
    assert f"--uid {user} " in made
    after = [name for name, _ in steps[steps.index(("USER", user)) :]]
    assert "RUN" not in after


def test_the_base_image_has_the_pinned_torch():
    image = instructions()[0][1]
    version = re.fullmatch(r"pytorch/pytorch:([\d.]+)-cuda[\d.]+-cudnn\d+-runtime", image)[1]
    assert str(requirements()["torch"].specifier) == f"=={version}"


@both
def test_what_is_copied_exists_and_is_not_ignored(file):
    ignored = {
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    }
    for name, rest in instructions(file):
        if name == "COPY" and "--from" not in rest:
            *sources, _ = shlex.split(rest)
            for source in sources:
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] not in ignored


def test_the_package_is_installed_with_the_versions_the_tests_run_on():
    run = [rest for name, rest in instructions() if name == "RUN"]
    (install,) = (line for line in run if " -e " in line)
    assert "-e '.[storage,export]'" in install  # work folders in stores, and the export component
    assert "-c packaging/constraints.txt" in install
    pinned = dict(
        line.split("==")
        for line in (ROOT / "packaging" / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for name, requirement in requirements().items():
        if name in pinned:
            assert requirement.specifier.contains(pinned[name]), name


def test_what_setuptools_wants_is_what_the_build_names():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert any(f'"{wanted[0]}"' in rest for name, rest in instructions() if name == "RUN")


def test_the_services_image_is_of_one_distribution_and_its_versions_are_those_of_the_tests():
    steps = instructions(SERVICE)
    assert len({rest.split()[0] for name, rest in steps if name == "FROM"}) == 1
    (install,) = (rest for name, rest in steps if "pip install" in rest)
    assert "-c packaging/constraints-serve.txt" in install
    extras = re.search(r"'\.\[([\w,]+)\]'", install)[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = (ROOT / "packaging" / "constraints-serve.txt").read_text().splitlines()
    pinned = {
        name.replace("_", "-"): version
        for name, _, version in (line.partition("==") for line in pins)
    }
    for extra in extras:
        for wanted in map(Requirement, project["optional-dependencies"][extra]):
            assert wanted.specifier.contains(pinned[wanted.name], prereleases=True), wanted


def test_the_services_image_listens_where_it_says():
    steps = dict(instructions(SERVICE))
    ports = re.findall(
        r"_port: Annotated(?:(?!_port: ).)*?\n    \] = (\w+)", SERVE.read_text(), re.DOTALL
    )
    assert steps["EXPOSE"].split() == [port for port in ports if port != "None"]
    command, bundle, option, host = json.loads(steps["CMD"])
    assert (command, option, host) == ("serve", "--host", "0.0.0.0")
    assert bundle.startswith("/mnt/")


@pytest.mark.parametrize(
    "step",
    [rest for file in (JOBS, SERVICE) for name, rest in instructions(file) if name == "RUN"],
)
def test_every_run_step_is_valid_shell(step):
    subprocess.run(["sh", "-n", "-c", step], check=True)


def test_steps_that_copy_are_done_as_docker_does(tmp_path):
    context, root = tmp_path / "context", tmp_path / "root"
    for name in ("package/part/code.py", "package/__pycache__/code.pyc", "README.md", "LICENSE"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(name)
    image = dockerfile_steps.Image(root, context)
    recipe = "# a comment\nWORKDIR /opt/it\nCOPY README.md LICENSE ./\nCOPY package \\\n  package\n"
    for word, text in dockerfile_steps.instructions(recipe + "ENV ONE=1 TWO='a b'\nUSER 7\n"):
        image.step(word, text)
    files = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    assert files == {"opt/it/README.md", "opt/it/LICENSE", "opt/it/package/part/code.py"}
    assert (image.env["ONE"], image.env["TWO"], image.user) == ("1", "a b", "7")
    with pytest.raises(ValueError, match="HEALTHCHECK"):
        image.step("HEALTHCHECK", "NONE")
