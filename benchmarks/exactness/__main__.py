"""Ask a service for every user of a bundle in many ways, and recompute each answer from the files.

    python -m benchmarks.exactness BUNDLE ...       # in .venv-serve

A service of each bundle runs in a process of its own and is asked over HTTP, for one user or two at
a time and for some hundred, for these go different ways. What the answers should be is worked out
by NumPy and SciPy (`benchmarks.exactness.files`), by the rule of `benchmarks.exactness.compare`. A
table of all cases is printed, and the first answers that differ.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exactness.cases import CASES, SOLD_OUT
from benchmarks.exactness.compare import Answer, Tally
from benchmarks.exactness.files import Files, Question
from benchmarks.serving import Running, running

SIZES = (1, 2, 3, 5, 64, 250)
"""Users of a request, in turn: a few go through NumPy one by one, many through torch in blocks."""
_AS_JSON = ("filter", "max_per", "boost")
_TRIES = 50


class Client:
    """Asks a service over one connection."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def post(self, path: str, document: object) -> Any:
        """The answer to a document; asks again where the service is busy.

        Raises:
            SystemExit: the service refuses it.
        """
        for _ in range(_TRIES):
            try:
                self._connection.request("POST", path, json.dumps(document), self._headers)
                answer = self._connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected):
                self._connection.close()  # it was idle while answers were worked out
                continue
            body = answer.read()
            if answer.status == 200:
                return json.loads(body)
            if answer.status != 503:
                break
            time.sleep(1)
        raise SystemExit(f"{path}: {answer.status} {body[:300]!r}")

    def ask(self, asked: Question) -> list[Answer]:
        """What each user of a question gets."""
        got = self.post("/v2/models/recommender/infer", document_of(asked))
        found = {one["name"]: one for one in got["outputs"]}
        places = found["item_id"]["shape"][1]
        made = []
        for n, count in enumerate(found["count"]["data"]):
            part = slice(n * places, n * places + count)
            items, scores = found["item_id"]["data"][part], found["score"]["data"][part]
            made.append(Answer(items, scores, found["source"]["data"][n]))
        return made


def document_of(asked: Question) -> dict[str, Any]:
    """A question as the protocol's request."""
    inputs = [_tensor("user_id", list(asked.users), [len(asked.users)])]
    for name, ids in (
        ("history", asked.history), ("candidate_id", asked.candidates), ("block_id", asked.block)
    ):  # fmt: skip
        if ids is None:
            continue
        if isinstance(ids[0], list):
            flat = list(itertools.chain.from_iterable(ids))
            inputs.append(_tensor(name, flat, [len(ids), len(ids[0])]))
        else:
            inputs.append(_tensor(name, list(ids), [len(ids)]))
    parameters = {
        name: json.dumps(value) if name in _AS_JSON else value
        for name, value in (asked.parameters or {}).items()
    }
    return {"inputs": inputs, "parameters": {"k": asked.k, **parameters}}


def _tensor(name: str, ids: list[Any], shape: list[int]) -> dict[str, Any]:
    kind = "INT64" if all(isinstance(id_, int) for id_ in ids) else "BYTES"
    data = ids if kind == "INT64" else list(map(str, ids))
    return {"name": name, "shape": shape, "datatype": kind, "data": data}


def batches(users: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The users, so many a request."""
    start = 0
    for size in itertools.cycle(SIZES):
        if start >= len(users):
            return
        yield users[start : start + size]
        start += size


def of_bundle(files: Files, service: Running, cases: Sequence[str]) -> Iterator[tuple[str, Tally]]:
    """Each case's name, and what was found.

    Args:
        files: of the bundle.
        service: of the same.
        cases: names.
    """
    client = Client(service.http, service.key)
    for number, name in enumerate(cases):
        tally, draw = Tally(), np.random.default_rng(number)
        gone: list[Any] = []
        if name == SOLD_OUT:
            popular = np.argsort(-files.popularity)[:300:3]
            gone = [files.item_ids[row] for row in popular.tolist()]
            client.post("/v2/models/recommender/availability", {"withhold": gone})
        case = CASES["plain, 100 places" if name == SOLD_OUT else name]
        for users in batches(files.user_ids):
            asked = case(files, users, draw)
            tally.add(files, asked, files.expected(asked, gone), client.ask(asked))
        if gone:
            client.post("/v2/models/recommender/availability", {"release": gone})
        yield name, tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, SOLD_OUT])
    options = parser.parse_args()
    wrong = 0
    print("| bundle | case | users | differ | close scores swapped | largest difference |")
    print("|---|---|---|---|---|---|")
    for path in options.bundles:
        files = Files(path)
        with tempfile.TemporaryDirectory() as folder:
            journal = str(Path(folder) / "events")
            with running(path, "--events", journal) as service:
                for name, tally in of_bundle(files, service, options.cases or [*CASES, SOLD_OUT]):
                    wrong += len(tally.wrong)
                    print(
                        f"| {path.name} | {name} | {tally.users:,} | {len(tally.wrong):,} | "
                        f"{tally.swapped:,} | {tally.largest:.1e} |",
                        flush=True,
                    )
                    for sentence in tally.wrong[:5]:
                        print(f"    {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
