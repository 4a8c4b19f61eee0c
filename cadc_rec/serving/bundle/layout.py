"""What a bundle holds, and what each file is called.

A bundle is one folder. ``manifest.json`` names every other file with its size and SHA-256;
``manifest.sig``, where the bundle was signed, is the signature of the manifest's bytes. Rows of
vectors, ids and lists are in *dense-id order* throughout: row n is the user (item) number n. Items
that nobody took yet come last; `MODEL` says how many they are, and programs and index lack them.
"""

from __future__ import annotations

FORMAT = "cadc-rec bundle"
FORMAT_VERSION = 6
"""Raised when a reader of the version before could not make sense of what is there. Version 2 is
written where a bundle has `LISTS`, 3 where it has `CONTEXT`, 4 where it has `item_content`, 5 where
it has `WITHHELD` and 6 where ``sold_out`` is in that, for answers would be others without them;
else version 1."""

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"

MODEL = "model.json"
"""What the model is: sizes, programs with the names, types and shapes of what goes in and out."""
CARD = "model_card.md"
CARD_DATA = "model_card.json"
"""Metrics, the share of the data, versions, limits: what `CARD` says, for a program."""

ITEM_VECTORS = "vectors/items.safetensors"
"""``vectors``, float32 ``[items, d]``: a pair's score is the dot product of the two vectors."""
USER_VECTORS = "vectors/users.safetensors"
"""``vectors``, float32 ``[users, d]``; of a model with a history, at the state of `KNOWN`, and of
one with a `CONTEXT`, at the moment of each user's test item: such vectors are formed by `QUERY`."""
LISTS = "vectors/lists.safetensors"
"""Every item's targets (`cadc_rec.data.transition_lists`), where scores of lists come on top of the
dot products; `MODEL` says by which factor, and how a history's places count. ``counted`` in it says
how they were made of `KNOWN` and attributes (`cadc_rec.data.counted_lists`), so that a delta need
not bring them."""
INDEX = "index/items.faiss"
"""FAISS, inner product, over `ITEM_VECTORS` of the items that were taken; labels are rows."""

USERS = "users.parquet"
"""``user_id`` (as in the raw data) and a column of codes for each attribute."""
ITEMS = "items.parquet"
"""``item_id``, ``title`` where the source has one, a column of codes for each attribute, and
``NAME:value`` with the values of each numeric one, for filters."""
USER_IDS = "ids/users.safetensors"
"""The column ``user_id`` so that it can be searched where it lies, which processes share
(`cadc_rec.serving.predict.ids`). Older bundles have none: it is made when they are loaded."""
ITEM_IDS = "ids/items.safetensors"
"""Likewise ``item_id``, and of ``title`` ``title_offsets`` and ``title_bytes``, UTF-8."""
ATTRIBUTES = "attributes.json"
"""Encoders: by side, each attribute's name, kind, size and vocabulary (value of codes 1, 2, ...;
code 0 is unknown). Codes from `size` on are of items that nobody took yet; programs lack them."""
DENSE = "dense.json"
"""By side, the vectors and numbers that towers read: widths, and how numbers are scaled; where
there are any."""
COLUMNS = "columns.json"
"""How the columns of users, items and interactions are read, so that new rows become codes."""
KNOWN = "known.safetensors"
"""What users took, training and validation items, as CSR: ``indptr`` int64 ``[users + 1]``,
``items`` int32 ``[n]``, each user's in the order of time, the latest last; and ``popularity``
int64 ``[items]``, how often each item is in it. Where there are `LISTS`, ``held_out``, uint8
``[users]``, says how many of a user's latest items these have not counted."""

RECENT = "recent.safetensors"
"""The log's interactions in its last window, where recent popularity has a part in the score:
``time``, float64 ``[n]``, seconds since 1970, ascending, and ``item``, int32. `MODEL` has under
``recent`` the window and the factor. The last element of the items' vectors is their score."""

WITHHELD = "withheld.safetensors"
"""``rows``, int64, ascending: items that are left out of all answers, where the exporter named
any; and perhaps ``sold_out``, likewise: items that are left out until they are released."""

CONTEXT = "context.json"
"""What the user tower reads of a request, where it reads anything: ``features`` in the order of the
programs' codes, ``values`` (by column, those of codes 1, 2, ...; code 0 is missing) and ``lagged``,
columns of the user's last interaction."""
LAST = "last_interactions.safetensors"
"""Of each user's last interaction in `KNOWN`, as far as the features need it: ``time``, float64
``[users]``, seconds since 1970, and ``last_NAME``, int32, the code of a lagged column."""

QUERY = "programs/query.pt2"
"""`torch.export`: users (and their histories, and codes of requests) to vectors."""
ITEM = "programs/item.pt2"
"""`torch.export`: items to vectors."""
NEWCOMER = "programs/newcomer.pt2"
"""`torch.export`: histories of users the model has never seen to vectors."""
NEW_ITEM = "programs/new_item.pt2"
"""`torch.export`: codes of attributes to the learned part of the vectors of items that came after
training; `MODEL` says under ``new_items`` how many codes of each attribute there may be."""
NEW_USER = "programs/new_user.pt2"
"""`torch.export`: histories and codes of attributes to vectors of users that came after training,
where a tower reads attributes of users; ``new_users`` in `MODEL` is likewise."""
PROGRAMS = {
    "query": QUERY,
    "item": ITEM,
    "newcomer": NEWCOMER,
    "new_item": NEW_ITEM,
    "new_user": NEW_USER,
}

SELF_TEST = "self_test.json"
"""Recorded requests with their answers; see `cadc_rec.serving.bundle.self_test`."""


def item_content(place: int) -> str:
    """Where the vectors of items lie, which tell what known items a new one is like.

    A ``.npy`` table with a row an item, of the so many-th entry of items in `DENSE` with vectors.
    """
    return f"content/item_{place}.npy"


def compiled(program: str) -> str:
    """The AOTInductor package of a program in `PROGRAMS`, an option of the export."""
    return f"aoti/{program}.pt2"


def torchrec_module(precision: str) -> str:
    """The scripted TorchRec predict module with tables of this precision: int8, int4 or fp16."""
    return f"torchrec/{precision}.pt"
