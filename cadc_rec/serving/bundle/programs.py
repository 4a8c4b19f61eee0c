"""The model programs of a bundle, loaded from verified bytes and from nothing else.

A ``.pt2`` of `torch.export` may hold pickles (example inputs, odd tensors, opaque constants), and
`torch.export.load` would unpickle them. Those we write hold none, so one that does is refused
before it is loaded. A scripted ``.pt`` is read by torch's C++ reader, which knows tensors and
TorchScript's own types only. Both, and AOTInductor packages all the more, are programs: they can
do whatever a program can, which is why their bytes are verified first.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle

if TYPE_CHECKING:
    import torch

# What an archive of torch.export consists of, below its one top folder.
_PLAIN_ENTRIES = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/\w+_config\.json"
    r"|models/model\.json|archive_format|archive_version|byteorder|\.data/[a-z_]+|version"
)
_EXAMPLE_INPUTS = "data/sample_inputs/model.pt"
_ONE_AT_A_TIME = threading.Lock()  # torch.export.load has state of its own that it cannot share


def load_program(bundle: Bundle, program: str) -> torch.nn.Module:
    """A float program of `layout.PROGRAMS`; takes what ``model.json`` says.

    Raises:
        CadcError: the bundle has none, or it is not one of ours.
    """
    import torch

    name = layout.PROGRAMS[program]
    contents = bundle.read(name)
    refuse_pickles(contents, str(bundle.path / name))
    with _ONE_AT_A_TIME:
        loaded = torch.export.load(io.BytesIO(contents)).module()
        _forget_shapes()
        return loaded


def _forget_shapes() -> None:
    """Let go what torch works out when it loads a program: it has a cache for it without an end.

    The caches are of methods, so they hold each program's shapes, a megabyte a bundle.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    for method in vars(ShapeEnv).values():
        clear = getattr(method, "cache_clear", None)
        if clear is not None:
            clear()


class LazyProgram:
    """A float program that is loaded when it is first called, or by `load`.

    Loading torch takes seconds, and most requests need no program.

    Args:
        bundle: that has it.
        program: of `layout.PROGRAMS`.
    """

    def __init__(self, bundle: Bundle, program: str) -> None:
        self._bundle, self._name = bundle, program
        self._one_at_a_time = threading.Lock()
        self._program: torch.nn.Module | None = None

    def load(self) -> torch.nn.Module:
        """The program.

        Raises:
            CadcError: see `load_program`.
        """
        with self._one_at_a_time:
            if self._program is None:
                self._program = self.another()
            return self._program

    def another(self) -> torch.nn.Module:
        """The program once more, for who asks alone.

        Raises:
            CadcError: see `load_program`.
        """
        return load_program(self._bundle, self._name)

    def __call__(self, *given: torch.Tensor) -> torch.Tensor:
        """What it makes of these."""
        found: torch.Tensor = (self._program or self.load())(*given)
        return found


def load_compiled(bundle: Bundle, program: str) -> Any:
    """The AOTInductor package of a program; a callable.

    Raises:
        CadcError: the bundle has none (export with ``--aot``).
    """
    import torch

    contents = bundle.read(layout.compiled(program))
    with tempfile.TemporaryDirectory() as folder:  # torch takes packages from a file only
        file = Path(folder) / "program.pt2"
        file.write_bytes(contents)
        return torch._inductor.aoti_load_package(str(file))


def load_scripted(bundle: Bundle, precision: str) -> torch.jit.ScriptModule:
    """The scripted TorchRec predict module with ``int8``, ``int4`` or ``fp16`` tables.

    Raises:
        CadcError: the bundle has none of that precision.
    """
    import fbgemm_gpu  # noqa: F401  (registers the operators that the module calls)
    import torch

    contents = io.BytesIO(bundle.read(layout.torchrec_module(precision)))
    return torch.jit.load(contents, map_location=bundle.model()["torchrec"].get("device", "cpu"))


def refuse_pickles(archive: bytes, where: str) -> None:
    """Stop if anything in an archive of `torch.export` would be unpickled.

    Raises:
        CadcError: so it would, or it is no such archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            for entry in opened.infolist():
                name = entry.filename.partition("/")[2]
                empty = name == _EXAMPLE_INPUTS and entry.file_size == 0
                if not (empty or _PLAIN_ENTRIES.fullmatch(name)):
                    raise CadcError(f"{where}: holds {name!r}, which may be a pickle; not opened.")
                if name.endswith("_config.json") and _says_pickle(opened.read(entry)):
                    raise CadcError(f"{where}: {name} asks for a pickle; not opened.")
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError):
        raise CadcError(f"{where}: not an archive of torch.export.") from None


def _says_pickle(config: bytes) -> bool:
    """Whether a table of weights or constants has any entry that is not raw bytes."""
    entries = json.loads(config)["config"].values()
    return any(entry["use_pickle"] is not False for entry in entries)
