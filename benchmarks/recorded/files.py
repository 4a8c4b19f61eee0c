"""How recorded results are written: small files whose changes are seen in a diff."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from benchmarks.marks import ROOT
from cadc_rec import strict_json
from cadc_rec.store.atomic import write_atomically
from cadc_rec.versions import code_commit

FOLDER = ROOT / "benchmarks" / "recorded"
_DIGITS = 6


def small(value: Any) -> Any:
    """Numbers rounded to six digits, and files without the folders of this machine.

    What is shown of them is rounded a second time, so that a last digit may be another than in the
    report, which is made of the run itself.
    """
    if isinstance(value, dict):
        return {name: small(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [small(one) for one in value]
    if isinstance(value, str):
        return re.sub(r"(?<![\w:./])/(?:[^\s/:;,'\"]+/)+", "", value)
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object with a line for each element of its lists, and of objects of objects."""
    texts = [f" {json.dumps(name)}: {_lines(value)}" for name, value in content.items()]
    write_atomically(path, "{\n" + ",\n".join(texts) + "\n}\n")


def with_commit(content: dict[str, Any]) -> dict[str, Any]:
    """`content` and the code's commit, where that is known; of what was just measured."""
    commit = code_commit()
    return content if commit is None else {"commit": commit, **content}


def add(path: Path, name: str, content: dict[str, Any]) -> None:
    """Write one more member of a file's object, or its member of that name anew, and its commit."""
    there = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    write_json(path, {**there, name: small(with_commit(content))})


def _lines(value: Any) -> str:
    if value and isinstance(value, list):
        return "[\n  " + ",\n  ".join(map(_line, value)) + "\n ]"
    if value and isinstance(value, dict) and all(isinstance(v, dict) for v in value.values()):
        rows = (f"{json.dumps(name)}: {_line(one)}" for name, one in value.items())
        return "{\n  " + ",\n  ".join(rows) + "\n }"
    return _line(value)


def _line(value: Any) -> str:
    return strict_json.dumps(value, ensure_ascii=False)
