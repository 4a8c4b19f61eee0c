"""The other processes of a job, and the one error that is printed when one of them fails.

In: the store that the ranks share, and the error that ended this one. Out: one sentence, printed by
one rank.
A failure on one rank breaks the collectives of all others, each of which would report a
closed connection. So the rank that failed leaves its error in the store, and all others look there.
If there is none, every rank says in the store that it is alive, and the error names the ranks that
did not, with host and process. What all ranks do here takes each a few calls of the store, however
many they are; what takes a call for each rank, one of them does for all.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from enum import Enum, auto

import torch.distributed as dist
from torch.distributed import PrefixStore, Store

from cadc_rec.distributed.timely import SilentStoreError, TimelyStore
from cadc_rec.distributed.watch import Watch
from cadc_rec.errors import (
    CadcError,
    DefectError,
    ExitCode,
    SpokenError,
    failure_of,
    failure_text,
)

_ANSWER_SECONDS = 10.0  # for every rank to say that it is alive
_SPEAKER_SECONDS = 15.0  # for rank 0 to print another rank's error
_SEEN_SECONDS = 5.0  # the speaker waits this long for the others, which are busy, to look
_LOOK_SECONDS = 1.0  # between two looks whether a rank was lost, for one that is done
_STORE_SECONDS = 10.0  # for the store to answer on a busy machine


class Loss(Enum):
    """How a rank notices that another one is lost."""

    GONE = auto()
    """The other end closed a connection, or refuses one."""
    SILENT = auto()
    """A collective waited as long as it is allowed to."""


def loss_in(error: Exception) -> Loss | None:
    """The loss of a rank that an error of a collective means; None for any other error.

    The errors of the store and of making a connection have classes of their own. Gloo has none: in
    torch 2.13 a closed connection, a timeout and every other failure of its transport come out as
    a plain RuntimeError. NCCL has one, `DistBackendError`, for all its failures, running out of
    memory among them. So this function, and nothing else, goes by their words. Gloo's `pair.cc`
    says "Connection closed by peer", "Connection reset by peer", "Broken pipe", or after a timeout
    "Application timeout caused pair closure"; its `unbound_buffer.cc` "Timed out waiting 6000ms for
    recv operation". `ncclRemoteError` is "remote process exited or there was a network error",
    and NCCL's watchdog says "timed out after".
    """
    if isinstance(error, dist.DistStoreError):  # a key was not set in time
        return Loss.SILENT
    if isinstance(error, dist.DistNetworkError):
        return Loss.GONE
    if type(error) not in (RuntimeError, dist.DistBackendError):
        return None
    text = str(error)
    waited = ("Timed out waiting", "timed out after", "Application timeout")
    if any(words in text for words in waited):
        return Loss.SILENT
    closed = ("by peer", "remote process exited", "Broken pipe", "Connection was likely closed")
    return Loss.GONE if any(words in text for words in closed) else None


class LostError(Exception):
    """Another rank was lost, and no collective said so."""


class Peers:
    """The ranks of a job, by host and process; every rank must make one.

    Args:
        store: a store that only the ranks of this start of the job share.
        rank: this rank.
        world_size: number of ranks.
        timeout_seconds: how long a collective waits for a rank.
        patience: how long to wait here for the other ranks to come, in seconds.

    Raises:
        CadcError: some ranks did not come, or another process has this rank.
    """

    def __init__(
        self, store: Store, rank: int, world_size: int, timeout_seconds: int, patience: float
    ) -> None:
        self._raw = PrefixStore("cadc_rec", store)
        self._store = TimelyStore(self._raw, patience)
        self._watch: Watch | None = None
        self.rank, self.ranks, self.timeout_seconds = rank, range(world_size), timeout_seconds
        self._lost: list[int] = []
        me = f"rank {rank} (host {socket.gethostname()}, process {os.getpid()})"
        if not self._store.claim(f"name/{rank}", me):  # counted twice, it would stand for another
            raise CadcError(
                f"{me} found {self._store.get(f'name/{rank}')} there before it: each process of a "
                "job needs a RANK of its own, and one that was lost comes back only by a new start "
                "of all."
            )
        if self._store.add("came", 1) == world_size:
            self._store.set("all came", "")
        if not self._store.wait(["all came"], patience):
            absent = self._lacking("name")
            raise CadcError(
                f"{me} waited {patience:.0f} s for {_listed(absent)} of {world_size}, in vain: "
                "find out why, then start the job again."
            )
        self._keeper = self._store.get("name/0")
        """Rank 0, which keeps the store as a rule: once it is lost, nobody can ask for its name."""

    def watch(self, abort: Callable[[], None]) -> None:
        """Notice lost ranks from now on, for collectives that do not; see `Watch`."""
        store = self._raw.clone()  # type: ignore[attr-defined]  # missing in torch's stubs
        self._watch = Watch(store, self.rank, len(self.ranks), abort)

    def done(self) -> None:
        """This rank's work is done; where ranks are watched, it stays until all others' is.

        A rank that left at once would watch its neighbor no more, who may be lost yet; and with
        rank 0 the store would go, as if rank 0 were lost.

        Raises:
            LostError: a rank was lost, perhaps before this one's last collectives gave anything.
        """
        if self._watch is None:
            return
        try:
            if not self._watch.noticed and self._store.add("done", 1) == len(self.ranks):
                self._store.set("all done", "")
            while not self._store.wait(["all done"], _LOOK_SECONDS):
                if self._watch.noticed:
                    raise LostError("a rank was lost")
        except RuntimeError as error:  # rank 0, which keeps the store, has gone
            raise LostError("the store of the ranks has gone") from error
        self._watch.close()
        with contextlib.suppress(RuntimeError):  # rank 0 waited for this long enough
            if self._store.add("left", 1) == len(self.ranks):
                self._store.set("all left", "")
            if self.rank == 0:  # the store ends with this process
                self._store.wait(["all left"], _SPEAKER_SECONDS)

    def give_up(self) -> None:
        """This rank leaves, without an error to account for, before its work is done."""
        if self._watch is not None:
            self._watch.tell()

    def account_for(self, error: Exception, leave: Callable[[], None]) -> BaseException:
        """The exception that this rank ends with.

        Args:
            error: the error that ended it.
            leave: leaves the process group, which shows the others that something is wrong.

        Returns:
            A `SpokenError` for this rank to print, a SystemExit if another rank has printed, or
            `error` itself if it is a defect of this rank.
        """
        self._store.seconds = _STORE_SECONDS
        # What a rank comes to after its collectives were ended is no fault of its own.
        lost = isinstance(error, LostError) or (self._watch is not None and self._watch.noticed)
        refused = error if isinstance(error, CadcError) and not lost else None
        loss = Loss.GONE if lost else loss_in(error)
        try:
            if loss is not None:
                self._store.set(f"here/{self.rank}", "")
            else:
                self._store.set(f"failed/{self.rank}", failure_text(error))
                self._store.claim("teller", str(self.rank))
                if refused is None:  # a defect, which is told here, before others are told of it
                    self._claim()
                self._store.set("accounted", "")
            if self._store.add("answered", 1) == len(self.ranks):
                self._store.set("accounted", "")
        except RuntimeError:
            pass  # handled below
        self.give_up()
        leave()
        try:
            if refused is not None:
                return self._mine(refused)
            if loss is not None:
                return self._of_another(error, loss)
            if self._claim():
                self._store.set("spoken", "")
            return error
        except RuntimeError as silence:  # rank 0, which keeps the store, has gone or hangs
            if refused is not None:
                return SpokenError(refused)
            if loss is None:
                return error
            if self.rank != 1:
                return SystemExit(ExitCode.REFUSED)
            if isinstance(silence, SilentStoreError):
                loss = Loss.SILENT
            return SpokenError(self._gone([0], error, loss))

    def _mine(self, error: CadcError) -> BaseException:
        """This rank failed."""
        # Rank 0 prints for all ranks; it learns of this at its next collective.
        if self.rank and self._store.wait(["speaker"], _SPEAKER_SECONDS):
            return self._silent()
        return self._speak(error)

    def _of_another(self, error: Exception, loss: Loss) -> BaseException:
        """Another rank failed, or has gone."""
        teller = self._teller()
        if teller is not None:
            failure = failure_of(self._store.get(f"failed/{teller}"))
            place = self._name(teller)
            spoken = (
                CadcError(f"{place}: unexpected {failure}")
                if isinstance(failure, DefectError)
                else type(failure)(f"{place}: {failure}")
            )
            first = 0
        else:
            self._lost = self._lacking("here")
            spoken = self._gone(self._lost, error, loss)
            first = min(set(self.ranks) - set(self._lost), default=self.rank)
        if self.rank != first and self._store.wait(["speaker"], _SPEAKER_SECONDS):
            return self._silent()
        return self._speak(spoken)

    def _teller(self) -> int | None:
        """The first rank to leave an error; waits while a rank has neither failed nor answered."""
        self._store.wait(["accounted"], _ANSWER_SECONDS)
        return int(self._store.get("teller")) if self._store.has("teller") else None

    def _lacking(self, kind: str) -> list[int]:
        """The ranks that left no key of this kind; the first rank to ask looks for all of them."""
        looker, found = f"looker/{kind}", f"lacking/{kind}"
        mine = self._store.claim(looker, str(self.rank))
        if mine or not self._store.wait([found], _SPEAKER_SECONDS):
            lacking = [peer for peer in self.ranks if not self._store.has(f"{kind}/{peer}")]
            self._store.set(found, json.dumps(lacking))
            return lacking
        listed: list[int] = json.loads(self._store.get(found))
        return listed

    def _name(self, rank: int) -> str:
        """A rank by host and process."""
        return self._store.get(f"name/{rank}") if rank else self._keeper

    def _gone(self, missing: list[int], error: Exception, loss: Loss) -> CadcError:
        """An error that names the ranks that have gone."""
        first_line = str(error).strip().splitlines()[0]
        if not missing:
            return CadcError(f"the connection between the ranks broke: {first_line}")
        who = " and ".join(map(self._name, missing))
        if loss is Loss.SILENT:
            return CadcError(
                f"{who} did not answer within {self.timeout_seconds} s (compute.timeout_seconds): "
                "find out what delays it, then start the same command again; finished stages are "
                + " ".join(["kept.", *getattr(error, "__notes__", [])])  # see `flight.py`
            )
        how = "has gone: it was killed, or its machine failed"
        if len(missing) > 1:
            how = "have gone: they were killed, or their machines failed"
        return CadcError(f"{who} {how}; start the same command again, finished stages are kept.")

    def _speak(self, error: CadcError) -> BaseException:
        """This rank prints the error, unless another was quicker."""
        return SpokenError(error, self._spoken) if self._claim() else self._silent()

    def _spoken(self) -> None:
        """Let the others end, and wait for them, since the store may end with this process."""
        with contextlib.suppress(RuntimeError):
            others = {*self.ranks} - {self.rank, *self._lost}
            self._store.set("listeners", str(len(others)))
            self._store.set("spoken", "")
            if others:
                self._store.wait(["all seen"], _SEEN_SECONDS)

    def _silent(self) -> BaseException:
        """Another rank prints the error: end after it has."""
        spoken = self._store.wait(["spoken"], _SPEAKER_SECONDS)
        waited_for = spoken and self._store.has("listeners")
        if waited_for and self._store.add("seen", 1) == int(self._store.get("listeners")):
            self._store.set("all seen", "")
        return SystemExit(ExitCode.REFUSED)

    def _claim(self) -> bool:
        return self._store.claim("speaker", str(self.rank))


def _listed(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
