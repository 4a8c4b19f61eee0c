"""Compiles a float program by AOTInductor, for processors like this one's.

In: an exported program. Out: one ``.pt2`` package, a shared library with its weights inside. It
needs a C++ compiler here, and none where it is loaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from cadc_rec.errors import CadcError


def compile_program(program: torch.export.ExportedProgram, file: Path) -> None:
    """Write the package of `program` to `file`.

    Raises:
        CadcError: there is no C++ compiler.
    """
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise CadcError("--aot needs a C++ compiler: install g++, or leave --aot out.")
    file.parent.mkdir(exist_ok=True)
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))
