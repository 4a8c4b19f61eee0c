"""What a store's error means, as one sentence: the address, what it said, and the remedy.

In: an error of the library for stores. Out: the sentence. Stores answer with XML, whose code says
more than the status: a clock that is off and a missing right are both 403. Nothing else of an
answer is repeated, since it may hold what was signed.
"""

from __future__ import annotations

import re

_CODE = re.compile(r"<Code>\s*(\w{1,80})\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<\n]{1,200})")
_AGAIN = "then give the same command again"
_NO_BUCKET = "there is no such bucket; correct the address, or make the bucket."
# What is in the text of an error: what it means, and what to do.
_MEANINGS = {
    ("RequestTimeTooSkewed", "date header"): "this machine's clock is off; set it (NTP), " + _AGAIN,
    ("ExpiredToken", "TokenRefreshRequired", "RequestExpired"): (
        "the credentials have expired; renew them, " + _AGAIN
    ),
    (
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "redirect without LOCATION",
    ): "the bucket is in another region; name it with $AWS_REGION, " + _AGAIN,
    ("XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507 Insufficient"): (
        "the store is full; free some space there, or raise its quota, " + _AGAIN
    ),
    ("SlowDown", "ServerBusy", "429 Too Many"): (
        "the store has too many requests; wait a while, " + _AGAIN
    ),
    ("501 Not Implemented",): (
        "this store has no conditional writes; use one that has, such as S3 since 2024"
    ),
}


def sentence(address: str, what: str, error: Exception, denied: bool) -> str:
    """The sentence for an error.

    Args:
        address: that could not be used.
        what: could not be done with it, such as ``be read``.
        error: of the library for stores.
        denied: whether the library takes it for a missing right.
    """
    text = str(error)
    if "<Code>NoSuchBucket<" in text or "<Code>ContainerNotFound<" in text:
        return f"{address}: {_NO_BUCKET}"
    said = _said(text) or type(error).__name__
    for marks, meaning in _MEANINGS.items():
        if any(mark in text for mark in marks):
            return f"{address}: cannot {what} ({said}): {meaning}."
    if denied or "<Code>AccessDenied<" in text or "403 Forbidden" in text:
        return (
            f"{address}: may not {what} with the credentials that were found ({said}); renew them, "
            "or get the right to read, write, list and delete there."
        )
    return (
        f"{address}: cannot {what} ({said}); see that the store answers, and that the bucket, its "
        f"region and the credentials are right, {_AGAIN}."
    )


def broke_off(error: BaseException | None) -> bool:
    """Whether an error is no answer of a store: a connection that broke, or what lies before it."""
    return type(error).__name__ == "GenericError" and _CODE.search(str(error)) is None


def no_bucket(address: str) -> str:
    """The sentence for an address whose bucket is not there."""
    return f"{address}: {_NO_BUCKET}"


def _said(text: str) -> str:
    """What the store or the library said, on one line and without anything that may be signed."""
    code, message = _CODE.search(text), _MESSAGE.search(text)
    if code is not None:
        return code[1] if message is None else f"{code[1]}: {message[1].rstrip(' .')}"
    line = next(iter(text.splitlines()), "")
    return re.sub(r"\?\S+", "?...", line)[:300].rstrip(" .:")
