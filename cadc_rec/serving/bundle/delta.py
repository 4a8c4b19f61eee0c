"""Deltas: what makes the next bundle of the one that a service has.

In: two bundles. Out: a folder with the next bundle's manifest (and signature) and a patch of every
file that differs (`cadc_rec.serving.bundle.coded`). Applied to the first bundle it gives the
second, byte for byte: every file is compared with the next bundle's own manifest before the result
takes its place. A delta is of one bundle, and is refused by any other.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle, read_manifest
from cadc_rec.serving.bundle.coded import Coder, in_order
from cadc_rec.serving.bundle.patch import BadPatchError
from cadc_rec.store.atomic import commit, folder_to_fill
from cadc_rec.store.manifest import digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "cadc-rec delta"
FORMAT_VERSION = 3
"""Of version 1 patches were Zstandard's alone, and read another order of files. Version 2 brought
lists whole, and told of a foreseen row all or nothing."""
MANIFEST = "delta.json"
"""What the delta is of, what changed, and the patch of each file."""
_PATCH = re.compile(r"patches/[0-9]{4}\.patch")
_LIMIT = 1 << 20  # bytes of a manifest
_REMEDY = "copy or export the delta anew."


@dataclass(frozen=True)
class Delta:
    """A delta whose manifest is whole; its patches are checked as they are read.

    Attributes:
        path: its folder.
        manifest: what ``delta.json`` says.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Delta:
        """Open the delta in `path`.

        Raises:
            CadcError: it is none, of a newer version, or changed.
        """
        file = path / MANIFEST
        contents = _plain_file(file, _LIMIT)
        if not path.is_dir():
            raise CadcError(f"{path}: there is no such folder; name that of the delta.")
        if contents is None:
            raise CadcError(f"{path} is not a delta: it has no {MANIFEST}.")
        try:
            manifest = json.loads(contents)
            version = int(manifest["format_version"]) if manifest["format"] == FORMAT else 0
            body = {name: value for name, value in manifest.items() if name != "digest"}
            sound = manifest["digest"] == digest(body)
            _require_shape(manifest)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            version = 0
        if not version:
            raise CadcError(f"{file} is not the manifest of a delta; {_REMEDY}")
        if version != FORMAT_VERSION:
            newer = version > FORMAT_VERSION
            raise CadcError(
                f"{path}: a delta of format {version}, and this cadc-rec reads {FORMAT_VERSION}: "
                + ("install a newer one." if newer else "export it anew, or copy the whole bundle.")
            )
        if not sound:
            raise CadcError(f"{file} changed since it was written; {_REMEDY}")
        return cls(path, manifest)

    def read(self, entry: Mapping[str, Any]) -> bytes:
        """A file of the delta, checked against its entry.

        Raises:
            CadcError: it is missing, or changed.
        """
        file = self.path / str(entry["file"])
        contents = _plain_file(file, int(entry["bytes"]))
        if contents is None:
            raise CadcError(f"{file} is missing from the delta; {_REMEDY}")
        if hashlib.sha256(contents).hexdigest() != entry["sha256"]:
            raise CadcError(f"{file} changed since it was written; {_REMEDY}")
        return contents


def _require_shape(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest of this format that lacks what is read of it.

    Raises:
        KeyError: a key is missing.
        TypeError: something is of another type.
        ValueError: likewise.
    """
    if manifest["format_version"] != FORMAT_VERSION:
        return  # which is said
    for bundle in (manifest["base"], manifest["target"]):
        if not all(isinstance(bundle[name], str) for name in ("name", "fingerprint")):
            raise TypeError(bundle)
    for entry in (*manifest["carried"].values(), *manifest["patches"].values()):
        if not isinstance(entry["file"], str) or not isinstance(entry["sha256"], str):
            raise TypeError(entry)
        int(entry["bytes"])


def write_delta(base: Bundle, target: Bundle, out: Path, *, replace: bool = False) -> Delta:
    """Write the delta from `base` to `target` to the folder `out`.

    Raises:
        CadcError: the folder exists or cannot be written, or a bundle changed meanwhile.
    """
    with folder_to_fill(out, replace=replace) as folder:
        (folder / "patches").mkdir()
        carried = {}
        for name in (layout.MANIFEST, layout.SIGNATURE):
            if (target.path / name).is_file():
                carried[name] = _written(folder, name, (target.path / name).read_bytes())
        files: dict[str, Any] = {}
        coder = Coder(base, target)
        for number, name in enumerate(in_order(target.manifest["files"])):
            if _entry(base, name) == _entry(target, name):
                continue  # the reader has it
            patch, told = coder.patch(name)
            files[name] = _written(folder, f"patches/{number:04d}.patch", patch) | told
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "base": {"name": base.name, "fingerprint": base.fingerprint},
            "target": {"name": target.name, "fingerprint": target.fingerprint},
            "changes": changes_of(base, target),
            "carried": carried,
            "patches": files,
        }
        body = json.loads(strict_json.dumps(body))
        sealed = {**body, "digest": digest(body)}
        (folder / MANIFEST).write_text(strict_json.dumps(sealed, indent=2) + "\n", "utf-8")
        commit(folder, out)
    return Delta(out, sealed)


def apply_delta(
    path: Path,
    delta: Delta,
    out: Path | None = None,
    key: Ed25519PublicKey | None = None,
) -> Bundle:
    """Make the next bundle of the one in `path`.

    Args:
        path: the bundle, or a link to it.
        delta: from this bundle.
        out: folder of the next bundle; None puts it in the place of the first, by two renames,
            between which there is no bundle there. If the job is killed then, the next call puts
            the first back. A service that has loaded the first notices and loads the next.
        key: whose signature the next bundle must bear; None asks for none.

    Returns:
        The next bundle, verified. It is the one in `path` if that is the delta's target already.

    Raises:
        CadcError: the bundle is another than the delta's base, or either is damaged; nothing was
            changed.
    """
    here = path.resolve()
    if not here.exists() and here.parent.is_dir():
        with folder_to_fill(here, replace=True):
            pass  # a job died between the two renames of `commit`: its bundle is put back
    base = Bundle.open(here)
    wanted, target = delta.manifest["base"], delta.manifest["target"]
    if base.fingerprint == target["fingerprint"] and out is None:
        return Bundle.open(base.path, key)
    if base.fingerprint != wanted["fingerprint"]:
        raise CadcError(
            f"{delta.path}: is of the bundle {wanted['name']} ({wanted['fingerprint'][:12]}), and "
            f"{path} is {base.name} ({base.fingerprint[:12]}); apply the deltas in their order, or "
            "copy the whole bundle."
        )
    final = base.path if out is None else out
    with folder_to_fill(final, replace=out is None) as folder:
        for name, entry in delta.manifest["carried"].items():
            if name not in (layout.MANIFEST, layout.SIGNATURE):
                raise CadcError(f"{delta.path / MANIFEST} carries {name!r:.80}; {_REMEDY}")
            (folder / name).write_bytes(delta.read({**entry, "file": name}))
        manifest = read_manifest(folder, key)  # its names are those of a bundle's files
        coder = Coder(base, Bundle(folder, manifest))
        for name in in_order(manifest["files"]):
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(_next_file(base, delta, name, manifest["files"][name], coder))
        Bundle.open(folder, key)
        commit(folder, final)
    return Bundle(final, manifest)


def _next_file(
    base: Bundle, delta: Delta, name: str, wanted: Mapping[str, Any], coder: Coder
) -> bytes:
    """A file of the next bundle, of which those before it are there."""
    patch = delta.manifest["patches"].get(name)
    if patch is None:
        return base.read(name)
    try:
        if not _PATCH.fullmatch(patch["file"]):
            raise BadPatchError("name")
        new = coder.file(name, delta.read(patch), patch, wanted["bytes"])
    except (BadPatchError, LookupError, TypeError, ValueError):
        raise CadcError(f"{delta.path}: its patch of {name} cannot be applied; {_REMEDY}") from None
    if hashlib.sha256(new).hexdigest() != wanted["sha256"]:
        raise CadcError(
            f"{delta.path}: its patch of {name} gives other bytes here than where it was made; "
            "copy the whole bundle."
        )
    return new


def changes_of(base: Bundle, target: Bundle) -> dict[str, Any]:
    """What the second bundle has otherwise, for people: rows, ids, programs."""
    changes: dict[str, Any] = {}
    sides = (
        ("users", layout.USERS, "user_id", layout.USER_VECTORS),
        ("items", layout.ITEMS, "item_id", layout.ITEM_VECTORS),
    )
    for side, table, column, vectors in sides:
        was, now = (set(one.table(table)[column].to_pylist()) for one in (base, target))
        before, after = (one.arrays(vectors)["vectors"] for one in (base, target))
        both = min(len(before), len(after))
        same_width = before.shape[1] == after.shape[1]
        moved = int((before[:both] != after[:both]).any(1).sum()) if same_width else both
        changes[side] = {
            "new": len(now - was),
            "removed": len(was - now),
            "vectors_changed": moved,
            "rows": len(after),
        }
    programs = [name for name in layout.PROGRAMS.values() if target.has(name)]
    changes["programs_changed"] = [n for n in programs if _entry(base, n) != _entry(target, n)]
    return changes


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _entry(bundle: Bundle, name: str) -> tuple[int, str] | None:
    entry = bundle.manifest["files"].get(name)
    return None if entry is None else (entry["bytes"], entry["sha256"])


def _written(folder: Path, name: str, contents: bytes) -> dict[str, Any]:
    """Write a file of the delta; its entry."""
    (folder / name).write_bytes(contents)
    sha256 = hashlib.sha256(contents).hexdigest()
    return {"file": name, "bytes": len(contents), "sha256": sha256}


def _plain_file(file: Path, limit: int) -> bytes | None:
    """The contents of a plain file of at most so many bytes; None where there is none."""
    try:
        kind = file.lstat()
        if not stat.S_ISREG(kind.st_mode):
            raise CadcError(f"{file}: not a plain file; {_REMEDY}")
        if kind.st_size > limit:
            raise CadcError(f"{file} is larger than it can be; {_REMEDY}")
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CadcError(f"{file}: cannot be read ({error.strerror}).") from error
