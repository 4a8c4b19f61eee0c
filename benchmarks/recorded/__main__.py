"""The docs made again from recorded results: tables, pictures, and the figures of prose.

    python -m benchmarks.recorded                      # writes what changed; says which figures did
    python -m benchmarks.recorded --check              # writes nothing; fails if something would
    python -m benchmarks.recorded --check README.md    # what a page would need to be held
    python -m benchmarks.recorded --find table1/ml-1m/cadc/hr@10
    python -m benchmarks.recorded --commits            # the code that made what is recorded

In: ``benchmarks/recorded/``. Out: the pages and pictures of ``docs/`` and the README.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.recorded.pages import DOCS, HELD, commits, problems, renew
from benchmarks.recorded.values import Values
from cadc_rec.errors import CadcError


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, then check, find or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; say what is wrong")
    parser.add_argument("pages", nargs="*", default=HELD, help="held by --check; default: `HELD`")
    parser.add_argument("--find", metavar="REFERENCE", help="print one recorded result")
    parser.add_argument("--commits", action="store_true", help="print the commits of each file")
    given = parser.parse_args(arguments)
    try:
        if given.find:
            print(Values().find(given.find))
        elif given.commits:
            for name, of in commits().items():
                made = (f"{count} of {commit}" for commit, count in of.items())
                print(f"{name}: {', '.join(made)}")
        elif given.check:
            wrong = problems(given.pages)
            sys.exit("\n".join(wrong) if wrong else 0)
        else:
            _write()
    except CadcError as error:
        sys.exit(f"error: {error}")


def _write() -> None:
    for docs in DOCS:
        for path in docs.write():
            print(f"{path}: written")
    for line in renew():
        print(line)


if __name__ == "__main__":
    main()
