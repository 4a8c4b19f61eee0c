"""How much work the service has, in seconds, and what it can still take.

In: each request's size, and the moment by which it must be answered. Out: a `Ticket` for a request
that can be answered in time, and otherwise a refusal at once, before any work is done for it.

How long an answer takes is measured, by size. While requests wait, the time between two answers is
what the second one took, whatever took it: the predictor, Python, or other processes. So the limit
of what may wait is one of time, and follows the machine: as many requests as are answered within
`Limits.wait_seconds`.

A request that is larger than one piece of work (`cadc_rec.serving.http.recommender`) takes turns
with the others. So small ones do not wait for all of it, and it may wait for as long as it takes
itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.settings import Limits

if TYPE_CHECKING:  # it loads the server's library
    from cadc_rec.serving.http.messages import Parameters

_MEMORY = 0.25  # seconds of answers of a size that its mean is about
_WEIGHT = 0.05  # of a new measurement in the mean of its size, at most
TYPICAL = (1, 10)
"""Users and k of a request that is not read yet."""
_UNMEASURED = 0.001  # seconds of an answer, before there was any
_DOUBT = 0.9  # what an expectation becomes that alone refuses a request, so that it is tried again

_REFUSALS = Counter(
    "cadc_rec_refusals",
    "Requests that were not answered, by protocol and reason.",
    ("protocol", "reason"),
)
_EXPECTED = Gauge(
    "cadc_rec_expected_wait_seconds",
    "Seconds of work that wait before the next request.",
    multiprocess_mode="livesum",
)


def refused(protocol: str, reason: str) -> None:
    """Count a refusal.

    Args:
        protocol: ``rest`` or ``grpc``.
        reason: one word of those in ``docs/serving.md``.
    """
    of_refusals(protocol, reason).inc()


def of_refusals(protocol: str, reason: str) -> Counter:
    """The counter of one kind of refusals; see `refused`."""
    found: Counter = _REFUSALS.labels(protocol, reason)
    return found


class Busy(CadcError):
    """More waits than can be answered soon.

    Attributes:
        retry_after: whole seconds after which to ask again.
    """

    reason = "busy"

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after(wait)


class TooLate(Busy):
    """It cannot be answered by the moment that the client named."""

    reason = "deadline"


def allowed_by(parameters: Parameters | None, allowed: float | None) -> float | None:
    """Seconds that a client allows; None where it does not say.

    Args:
        parameters: of its request, ``timeout`` among them.
        allowed: what a header or gRPC says; None says nothing.
    """
    if parameters is None or not parameters.timeout:  # microseconds; 0 says nothing
        return allowed
    return min(parameters.timeout / 1e6, math.inf if allowed is None else allowed)


def retry_after(wait: float) -> int:
    """Whole seconds, at least one, until so many seconds of work are done."""
    return max(1, math.ceil(wait))


class ServiceTimes:
    """Seconds that an answer takes, by the numbers of users and of items a user.

    Sizes count by powers of two. One that was never met is expected to take no longer than the
    largest that was and is smaller on both sides: so it is tried, and then it is known.

    Answers come in bursts, one for each turn of the event loop: the first seems to take all of the
    turn, and the others next to nothing. So a mean is about many bursts: it forgets by the seconds
    that went by, not by the answers.
    """

    def __init__(self) -> None:
        # Of each size, seconds and answers, the older the less.
        self._seen: dict[tuple[int, int], tuple[float, float]] = {}

    def add(self, users: int, k: int, seconds: float) -> None:
        """Learn from one answer."""
        size = users.bit_length(), k.bit_length()
        kept = max(1 - _WEIGHT, math.exp(-seconds / _MEMORY))
        # The first one counts for as many as are remembered at least: none of those that follow,
        # such as one that waited for a bundle to be loaded, changes much alone.
        before, answers = self._seen.get(size, (seconds / _WEIGHT, 1 / _WEIGHT))
        self._seen[size] = before * kept + seconds, answers * kept + 1

    def expected(self, users: int, k: int) -> float:
        """Seconds for an answer of this size."""
        size = users.bit_length(), k.bit_length()
        if size not in self._seen:
            smaller = [one for one in self._seen if one[0] <= size[0] and one[1] <= size[1]]
            if not smaller:
                return _UNMEASURED
            size = max(smaller, key=sum)
        seconds, answers = self._seen[size]
        return seconds / answers

    def doubt(self, users: int, k: int) -> None:
        """Expect a little less of a size from now on."""
        size = users.bit_length(), k.bit_length()
        if size in self._seen:
            seconds, answers = self._seen[size]
            self._seen[size] = _DOUBT * seconds, answers


@dataclass(frozen=True, eq=False)
class Ticket:
    """A request that was taken.

    Attributes:
        users: of the request.
        k: items a user.
        large: whether small ones do not wait for it.
        seconds: that it is expected to take.
        began: when it came, of the clock.
        due: when it must be answered, of the clock.
        times: what its time teaches.
    """

    users: int
    k: int
    large: bool
    seconds: float
    began: float
    due: float
    times: ServiceTimes

    @property
    def places(self) -> int:
        """Recommendations in the answer."""
        return self.users * self.k


class Load:
    """What the service has taken and not yet answered.

    Args:
        limits: see `Limits`.
        clock: seconds.
        told: the metric of what waits; None for work that it does not count.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float] = time.perf_counter,
        told: Gauge | None = _EXPECTED,
    ) -> None:
        self.limits, self.clock, self._told = limits, clock, told
        self.times = ServiceTimes()
        self.unread = 0  # requests that have arrived whole, and that no one has looked at
        self._small = self._large = 0.0  # seconds of work that wait
        self._waiting = {False: 0, True: 0}  # requests, by `Ticket.large`
        self._places = 0  # of answers that are not sent yet
        self._answered = -math.inf  # when the last answer was finished

    @property
    def full(self) -> bool:
        """Whether a request that is not read yet would be refused, whatever it asks for."""
        if not self.unread and not self._waiting[False]:
            return False
        unread = self.unread * self.times.expected(*TYPICAL)
        return self._small + unread > self.limits.wait_seconds

    @property
    def wait(self) -> float:
        """Seconds of work before the next small request."""
        return self._small + self.unread * self.times.expected(*TYPICAL)

    def due(self, began: float, seconds: float | None) -> float:
        """When a request must be answered that came at `began`.

        Args:
            began: of the clock.
            seconds: that its client allows; None, or more than `Limits.deadline_seconds`: these.
        """
        most = self.limits.deadline_seconds
        return began + (most if seconds is None else min(seconds, most))

    def admit(
        self,
        users: int,
        k: int,
        large: bool,
        began: float,
        due: float,
        times: ServiceTimes | None = None,
    ) -> Ticket:
        """Take a request that can be answered in time.

        Args:
            users: of the request.
            k: items a user.
            large: whether small ones do not wait for it.
            began: when it came.
            due: when it must be answered.
            times: of questions like it; None: `Load.times`.

        Raises:
            Busy: too much waits.
            TooLate: the answer would come after `due`.
        """
        times = times or self.times
        seconds = times.expected(users, k)
        ahead = self._small + self._large if large else self._small
        if ahead and ahead > max(self.limits.wait_seconds, seconds if large else 0.0):
            raise Busy("too many requests wait; ask again later.", ahead)
        if self._places and self._places + users * k > 4 * self.limits.places:
            raise Busy("too many large answers are under way; ask again later.", self._large)
        if self.clock() + ahead + seconds > due:
            if not ahead:  # nothing but a measurement speaks against it
                times.doubt(users, k)
            raise TooLate(
                f"the answer would take {ahead + seconds:.2g} seconds, longer than the deadline; "
                "allow more, or ask again later.",
                ahead,
            )
        ticket = Ticket(users, k, large, seconds, began, due, times)
        self._add(ticket, 1)
        return ticket

    def computed(self, ticket: Ticket, own: float = 0.0) -> None:
        """The work for an answer is done.

        Args:
            ticket: of the request; no more work waits for it.
            own: seconds that were spent on nothing else.
        """
        now = self.clock()
        waited = now - max(self._answered, ticket.began)
        ticket.times.add(ticket.users, ticket.k, max(own, 0.0 if ticket.large else waited))
        self._answered = now
        self._add(ticket, -1)

    def dropped(self, ticket: Ticket) -> None:
        """The work for an answer is not done, and will not be."""
        self._add(ticket, -1)

    def sent(self, ticket: Ticket) -> None:
        """The answer is no longer in memory, or never was."""
        self._places -= ticket.places

    def _add(self, ticket: Ticket, sign: int) -> None:
        self._waiting[ticket.large] += sign
        seconds = sign * ticket.seconds if self._waiting[ticket.large] else None
        if ticket.large:
            self._large = 0.0 if seconds is None else self._large + seconds
        else:
            self._small = 0.0 if seconds is None else self._small + seconds
        if sign > 0:
            self._places += ticket.places
        if self._told is not None:
            self._told.set(self._small + self._large)
