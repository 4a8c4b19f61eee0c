"""Text becomes vectors: hashed n-grams of our own, or a model of sentence-transformers.

In: texts. Out: a vector for each. A model encodes each different text once: what it gave is kept in
the cache folder, by the model's files and the text, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import sqlite3
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError

from cadc_rec.config.dense import TextConfig
from cadc_rec.errors import CadcError
from cadc_rec.log import Ticker

Floats = NDArray[np.float32]
_KEY = "data.text.encoder"
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_WORD = re.compile(r"\w+")
_PARTS = (3, 4, 5)  # characters of a word's parts
_LOOKED_UP = 500  # texts in one question to the cache
_CHUNK = 1 << 20


class TextEncoder(Protocol):
    """Makes vectors of texts."""

    @property
    def width(self) -> int:
        """Of a vector."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """Vectors ``[n, width]``; zeros of a text that says nothing."""


class HashedNgrams:
    """Counts of words and of their parts, each added to, or taken from, one of `width` sums.

    The same text has the same vector everywhere and in every version: CRC-32 says which sum and
    which sign, as in feature hashing (Weinberger et al., 2009). A count c adds 1 + log(c); a word's
    parts of three to five characters, together, add as much as the word.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, texts: Sequence[str]) -> Floats:
        """See `TextEncoder`."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
            codes: list[int] = []
            weights: list[float] = []
            for word, count in Counter(words).items():
                weight, padded = 1 + math.log(count), f" {word} "
                parts = [
                    padded[n : n + size] for size in _PARTS for n in range(len(padded) - size + 1)
                ]
                codes += [zlib.crc32(f"p{part}".encode()) for part in parts]
                weights += [weight / math.sqrt(max(len(parts), 1))] * len(parts)
                codes.append(zlib.crc32(f"w{word}".encode()))
                weights.append(weight)
            signs = np.array([1 if code & 1 else -1 for code in codes])
            places = np.array([(code >> 1) % self.width for code in codes], np.int64)
            vector[:] = np.bincount(places, signs * np.array(weights), self.width)
        return vectors


class ModelEncoder:
    """A sentence-transformers model, on the GPU where there is one.

    Args:
        config: names its folder.

    Raises:
        CadcError: the folder or the library is not there, or the folder holds no such model.
    """

    def __init__(self, config: TextConfig) -> None:
        folder = _folder(config)
        _require_data_alone(folder)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise CadcError(
                f"{_KEY} = {config.encoder!r} needs sentence-transformers; install it: "
                "pip install 'cadc-rec[text]'."
            ) from None
        try:
            # Weights as safetensors alone: nothing is unpickled. Code of the folder, which some
            # versions of the library run, was refused above.
            self._model = SentenceTransformer(
                str(folder), local_files_only=True, model_kwargs={"use_safetensors": True}
            )
            self.width = int(self._model.encode(["a"], show_progress_bar=False).shape[1])
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
            raise CadcError(
                f"{folder}: cannot be read as a model of sentence-transformers ({reason}); name "
                f"another folder in {_KEY}."
            ) from None
        self._batch = config.batch_size

    def encode(self, texts: Sequence[str]) -> Floats:
        """See `TextEncoder`."""
        made: Any = self._model.encode(
            list(texts),
            batch_size=self._batch,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(made, np.float32)


class Cached:
    """An encoder that is asked for each different text once, whoever asks and whenever.

    Args:
        encoder: is asked.
        file: an SQLite database: a vector for the SHA-256 of each text.
        at_once: texts that are encoded between two commits.
    """

    def __init__(self, encoder: TextEncoder, file: Path, at_once: int) -> None:
        self.width, self._encoder, self._at_once = encoder.width, encoder, at_once
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._store = sqlite3.connect(file, timeout=60)
            self._store.execute(
                "CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, v BLOB)"
            )
        except (OSError, sqlite3.Error) as error:
            raise CadcError(f"{file}: cannot be used as a cache of vectors ({error}).") from None

    def encode(self, texts: Sequence[str]) -> Floats:
        """See `TextEncoder`."""
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        found = self._found(keys)
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in found}
        for start in range(0, len(missing), self._at_once):
            part = dict(list(missing.items())[start : start + self._at_once])
            made = self._encoder.encode(list(part.values()))
            rows = {key: row.astype("<f4").tobytes() for key, row in zip(part, made, strict=True)}
            with self._store:
                self._store.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows.items())
            found |= rows
        joined = b"".join(found[key] for key in keys)
        return np.frombuffer(joined, "<f4").reshape(len(keys), self.width).astype(np.float32)

    def _found(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _LOOKED_UP):
            part = keys[start : start + _LOOKED_UP]
            marks = ",".join("?" * len(part))
            asked = f"SELECT text, v FROM vectors WHERE text IN ({marks})"
            found |= dict(self._store.execute(asked, part).fetchall())
        return found

    def close(self) -> None:
        """Close the database."""
        self._store.close()


@contextlib.contextmanager
def open_encoder(config: TextConfig, cache: Path) -> Iterator[TextEncoder]:
    """The encoder that the configuration names, until the block ends.

    Args:
        config: names it.
        cache: the folder under which a model's vectors are kept.

    Raises:
        CadcError: see `ModelEncoder`.
    """
    if not config.folder:
        yield HashedNgrams(config.dim)  # as quick as a cache would be
        return
    file = cache / "text" / f"{model_digest(config)}.sqlite"
    with contextlib.closing(Cached(ModelEncoder(config), file, 16 * config.batch_size)) as cached:
        yield cached


def encoded(
    batches: Iterable[tuple[NDArray[np.int64], pa.Array]], encoder: TextEncoder, ticker: Ticker
) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
    """Vectors in place of texts; null of a missing text, and of one that says nothing.

    Args:
        batches: row numbers ``[n]``, and a text, or null, for each.
        encoder: is asked for each different text of a batch once.
        ticker: counts rows.
    """
    for numbers, texts in batches:
        coded = texts.dictionary_encode()
        distinct = coded.dictionary.to_pylist()
        vectors = encoder.encode(distinct)
        places = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        known = places >= 0
        known[known] = vectors[places[known]].any(1)
        flat = pa.array(vectors[places[known]].ravel())
        yield numbers[known], pa.FixedSizeListArray.from_arrays(flat, encoder.width)
        ticker.advance(len(numbers))


def model_digest(config: TextConfig) -> str:
    """SHA-256 of the names and bytes of a model's files.

    Raises:
        CadcError: the folder is not there.
    """
    folder, total = _folder(config), hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()


def _require_data_alone(folder: Path) -> None:
    """Refuse a model that brings code of its own, or weights that would have to be unpickled.

    Raises:
        CadcError: names the file.
    """
    listed = folder / "modules.json"
    try:
        modules = json.loads(listed.read_text("utf-8")) if listed.is_file() else []
        kinds = [str(module["type"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CadcError(f"{listed}: cannot be read ({error}); name another folder.") from None
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise CadcError(
                f"{listed}: names {kind!r}, code of its own, which is never run; name a model of "
                f"sentence-transformers' own modules in {_KEY}."
            )
    for file in sorted(path for path in folder.rglob("*") if path.suffix in _PICKLED):
        if not any(file.parent.glob("*.safetensors")):
            raise CadcError(
                f"{file}: weights in this format are never read, for they can run code; name a "
                f"model with safetensors in {_KEY}."
            )


def _folder(config: TextConfig) -> Path:
    folder = Path(config.folder).expanduser()
    if not folder.is_dir():
        raise CadcError(
            f"{_KEY} = {config.encoder!r}: no such folder; name that of a sentence-transformers "
            "model, or 'hashed-ngrams'."
        )
    return folder
