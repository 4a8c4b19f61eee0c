"""What stands between two marks of a page: ``<!-- mark -->`` and ``<!-- /mark -->``."""

from __future__ import annotations

import re
from pathlib import Path

from cadc_rec.errors import CadcError

ROOT = Path(__file__).resolve().parent.parent


def between(text: str, mark: str, content: str, page: Path) -> str:
    """`text` of `page` with what lies between ``<!-- mark -->`` and ``<!-- /mark -->`` replaced."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda found: f"{found[1]}{content}\n{found[2]}", text)
    if count != 1:
        raise CadcError(f"{page}: has {count} places marked {mark}; it needs one.")
    return replaced
