"""How many seconds of a core a command takes before it does anything.

    python -m benchmarks.startup [--repeats 5]
    python -m benchmarks.startup --bundle BUNDLE      # in the environment of the service

Out: user and system seconds, the least of some repeats, of ``--help``; of importing torch, TorchRec
and fbgemm, the floor of every training process; and of a training process until it is ready, which
is one that finds every stage before training and trains a tiny world. Of a bundle: seconds from the
command until a service of it answers.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_TINY = """
[data.generated]
users = 60
items = 40
interactions = 900
[pretrain]
epochs = 1
factors = 7
[model]
id_dim = 8
tower = [8]
[train]
epochs = 1
[compute]
threads = 1
"""


def seconds(arguments: list[str], repeats: int) -> float:
    """The least that this Python takes with these arguments."""
    least = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        least = min(least, taken)
    return least


def training(repeats: int) -> float:
    """The least that a training takes, whose dataset, vectors and selection are there."""
    least = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        config, workdir = Path(folder) / "tiny.toml", Path(folder) / "work"
        config.write_text(_TINY)
        train = ["-m", "cadc_rec", "train", str(config), "--workdir", str(workdir)]
        seconds(train, 1)
        for _ in range(repeats):
            shutil.rmtree(workdir / "train")
            least = min(least, seconds(train, 1))
    return least


def service(bundle: Path, repeats: int) -> list[float]:
    """Seconds from the command until a service answers, the least first."""
    from benchmarks.serving import running  # its libraries are those of the service's environment

    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        with running(bundle):
            taken.append(time.perf_counter() - began)
    return sorted(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bundle", type=Path, help="measure a service of it, and nothing else")
    options = parser.parse_args()
    repeats = options.repeats
    if options.bundle is not None:
        taken = service(options.bundle, repeats)
        print(f"{taken[0]:6.2f} to {taken[-1]:.2f} s  cadc-rec serve, until it answers")
        return
    print(f"{seconds(['-m', 'cadc_rec', '--help'], repeats):6.2f} s  cadc-rec --help")
    floor = seconds(["-c", "import torch, torchrec, fbgemm_gpu"], repeats)
    print(f"{floor:6.2f} s  import torch, torchrec, fbgemm_gpu")
    print(f"{training(repeats):6.2f} s  cadc-rec train, to its end")


if __name__ == "__main__":
    main()
