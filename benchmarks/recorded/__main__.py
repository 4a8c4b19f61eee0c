"""The docs made again from recorded results: tables, pictures, and the figures of prose.

python -m benchmarks.recorded                      # writes what changed; says which figures did
python -m benchmarks.recorded --check              # writes nothing; fails if something would
python -m benchmarks.recorded --check README.md    # what a page would need to be held
python -m benchmarks.recorded --find table1/ml-1m/cadc/hr@10
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.marks import ROOT
from benchmarks.recorded.pages import DOCS, HELD, problems, renew
from benchmarks.recorded.studies import FOLDER
from benchmarks.recorded.values import Values
from cadc_rec.errors import CadcError


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, then check, find or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pages", nargs="*", default=HELD, help="default: those that are held")
    parser.add_argument("--check", action="store_true", help="write nothing; say what is wrong")
    parser.add_argument("--find", metavar="REFERENCE", help="print one recorded result")
    given = parser.parse_args(arguments)
    try:
        if given.find:
            print(Values().find(given.find))
        elif given.check:
            wrong = problems(given.pages)
            sys.exit("\n".join(wrong) if wrong else 0)
        else:
            _write(given.pages)
    except CadcError as error:
        sys.exit(f"error: {error}")


def _write(pages: Sequence[str], root: Path = ROOT, folder: Path = FOLDER) -> None:
    for docs in DOCS:
        for path in docs.write(root, folder):
            print(f"{path}: written")
    for line in renew(pages, root, folder):
        print(line)


if __name__ == "__main__":
    main()
