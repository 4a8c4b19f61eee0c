"""Fails where a ratio fell below what is committed: ``make bench-guard``.

    python -m benchmarks.guard            # measures the short form and compares
    python -m benchmarks.guard --renew    # measures it and commits to what it found

Ratios, not seconds: ours and the other run in the same minute on the same machine, so what is
compared is the code. A slow or busy machine moves a ratio too, only less; hence the wide threshold,
which catches a step that takes twice as long, and not one of a few percent. Everybody has one
thread: threads that wait for each other on a busy machine move ratios by whole factors.

Another processor moves a ratio as well, for a peer's code gains from it what ours does not. Before
`--renew`, run the code of the committed ratios on the machine at hand: if that has fallen too, it
is the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.sections import GUARDED, run
from benchmarks.peers.workload import Workload
from cadc_rec.errors import CadcError
from cadc_rec.log import keep_interrupts, set_up_logging

BASELINE = Path(__file__).resolve().parent / "baseline.json"
THRESHOLD = 0.5
"""Share of a ratio that may be lost."""


def fallen(
    baseline: Mapping[str, float], measured: Mapping[str, float], threshold: float
) -> list[str]:
    """Ratios that lost more than `threshold`, a sentence each; one that is not here cannot fall."""
    return [
        f"{name}: {measured[name]:.2f} times as fast, the baseline is {least:.2f}"
        for name, least in baseline.items()
        if name in measured and measured[name] < least * (1.0 - threshold)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--renew", action="store_true", help="write a new baseline")
    arguments = parser.parse_args()
    set_up_logging()
    keep_interrupts()
    try:
        workload = Workload(arguments.workdir, short=True, repeats=arguments.repeats, threads=1)
        report = run(workload, GUARDED)
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    wanted = report.model_copy(update={"sections": {n: report.sections[n] for n in GUARDED}})
    measured = wanted.ratios()
    for name, value in measured.items():
        print(f"{name}: {value:.2f}")
    if broken := wanted.broken():
        sys.exit("\n".join(broken))
    if arguments.renew:
        rounded = {name: round(value, 3) for name, value in measured.items()}
        BASELINE.write_text(json.dumps(rounded, indent=2) + "\n", "utf-8")
        return
    baseline = json.loads(BASELINE.read_text("utf-8"))
    if not baseline.keys() & measured.keys():
        sys.exit(f"{BASELINE} has none of the ratios measured; run --renew on an idle machine.")
    if lost := fallen(baseline, measured, arguments.threshold):
        sys.exit("\n".join(lost))
    print(f"no ratio lost more than {arguments.threshold:.0%} of {BASELINE.name}")


if __name__ == "__main__":
    main()
