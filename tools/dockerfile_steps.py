"""Run a Dockerfile's steps in a chroot of its base's distribution, where no engine is at hand.

    python -m tools.dockerfile_steps launch/Dockerfile /var/tmp/image --then 'cadc-rec --version'

The base image itself comes from a registry of images, which this does not need: debootstrap makes
its distribution, and the `--base` commands put in it what the image would bring (for
``pytorch/pytorch``: Python with pip, and torch). Every instruction after FROM is done as Docker
would do it, in order, by the user and with the environment that stand there; the first that fails
ends it. The folder is kept, for a look inside. It takes root, debootstrap and some 10 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_BASE = (
    "apt-get update -q",
    "DEBIAN_FRONTEND=noninteractive apt-get install -qy python3-pip python-is-python3",
    "pip install --break-system-packages --no-cache-dir torch==2.13.0",
)
# How this machine reaches its registries; the last is a name that Debian's ca-certificates reads.
_REACH = {
    "/etc/resolv.conf": "etc/resolv.conf",
    "/etc/hosts": "etc/hosts",
    "/etc/ssl/certs/ca-certificates.crt": "usr/local/share/ca-certificates/host.crt",
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Each instruction's word and its text, lines joined, comments left out."""
    kept = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, text = line.strip().partition(" ")
            yield word.upper(), text.strip()


@dataclass
class Image:
    """A folder that is built as an image is.

    Attributes:
        root: the folder.
        context: where COPY takes files from.
        env: variables of the steps that follow.
        workdir: their folder, in the image.
        user: who runs them.
    """

    root: Path
    context: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH, "HOME": "/root"})
    workdir: str = "/"
    user: str = "root"

    def step(self, word: str, text: str) -> None:
        """Do one instruction.

        Raises:
            subprocess.CalledProcessError: a command failed.
            ValueError: an instruction that is not known here.
        """
        if word == "RUN":
            self.run(text)
        elif word == "COPY":
            self._copy(shlex.split(text))
        elif word == "ENV":
            self.env |= dict(each.split("=", 1) for each in shlex.split(text))
        elif word == "WORKDIR":
            self.workdir = str(PurePosixPath(self.workdir) / text)
            self._inside(self.workdir).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            self.user = text
        elif word in ("CMD", "ENTRYPOINT"):
            json.loads(text)  # the form that no shell reads
        elif word not in ("EXPOSE", "LABEL"):
            raise ValueError(f"{word}: this instruction is not known here")

    def run(self, command: str) -> None:
        """Run a command as the image's user, in its folder."""
        asked = f"cd {shlex.quote(self.workdir)} && {command}"
        subprocess.run(
            ["chroot", f"--userspec={self.user}", self.root, "/bin/sh", "-c", asked],
            env=self.env,
            check=True,
        )

    def _copy(self, paths: list[str]) -> None:
        if any(path.startswith("--") for path in paths):
            raise ValueError(f"COPY {paths[0]}: options of COPY are not known here")
        *sources, target = paths
        into = self._inside(str(PurePosixPath(self.workdir) / target))
        for name in sources:
            source = self.context / name
            if source.is_dir():  # its contents, as Docker does
                left_out = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, into, dirs_exist_ok=True, ignore=left_out)
                continue
            folder = target.endswith("/") or len(sources) > 1
            place = into / source.name if folder else into
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)

    def _inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")


def bootstrap(root: Path, suite: str, mirror: str, base: list[str], env: Mapping[str, str]) -> None:
    """Make the distribution in `root`, and what the base image has beside it."""
    make: list[str | Path] = ["debootstrap", "--variant=minbase", "--components=main"]
    make += [suite, root, mirror]
    if "ubuntu" in mirror:
        # Debian's debootstrap does not know the newest suites; all of Ubuntu's have one script.
        make[2] = "--components=main,universe"
        make.append("/usr/share/debootstrap/scripts/gutsy")
    subprocess.run(make, check=True)
    for name, place in _REACH.items():
        if Path(name).is_file():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, root / place)
    for command in base:
        print(f"=== base: {command}", flush=True)
        subprocess.run(["chroot", root, "/bin/sh", "-c", command], env=env, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("root", type=Path, help="a folder that is not there yet")
    parser.add_argument("--suite", default="noble", help="of the distribution")
    parser.add_argument("--mirror", default="http://archive.ubuntu.com/ubuntu")
    parser.add_argument("--base", action="append", metavar="COMMAND", help="instead of torch's")
    parser.add_argument("--then", action="append", default=[], metavar="COMMAND")
    asked = parser.parse_args()
    image = Image(asked.root, Path.cwd())
    passed = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
    image.env |= passed
    try:
        if asked.root.exists():
            sys.exit(f"error: {asked.root} is there; name a new folder, or delete it")
        steps = list(instructions(asked.dockerfile.read_text("utf-8")))
        base = list(_BASE) if asked.base is None else asked.base
        bootstrap(asked.root, asked.suite, asked.mirror, base, image.env)
        for device in ("null", "urandom", "zero"):
            shared = asked.root / "dev" / device
            if not shared.exists():
                subprocess.run(["cp", "-a", f"/dev/{device}", shared], check=True)
        for word, text in steps[1:]:
            print(f"=== {word} {text}", flush=True)
            image.step(word, text)
        for command in asked.then:
            print(f"=== then, as {image.user}: {command}", flush=True)
            image.run(command)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: exit code {error.returncode}: {shlex.join(map(str, error.cmd))}")
    print(f"every step of {asked.dockerfile} was run in {asked.root}")


if __name__ == "__main__":
    main()
