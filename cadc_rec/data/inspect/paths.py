"""The path of a configuration that reads exactly the files of a table.

In: the files that `inspect` read as one table. Out: a file, a folder or a glob. Each is tried
before it is taken: a folder may hold other tables or empty files, and is without its .json files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cadc_rec.data.tables.files import FileSet, find_files, partition_keys
from cadc_rec.errors import CadcError


def path_of(found: FileSet, data_dir: Path | None) -> str:
    """A path that leads to these files and no others.

    Args:
        found: the files.
        data_dir: the folder that the path is relative to, where they lie below it.

    Raises:
        CadcError: no file, folder or glob leads to them alone; names the folder.
    """
    place = next((place for place in _places(found) if _leads_to(place, found)), None)
    if place is None:
        raise CadcError(
            f"{found.base}: no path or glob names the {len(found.files):,} files from "
            f"{found.name(found.files[0])} to {found.name(found.files[-1])} and no others, so no "
            "config can be written for them; move them to a folder of their own."
        )
    folder = data_dir.absolute() if data_dir is not None else None
    if folder is not None and Path(place).is_relative_to(folder):
        return str(Path(place).relative_to(folder))
    return place


def _leads_to(place: str, found: FileSet) -> bool:
    """Whether a path is read as these files, with the same partitions as columns."""
    try:
        there = find_files(place, "PATH", [found.base])
        return (
            len(there) == 1
            and there[0].format == found.format
            and set(there[0].files) == set(found.files)
            and partition_keys(there[0]) == partition_keys(found)
        )
    except CadcError:
        return False


def _places(found: FileSet) -> Iterator[str]:
    """Paths that may lead to the files, the plainest first."""
    if len(found.files) == 1:
        yield str(found.files[0])
    yield str(found.base)
    names = [found.name(file).as_posix() for file in found.files]
    start = os.path.commonprefix(names)  # noqa: RUF071 the beginning of names is meant
    end = os.path.commonprefix([name[::-1] for name in names])[::-1]  # noqa: RUF071 likewise
    end = end[end.find(".") :] if "." in end else ""
    start, end = glob.escape(start), glob.escape(end)
    patterns = [f"{start}*{end}", f"*{end}", f"**/*{end}", *_letter_by_letter(names)]
    base = glob.escape(str(found.base))
    yield from (f"{base}/{pattern}" for pattern in patterns)


def _letter_by_letter(names: Sequence[str]) -> Iterator[str]:
    """Names of one length, as a pattern that allows in each place the letters that stand there."""
    if len({len(name) for name in names}) > 1:
        return
    places = ["".join(sorted(set(letters))) for letters in zip(*names, strict=True)]
    if any(len(letters) > 1 and set(letters) & set("]!-/") for letters in places):
        return  # these mean something else in a class of letters
    first, *others = places
    # Partitions are the folders from the first wildcard on, so that the first letter is one.
    yield f"[{first}]" + "".join(glob.escape(s) if len(s) == 1 else f"[{s}]" for s in others)
