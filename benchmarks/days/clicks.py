"""The log of a study of days: its periods as tables, and the next clicks that have to be foreseen.

In: a table of user_id, item_id and times in milliseconds. Out: the rows of a period, in the order
of time; and of a period the requests: each user who was seen before, and the first item that the
user had not taken by then.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.user_items import UserItems

HOUR = 3_600_000
DAY = 24 * HOUR
_BUCKETS = 10_000  # of a hash of users


@dataclass(frozen=True)
class Requests:
    """What is asked in a period, in the order of time.

    Attributes:
        user: original ids ``[n]``.
        target: original ids of the items that were taken ``[n]``; each was known before.
        time: of the clicks, milliseconds ``[n]``.
        taken: of each, the items taken before the period, the latest last, as places in
            `Log.items`.
        returned: users who came back and took something new to them, with known targets or not.
        new_users: users who were never seen before the period.
        rows: interactions of the period, and of the log before it.
    """

    user: NDArray[np.int64]
    target: NDArray[np.int64]
    time: NDArray[np.int64]
    taken: UserItems
    returned: int
    new_users: int
    rows: tuple[int, int]

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.user)


class Log:
    """Interactions in the order of time; of each pair the first.

    Args:
        table: ``user_id``, ``item_id``, ``timestamp`` (milliseconds of a clock), ``rating``.
        share: of the users that are taken, drawn by a hash of their ids.
    """

    def __init__(self, table: pa.Table, share: float = 1.0) -> None:
        users = table["user_id"].to_numpy()
        if share < 1.0:
            table = table.filter(pa.array(_drawn(users, share)))
        times = table["timestamp"].to_numpy()
        self.table = table.take(pa.array(np.argsort(times, kind="stable")))
        user, item = (self.table[f"{side}_id"].to_numpy() for side in ("user", "item"))
        self.users, user_place = np.unique(user.astype(np.int64), return_inverse=True)
        self.items, item_place = np.unique(item.astype(np.int64), return_inverse=True)
        _, first = np.unique(user_place * len(self.items) + item_place, return_index=True)
        first.sort()
        self.user, self.item = user_place[first], item_place[first].astype(np.int32)
        self.time = self.table["timestamp"].to_numpy()[first].astype(np.int64)

    @classmethod
    def read(cls, file: Path, share: float = 1.0) -> Log:
        """The log of a file."""
        columns = ["user_id", "item_id", "timestamp", "rating"]
        return cls(pq.read_table(file, columns=columns), share)

    def write(self, folder: Path, start: int, end: int) -> Path:
        """A period's rows, as they are, into ``folder/interactions.parquet``."""
        time = self.table["timestamp"].to_numpy()
        first, last = np.searchsorted(time, [start, end])
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "interactions.parquet"
        pq.write_table(self.table.slice(first, last - first), file)
        return file

    def known(self, moment: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Of each user and each item, whether it was seen before a moment."""
        until = np.searchsorted(self.time, moment)
        found = np.zeros(len(self.users), bool), np.zeros(len(self.items), bool)
        found[0][self.user[:until]] = True
        found[1][self.item[:until]] = True
        return found

    def requests(self, start: int, end: int) -> Requests:
        """The next clicks of a period of users and items that were known before it."""
        until, stop = np.searchsorted(self.time, [start, end])
        users, items = self.known(start)
        came, first = np.unique(self.user[until:stop], return_index=True)
        back = users[came]
        rows = np.sort(until + first[back])
        rows = rows[items[self.item[rows]]]
        asked = self.user[rows]
        before = np.argsort(self.user[:until], kind="stable")
        counts = np.bincount(self.user[:until], minlength=len(self.users))
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return Requests(
            user=self.users[asked],
            target=self.items[self.item[rows]],
            time=self.time[rows],
            taken=UserItems(indptr, self.item[before]).some(asked),
            returned=int(back.sum()),
            new_users=int((~back).sum()),
            rows=(int(stop - until), int(until)),
        )

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """Times as the recent counts want them."""
        return self.time / 1000.0


def _drawn(users: NDArray[np.integer], share: float) -> NDArray[np.bool_]:
    """Whether each row is of a user who is drawn; the same users of whatever log."""
    ids, place = np.unique(users, return_inverse=True)
    drawn = [
        int.from_bytes(hashlib.blake2b(str(one).encode(), digest_size=8).digest()) % _BUCKETS
        for one in ids.tolist()
    ]
    return (np.array(drawn) < share * _BUCKETS)[place]
