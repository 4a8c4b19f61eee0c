"""Makes a CUDA library small: keeps one architecture's kernels, and of these the wanted ones.

python fatbin.py IN.so OUT.so [REGEX]       # keep sm_90, and there the kernels that match
python fatbin.py IN.so                      # list what a library holds

Offsets stay as they are, so that the library loads like the whole one. Code of other architectures
is overwritten by zeros (the driver takes the exact match). Of kernels that are not wanted the
header names an old architecture as well, so that a launch says "no kernel image" instead of running
zeros. Needs `readelf` and `zstd`.
"""

from __future__ import annotations

import collections
import mmap
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

KEPT, OLD = 90, 70  # sm_90; an architecture that the driver never takes for it
_CONTAINER = 0xBA55ED50
_ARCH_AT = 28  # bytes from an entry's start: the fourth word after 16 bytes of header


@dataclass(frozen=True)
class Entry:
    """One piece of code in a fat binary."""

    start: int
    header: int
    size: int
    compressed: int
    arch: int

    @property
    def code(self) -> slice:
        """Where its bytes are."""
        return slice(self.start + self.header, self.start + self.header + self.size)


def section(path: str, name: str = ".nv_fatbin") -> tuple[int, int] | None:
    """Offset and size of an ELF section; None without one."""
    listed = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        found = re.search(r"\] (\S+)\s+\S+\s+[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+)", line)
        if found and found[1] == name:
            return int(found[2], 16), int(found[3], 16)
    return None


def entries(data: mmap.mmap, offset: int, size: int) -> Iterator[Entry]:
    """Every piece of code of a section."""
    at, end = offset, offset + size
    while at + 16 <= end:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, at)
        if magic != _CONTAINER:
            at += 8  # containers are aligned to it
            continue
        entry, at = at + header, at + header + length
        while entry < at:
            _, _, head, payload = struct.unpack_from("<HHIQ", data, entry)
            compressed, *_ = struct.unpack_from("<I", data, entry + 16)
            (arch,) = struct.unpack_from("<I", data, entry + _ARCH_AT)
            yield Entry(entry, head, payload, compressed or payload, arch)
            entry += head + payload


def kernels(code: bytes) -> list[str]:
    """Names of the kernels in an ELF image: its sections of text."""
    (table,) = struct.unpack_from("<Q", code, 0x28)
    width, count, names = struct.unpack_from("<HHH", code, 0x3A)
    (strings,) = struct.unpack_from("<Q", code, table + names * width + 24)
    found = []
    for n in range(count):
        (name,) = struct.unpack_from("<I", code, table + n * width)
        text = code[strings + name : code.find(b"\0", strings + name)].decode()
        if text.startswith(".text."):
            found.append(text.removeprefix(".text."))
    return found


def unpacked(code: bytes, compressed: int) -> bytes:
    """An ELF image, whether it was compressed or not."""
    if code[:4] == b"\x7fELF":
        return code
    done = subprocess.run(
        ["zstd", "-dcq"], input=code[:compressed], capture_output=True, check=False
    )
    return done.stdout  # what follows the image is no error


def reduce(source: str, target: str, wanted: str | None) -> str:
    """Write the reduced library; says what was kept, in MiB."""
    shutil.copyfile(source, target)
    found, sizes = section(source), collections.Counter[str]()
    if found is not None:
        with open(target, "r+b") as file:
            data = mmap.mmap(file.fileno(), 0)
            for entry in list(entries(data, *found)):
                fate = _fate(data, entry, wanted)
                sizes[fate] += entry.size
                if fate == "not wanted":
                    struct.pack_into("<I", data, entry.start + _ARCH_AT, OLD)
                if fate != "kept":
                    data[entry.code] = bytes(entry.size)
            data.flush()
    return ", ".join(f"{fate} {size / 2**20:.1f} MiB" for fate, size in sizes.items())


def _fate(data: mmap.mmap, entry: Entry, wanted: str | None) -> str:
    if entry.arch != KEPT:
        return "of other cards"
    if wanted is None:
        return "kept"
    names = [
        name
        for name in kernels(unpacked(bytes(data[entry.code]), entry.compressed))
        if "EmptyKernel" not in name
    ]
    matching = any(re.search(wanted, name) for name in names)
    return "kept" if matching or not names else "not wanted"


def listed(path: str) -> str:
    """How much code of each architecture a library holds."""
    found, sizes = section(path), collections.Counter[int]()
    if found is None:
        return "no CUDA code"
    with open(path, "rb") as file:
        for entry in entries(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), *found):
            sizes[entry.arch] += entry.size
    return ", ".join(f"sm_{arch} {size / 2**20:.1f} MiB" for arch, size in sorted(sizes.items()))


if __name__ == "__main__":
    name = sys.argv[1].rpartition("/")[2]
    asked = sys.argv[3] if len(sys.argv) > 3 else None
    print(
        name, listed(sys.argv[1]) if len(sys.argv) == 2 else reduce(sys.argv[1], sys.argv[2], asked)
    )
