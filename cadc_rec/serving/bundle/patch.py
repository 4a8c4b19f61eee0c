"""The difference of two versions of a file, by Zstandard with the old file as its prefix.

In: old and new bytes. Out: a patch, from which and the old bytes the new ones come back exactly.

It is what `zstd --patch-from` does: the window is as long as both files, and matches are searched
over all of it, so rows that stay cost nothing wherever they stand now.
"""

from __future__ import annotations

from backports import zstd
from backports.zstd import CompressionParameter, DecompressionParameter

_LEVEL = 3  # higher ones took longer, and what is new of vectors cannot be compressed anyway
_SHORTEST, _LONGEST = CompressionParameter.window_log.bounds()  # of windows, as powers of two
_MATCH = 32  # bytes of a match that is searched over the whole window: of 64, short rows are missed


class BadPatchError(ValueError):
    """Bytes that are no patch of this old file."""


def make_patch(old: bytes, new: bytes) -> bytes:
    """The patch that makes `new` of `old`.

    Args:
        old: the file that the reader has.
        new: the file it is to have.
    """
    settings: dict[int, int] = {
        CompressionParameter.compression_level: _LEVEL,
        CompressionParameter.window_log: max(
            _SHORTEST, min(_LONGEST, (len(old) + len(new)).bit_length())
        ),
        CompressionParameter.enable_long_distance_matching: True,
        CompressionParameter.ldm_min_match: _MATCH,
        CompressionParameter.checksum_flag: True,
    }
    return zstd.compress(new, options=settings, zstd_dict=_prefix(old))


def apply_patch(old: bytes, patch: bytes, size: int) -> bytes:
    """The new file.

    Args:
        old: the file that the patch was made from.
        patch: from `make_patch`.
        size: bytes of the new file.

    Raises:
        BadPatchError: the patch is not whole, or not of this old file.
    """
    settings: dict[int, int] = {DecompressionParameter.window_log_max: _LONGEST}
    try:
        reader = zstd.ZstdDecompressor(zstd_dict=_prefix(old), options=settings)
        new = reader.decompress(patch, max_length=size + 1)  # a forged patch fills no memory
    except zstd.ZstdError as error:
        raise BadPatchError(str(error)) from error
    if len(new) != size or not reader.eof or reader.unused_data:
        raise BadPatchError("size")
    return new


def _prefix(old: bytes) -> tuple[zstd.ZstdDict, int] | None:
    """The old file, as it is; nothing where it is too short for a dictionary."""
    return zstd.ZstdDict(old, is_raw=True).as_prefix if len(old) >= 8 else None
