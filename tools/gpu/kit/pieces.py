"""A folder as one compressed file that is unpacked on all cores; pieces of zeros take no room.

python pieces.py pack FOLDER FILE
python pieces.py unpack FILE FOLDER
"""

from __future__ import annotations

import json
import lzma
import struct
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

PIECE = 32 << 20
Where = tuple[str, str, int, int, int]  # packed file, target, offset there, offset here, bytes here


def pack(folder: Path, out: Path) -> None:
    """Write every file of `folder`, in pieces, and an index of them."""
    jobs = [
        (path, offset)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
        for offset in range(0, max(1, path.stat().st_size), PIECE)
    ]
    index, end = [], 0
    with out.open("wb") as file, ThreadPoolExecutor() as pool:
        for (path, offset), packed in zip(jobs, pool.map(_packed, jobs), strict=True):
            name = path.relative_to(folder).as_posix()
            index.append([name, offset, path.stat().st_size, end, len(packed)])
            end += file.write(packed)
        tail = lzma.compress(json.dumps(index).encode())
        file.write(tail + struct.pack("<Q", len(tail)))
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, {len(index)} pieces")


def _packed(job: tuple[Path, int]) -> bytes:
    path, offset = job
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(PIECE)
    return lzma.compress(data, preset=3) if data.strip(b"\0") else b""


def unpack(packed: Path, folder: Path) -> None:
    """Write the files of a packed folder; those with pieces of zeros are sparse."""
    with packed.open("rb") as file:
        file.seek(-8, 2)
        (length,) = struct.unpack("<Q", file.read())
        file.seek(-8 - length, 2)
        index = json.loads(lzma.decompress(file.read(length)))
    jobs: list[Where] = []
    root = folder.resolve()
    for name, offset, size, begun, taken in index:
        target = (root / name).resolve()
        if not target.is_relative_to(root):
            raise SystemExit(f"{packed}: holds {name}, which lies outside of {folder}; refused")
        if offset == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as made:
                made.truncate(size)
        if taken:
            jobs.append((str(packed), str(target), offset, begun, taken))
    with ProcessPoolExecutor() as pool:
        list(pool.map(_unpacked, jobs))


def _unpacked(job: Where) -> None:
    packed, target, offset, begun, taken = job
    with open(packed, "rb") as file:
        file.seek(begun)
        data = lzma.decompress(file.read(taken))
    with open(target, "r+b") as made:
        made.seek(offset)
        made.write(data)


if __name__ == "__main__":
    {"pack": pack, "unpack": unpack}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
