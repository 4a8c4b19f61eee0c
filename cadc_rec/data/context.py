"""What is known when a request is made, as codes: of training rows and of held-out interactions.

In: a prepared dataset and the features that are wanted. Out: for each interaction one code a
feature, 0 where it is not known. A training row's own request is the moment before it: no feature
reads its item, or anything after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.config.context import TIME_FEATURES
from cadc_rec.data.columns import train_files
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.request_codes import (
    SIZES,
    UNKNOWN,
    Codes,
    RequestCodes,
    gap_codes,
    hour_codes,
    weekday_codes,
)
from cadc_rec.data.sources.raw_tables import CONTEXT_FILE, context_column
from cadc_rec.data.streams import read_groups
from cadc_rec.errors import CadcError


def context_sizes(dataset: Dataset, features: Sequence[str]) -> dict[str, int]:
    """How many codes each feature has, code 0 ("not known") included.

    Raises:
        CadcError: times are no clock, or the dataset has no such column.
    """
    described = _described(dataset) if set(features) - set(TIME_FEATURES) else {}
    sizes = {}
    for name in features:
        if name in TIME_FEATURES:
            dataset.require_clock(f"context.features = [{name!r}]")
            sizes[name] = SIZES[name]
        elif name in described:
            sizes[name] = int(described[name]["size"])
        else:
            raise CadcError(
                f"context.features names {name!r}, which this dataset has no column of; name it in "
                "data.tables.interactions.context, or leave it out."
            )
    return sizes


@dataclass(frozen=True)
class RequestContext:
    """The codes of a dataset's interactions; F is the number of features."""

    train: Codes
    """``[rows, F]``, by position in D_full."""
    validation: Codes
    """``[n_users, F]``; of a user without a validation item, as far as anything is known."""
    test: Codes
    """Likewise."""

    @staticmethod
    def of(dataset: Dataset, features: Sequence[str]) -> RequestContext:
        """The codes of these features.

        Raises:
            CadcError: as `context_sizes`.
        """
        sizes = context_sizes(dataset, features)
        parts = [_feature(dataset, name, size) for name, size in sizes.items()]
        return RequestContext(*(np.stack(each, 1) for each in zip(*parts, strict=True)))


def _feature(dataset: Dataset, name: str, size: int) -> tuple[Codes, Codes, Codes]:
    """Codes of training rows, validation and test."""
    if name == "gap":
        times = dataset.train_timestamp, dataset.val_timestamp, dataset.test_timestamp
        before = lagged(dataset, times[0], times[1], np.nan)
        train, val, test = (gap_codes(now - then) for now, then in zip(times, before, strict=True))
        return train, val, test
    if name in TIME_FEATURES:
        of = hour_codes if name == "hour" else weekday_codes
        return (
            of(dataset.train_timestamp),
            of(dataset.val_timestamp),
            of(dataset.test_timestamp),
        )
    column = context_column(name)
    train = np.concatenate(
        [group[column].to_numpy() for group in read_groups(train_files(dataset.path), [column])]
    )
    val, test = (_held_out_codes(dataset, part, name, size) for part in ("val", "test"))
    if _described(dataset)[name]["lagged"]:
        return lagged(dataset, train, val, UNKNOWN)
    return train, val, test


def _held_out_codes(dataset: Dataset, part: str, name: str, size: int) -> Codes:
    """A column's codes of the ``val`` or ``test`` items ``[n_users]``, 0 where there is none."""
    column = context_column(name)
    table = pq.read_table(dataset.path / f"{part}.parquet", columns=["user", column])
    codes = np.zeros(dataset.n_users, np.int32)
    codes[table["user"].to_numpy()] = table[column].to_numpy()
    return np.where(codes < size, codes, UNKNOWN).astype(np.int32)


def lagged(
    dataset: Dataset, train: NDArray[Any], val: NDArray[Any], missing: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The value of each user's interaction before: of training rows, validation and test.

    Args:
        dataset: whose rows they are.
        train: ``[rows]``.
        val: ``[n_users]``.
        missing: where there is none before.
    """
    before = np.full_like(train, missing)
    before[1:] = train[:-1]
    starts, ends = dataset.user_indptr[:-1], dataset.user_indptr[1:]
    there = ends > starts
    before[starts[there]] = missing
    last = np.full(dataset.n_users, missing, train.dtype)
    last[there] = train[ends[there] - 1]
    return before, last, np.where(np.asarray(dataset.val_item) >= 0, val, last)


def request_codes(
    dataset: Dataset, features: Sequence[str], with_test: bool = False
) -> RequestCodes:
    """What makes the codes of requests that come after all that is known.

    Args:
        dataset: whose users ask.
        features: in their order.
        with_test: whether the test items are known, or only what came before them.

    Raises:
        CadcError: as `context_sizes`.
    """
    sizes, described = context_sizes(dataset, features), _described(dataset)
    columns = [name for name in features if name not in TIME_FEATURES]
    have = np.asarray(dataset.test_item) >= 0 if with_test else np.zeros(dataset.n_users, bool)
    last = None
    if "gap" in features:
        _, _, last = lagged(dataset, dataset.train_timestamp, dataset.val_timestamp, np.nan)
        last = np.where(have, dataset.test_timestamp, last)
    values, before = {}, {}
    for name in columns:
        if described[name]["lagged"]:
            known = _feature(dataset, name, sizes[name])[2]
            own = _held_out_codes(dataset, "test", name, sizes[name])
            before[name] = np.where(have, own, known)
        else:
            values[name] = described[name]["vocabulary"][: sizes[name] - 1]
    return RequestCodes(tuple(features), values, before, last)


def requests_of_test_items(
    dataset: Dataset, codes: RequestCodes
) -> tuple[NDArray[np.float64] | None, dict[str, list[Any]]]:
    """What the requests of all users' test items say: their times, and the values of columns.

    Args:
        dataset: whose test items they are; None (NaN) stands where a user has none.
        codes: the times are None where it reads none.
    """
    columns, described = {}, _described(dataset)
    for name in codes.values:
        table = pq.read_table(dataset.path / "test.parquet", columns=["user", context_column(name)])
        values = [None, *described[name]["vocabulary"]]
        asked: list[Any] = [None] * dataset.n_users
        for user, code in zip(*(column.to_pylist() for column in table.columns), strict=True):
            asked[user] = values[code]
        columns[name] = asked
    return (dataset.test_timestamp if codes.reads_time else None), columns


def _described(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The context columns of a dataset, by name."""
    file = dataset.path / CONTEXT_FILE
    entries = json.loads(file.read_text("utf-8")) if file.is_file() else []
    return {entry["name"]: entry for entry in entries}
