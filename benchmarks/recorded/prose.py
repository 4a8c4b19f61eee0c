"""The figures in a page's prose: each names the recorded result that it is, and is checked by it.

A comment behind a figure, which Markdown does not show, names its result as `Values` finds it::

    CADC reaches 7.09<!-- = table1/ml-1m/cadc/hr@10 -->, gold 6.98 / 3.32 percent HR@10 /
    NDCG@10<!-- = table1/ml-1m/gold/{hr@10,ndcg@10} -->, which is no
    worse<!-- holds table1/ml-1m/cadc/vs/gold/hr@10/verdict cannot tell -->.

It must not begin a line, where Markdown would end the paragraph. Several references of a comment
are those of as many figures before it, in their order; braces stand for each of what they hold. A
sentence without figures may say what `holds`: a reference and a word, or ``<``, ``<=``, ``>`` or
``>=`` and a number or another reference.

Every run of digits is a figure, but in code, links' addresses, names such as ``HR@10``, between the
marks of tables, between ``<!-- cited: REASON -->`` and ``<!-- /cited -->``, where others' figures
or settings stand, and in the phrases that ``allowed.toml`` lists with a reason: settings,
definitions, and names (``day #`` is that of any whole number). Words such as "a tenth" are not
checked.

In: a page's text and recorded results. Out: what is wrong, or the text with its figures renewed.
"""

from __future__ import annotations

import itertools
import operator
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.recorded.files import FOLDER
from benchmarks.recorded.values import Values
from cadc_rec.errors import CadcError

_NUMBER = re.compile(r"(?:(?<![\w.,])[−+-])?(?<![\w.])\d(?:[\d,]*\d)?(?:\.\d+)?")
_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_CODE = (
    re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE),
    re.compile(r"(?:\A|(?<=\n\n))(?: {4}.*\n+)+"),  # after an empty line
)
_UNCHECKED = (
    re.compile(r"`[^`]+`"),
    re.compile(r"\]\([^)]*\)"),
    re.compile(r"\w+://\S+"),
    re.compile(r"\b\w+@\d+"),
    re.compile(r"^\s*\d{1,2}\. ", re.MULTILINE),  # numbers of a list
)
_MARKED = re.compile(r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->", re.DOTALL)
_CITED = re.compile(r"<!-- cited: \S[^>]* -->\n.*?<!-- /cited -->", re.DOTALL)
_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Figure:
    """A figure of a page's prose.

    Attributes:
        start: place of its first character.
        text: as it is written, such as ``−16.9`` or ``9,860,298``.
        reference: what it is; None where the page does not say.
    """

    start: int
    text: str
    reference: str | None

    @property
    def unit(self) -> float:
        """What its last digit counts; of whole numbers, the last of at least two before zeros."""
        whole, _, decimals = self.text.lstrip("−+-").replace(",", "").partition(".")
        if decimals:
            return 10.0 ** -len(decimals)
        zeros = len(whole) - len(whole.rstrip("0"))
        return 10.0 ** max(0, min(zeros, len(whole) - 2))

    def shows(self, value: float) -> bool:
        """Whether it is `value`, rounded; without a sign, that of either sign."""
        written = float(self.text.replace("−", "-").replace(",", ""))
        return abs(self._signed(value) - written) <= 0.5 * self.unit * (1 + 1e-6)

    def showing(self, value: float) -> str:
        """`value` as it would be written here: so many digits, a sign if it has one."""
        sign = "+" if self.text[0] in "−+-" else ""
        decimals = len(self.text.partition(".")[2])
        rounded = round(self._signed(value) / self.unit) * self.unit
        return f"{rounded:{sign},.{decimals}f}".replace("-", "−")

    def _signed(self, value: float) -> float:
        return value if self.text[0] in "−+-" else abs(value)


@dataclass(frozen=True)
class Allowed:
    """The phrases whose numbers are no results, with the reason; see ``allowed.toml``."""

    everywhere: Mapping[str, str]
    pages: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, path: Path = FOLDER / "allowed.toml") -> Allowed:
        """The list of a file.

        Raises:
            CadcError: a phrase is a bare number, or has no reason.
        """
        content = tomllib.loads(path.read_text("utf-8"))
        found = cls(content.get("everywhere", {}), content.get("pages", {}))
        for phrases in (found.everywhere, *found.pages.values()):
            for phrase, reason in phrases.items():
                if not reason or not re.search(r"[^\W\d_]", phrase):
                    raise CadcError(
                        f"{path}: {phrase!r} needs words beside its number, and a reason."
                    )
        return found


@dataclass(frozen=True)
class Prose:
    """A page and the figures of its prose.

    Attributes:
        name: of the page, relative to the repository.
        text: the page.
        figures: in their order.
        claims: what comments say holds, and where they stand.
        marks: of the tables that were left out.
        wrong: sentences about what could not be read.
    """

    name: str
    text: str
    figures: tuple[Figure, ...]
    claims: tuple[tuple[int, str], ...]
    marks: tuple[str, ...]
    wrong: tuple[str, ...]

    @classmethod
    def read(cls, name: str, text: str, allowed: Allowed) -> Prose:
        """Find the figures of a page."""
        marks = tuple(found[1] for found in _MARKED.finditer(text))
        left = _CITED.sub(_blank, _MARKED.sub(_blank, text))
        for pattern in _CODE:
            left = pattern.sub(_blank, left)
        comments = list(_COMMENT.finditer(left))
        left = _COMMENT.sub(_blank, left)
        for pattern in _UNCHECKED:
            left = pattern.sub(_blank, left)
        wrong = []
        for phrase in (*allowed.everywhere, *allowed.pages.get(name, {})):
            left, count = _phrase(phrase).subn(_blank, left)
            if not count and phrase in allowed.pages.get(name, {}):
                wrong.append(
                    f"{name}: allowed.toml allows {phrase!r}, which the page has no more; remove it"
                )
        numbers = [(found.start(), found[0]) for found in _NUMBER.finditer(left)]
        figures, claims = [], []
        waiting: list[tuple[int, str]] = []
        for start, said in _in_order(text, numbers, comments):
            if isinstance(said, str):
                waiting.append((start, said))
                continue
            content = " ".join(said[1].split()) if said else ""
            if content.startswith(("= ", "holds ")) and not _begun(text, start):
                wrong.append(
                    f"{name}:{_line(text, start)}: a comment begins the line, which ends the "
                    "paragraph in Markdown; put it behind a word"
                )
            if content.lstrip("/").startswith("cited"):
                wrong.append(
                    f"{name}:{_line(text, start)}: <!-- {content} --> needs a reason and its end; "
                    "write <!-- cited: REASON --> ... <!-- /cited -->"
                )
            if content.startswith("holds "):
                claims.append((start, content.removeprefix("holds ")))
            if content and not content.startswith("= "):
                continue
            references = _expanded(content[2:])
            named = waiting[max(0, len(waiting) - len(references)) :] if references else []
            if len(named) < len(references):
                where = f"{name}:{_line(text, start)}"
                wrong.append(
                    f"{where}: names {len(references)} results behind {len(named)} figures"
                )
            figures += [Figure(*one, None) for one in waiting[: len(waiting) - len(named)]]
            pairs = zip(named, references, strict=False)
            figures += [Figure(*one, reference) for one, reference in pairs]
            waiting = []
        return cls(name, text, tuple(figures), tuple(claims), marks, tuple(wrong))

    def problems(self, values: Values, held: bool = True) -> list[str]:
        """What is wrong: a sentence for each figure and claim, with page and line.

        Args:
            values: the recorded results.
            held: whether every figure has to name a result that is recorded; else those that do
                are checked.
        """
        found = list(self.wrong)
        for figure in self.figures:
            where = f"{self.name}:{_line(self.text, figure.start)}"
            if not held and not values.has(figure.reference or ""):
                continue
            if figure.reference is None:
                found.append(
                    f"{where}: {figure.text} names no recorded result; add one behind it (<!-- = "
                    "NAME/... -->), or its phrase to benchmarks/recorded/allowed.toml"
                )
                continue
            try:
                value = values.find(figure.reference)
            except CadcError as error:
                found.append(f"{where}: {figure.text}: {error}")
                continue
            if isinstance(value, str) or not figure.shows(value):
                found.append(
                    f"{where}: {figure.text} is not {figure.reference}, which is {_said(value)}; "
                    "renew it (python -m benchmarks.recorded), and read the sentence again"
                )
        for start, claim in self.claims:
            where = f"{self.name}:{_line(self.text, start)}"
            if not held and not values.has(claim):
                continue
            try:
                if not _holds(claim, values):
                    found.append(f"{where}: it does not hold that {claim}; correct the sentence")
            except CadcError as error:
                found.append(f"{where}: {error}")
        return found

    def renewed(self, values: Values) -> tuple[str, list[str]]:
        """The page with every figure as its result is now, and a line for each that changed."""
        text, changes = self.text, []
        for figure in sorted(self.figures, key=lambda figure: -figure.start):
            try:
                value = values.find(figure.reference) if figure.reference else figure.text
            except CadcError:
                continue  # `problems` says so
            if not isinstance(value, str) and not figure.shows(value):
                now = figure.showing(value)
                where = f"{self.name}:{_line(self.text, figure.start)}"
                changes.append(f"{where}: {figure.text} is now {now}")
                text = text[: figure.start] + now + text[figure.start + len(figure.text) :]
        return text, changes[::-1]


def _in_order(
    text: str, numbers: list[tuple[int, str]], comments: list[re.Match[str]]
) -> Iterator[tuple[int, str | re.Match[str] | None]]:
    """Numbers, comments, and ends of paragraphs, list entries and rows (None), by their places."""
    ends = [found.start() for found in re.finditer(r"\n(?=\s*(?:\n|[-*] |\d+\. |\||#|\Z))", text)]
    found: list[tuple[int, str | re.Match[str] | None]] = [*numbers]
    found += [(comment.start(), comment) for comment in comments]
    found += [(end, None) for end in (*ends, len(text))]
    yield from sorted(found, key=lambda one: one[0])


def _expanded(content: str) -> list[str]:
    """References, braces multiplied out: ``a/{b,c}`` is ``a/b`` and ``a/c``."""
    found = []
    for reference in content.split():
        parts = [part.split(",") for part in re.split(r"[{}]", reference)]
        texts = [[",".join(p)] if n % 2 == 0 else p for n, p in enumerate(parts)]
        found += ["".join(chosen) for chosen in itertools.product(*texts)]
    return found


def _holds(claim: str, values: Values) -> bool:
    """Whether what a comment says holds.

    Raises:
        CadcError: it cannot be read, or names no result.
    """
    reference, _, said = claim.partition(" ")
    value = values.find(reference)
    if isinstance(value, str):
        return value == said
    sign, _, other = said.partition(" ")
    if sign not in _SIGNS or not other:
        raise CadcError(f"{claim}: is a number; say <, <=, > or >= what.")
    bound = float(other) if re.fullmatch(r"-?[\d.]+", other) else values.find(other)
    if isinstance(bound, str):
        raise CadcError(f"{claim}: {other} is no number.")
    return _SIGNS[sign](value, bound)


def _phrase(phrase: str) -> re.Pattern[str]:
    """The phrase, over the ends of lines too, as no part of a longer word or number."""
    words = r"\s+".join(re.escape(word) for word in phrase.split()).replace(r"\#", r"\d+")
    return re.compile(rf"(?<![\w.]){words}(?!\w|[.,]\d)")


def _blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found[0])


def _begun(text: str, place: int) -> bool:
    """Whether anything stands before `place` on its line."""
    return bool(text[text.rfind("\n", 0, place) + 1 : place].strip())


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _said(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
