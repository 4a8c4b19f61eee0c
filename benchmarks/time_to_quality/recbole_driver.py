"""RecBole's side of `recbole.py`: run by the Python of RecBole's own environment.

    PYTHON recbole_driver.py JOB

In: ``JOB``, a JSON file, and beside it ``known.npz`` with the training and validation items. Out:
RecBole's own files beside these, and for each checkpoint an ``N.npz`` with each user's best
candidates, announced on standard output. No test item is here: what is known of one cannot leak.

It imports nothing of this project, whose libraries RecBole cannot live with.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.data.utils import create_samplers, get_dataloader
from recbole.utils import ModelType, get_model, get_trainer, init_seed

ANNOUNCED = "reached "
_NAME = "log"
_AT_ONCE = 2**24  # scores


class Until:
    """A train loader's batches until so many CPU seconds have passed; at least one.

    Args:
        loader: RecBole's, for what else its trainer asks of it.
        batches: of it, without end.
        seconds: of the process, from the first batch on.
    """

    def __init__(self, loader: Any, batches: Iterator[Any], seconds: float) -> None:
        self.loader, self.batches, self.seconds = loader, batches, seconds
        self.drawn = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        started = time.process_time()
        while not self.drawn or time.process_time() - started < self.seconds:
            self.drawn += 1
            yield next(self.batches)


class Known:
    """What is known of users: their items in order, in this project's numbers.

    Args:
        file: ``known.npz``.
        length: of a history.
    """

    def __init__(self, file: Path, length: int) -> None:
        with np.load(file, allow_pickle=False) as arrays:
            self.indptr, self.items = arrays["indptr"], arrays["items"]
            self.val_item, self.sample = arrays["val_item"], arrays["sample"]
        self.length, self.n_users = length, len(self.val_item)

    def of(self, user: int, with_validation: bool) -> np.ndarray:
        """All known items of a user, the earliest first."""
        mine = self.items[self.indptr[user] : self.indptr[user + 1]]
        if with_validation and self.val_item[user] >= 0:
            return np.append(mine, self.val_item[user])
        return mine

    def write(self, folder: Path, n_items: int) -> None:
        """RecBole's atomic files: training interactions, all users, all items."""
        count = np.diff(self.indptr)
        place = np.arange(len(self.items)) - np.repeat(self.indptr[:-1], count)
        interactions = {
            "user_id:token": np.repeat(np.arange(self.n_users), count),
            "item_id:token": self.items,
            "timestamp:float": place,
        }
        tables = {
            "inter": interactions,
            "user": {"user_id:token": np.arange(self.n_users)},
            "item": {"item_id:token": np.arange(n_items)},
        }
        folder.mkdir()
        for kind, columns in tables.items():
            file = folder / f"{folder.name}.{kind}"
            rows, head = np.column_stack(list(columns.values())), "\t".join(columns)
            np.savetxt(file, rows, "%d", delimiter="\t", header=head, comments="")


class Ranking:
    """The best candidates of users by a model's scores.

    Args:
        model: RecBole's.
        dataset: RecBole's, which numbers users and items anew.
        config: RecBole's.
        known: by users.
        n_items: of this project's numbers.
        listed: candidates of a list.
    """

    def __init__(
        self, model: Any, dataset: Any, config: Any, known: Known, n_items: int, listed: int
    ) -> None:
        self.model, self.known, self.listed = model, known, min(listed, n_items)
        self.sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self.users = _numbers(dataset, "user_id", known.n_users)
        self.items = _numbers(dataset, "item_id", n_items)

    def best(self, users: np.ndarray, with_validation: bool) -> tuple[np.ndarray, np.ndarray]:
        """Items ``[users, listed]`` and their scores, the best first; known items score -inf."""
        self.model.eval()
        items, scores = [], []
        step = max(1, _AT_ONCE // len(self.items))
        for first in range(0, len(users), step):
            some = users[first : first + step]
            taken = [self.known.of(user, with_validation) for user in some]
            with torch.no_grad():
                found = self.model.full_sort_predict(self._asked(some, taken))
            # The model has columns for its padding, too, and they stand in its own order.
            found = found.view(len(some), -1)[:, torch.from_numpy(self.items)].clone()
            for row, mine in zip(found, taken, strict=True):
                row[torch.from_numpy(mine).long()] = -torch.inf
            best = found.topk(self.listed)
            items.append(best.indices.numpy().astype(np.int32))
            scores.append(best.values.numpy())
        return np.concatenate(items), np.concatenate(scores)

    def _asked(self, users: np.ndarray, taken: list[np.ndarray]) -> Any:
        asked = {"user_id": torch.from_numpy(self.users[users])}
        if self.sequential:
            histories = np.zeros((len(users), self.known.length), np.int64)
            lengths = np.ones(len(users), np.int64)
            for row, mine in enumerate(taken):
                last = mine[-self.known.length :]
                histories[row, : len(last)] = self.items[last]
                lengths[row] = max(1, len(last))
            asked["item_id_list"] = torch.from_numpy(histories)
            asked["item_length"] = torch.from_numpy(lengths)
        return Interaction(asked)


def _numbers(dataset: Any, field: str, n: int) -> np.ndarray:
    """RecBole's number of each of ours."""
    return np.asarray(dataset.token2id(field, np.arange(n).astype(str)), np.int64)


def main(job_file: Path) -> None:
    job = json.loads(job_file.read_text("utf-8"))
    folder = job_file.parent
    os.chdir(folder)  # RecBole leaves its logs where it stands
    torch.set_num_threads(1)
    known = Known(folder / "known.npz", job["length"])
    known.write(folder / _NAME, job["n_items"])
    sequential = get_model(job["model"]).type == ModelType.SEQUENTIAL
    config = Config(
        model=job["model"],
        dataset=_NAME,
        config_dict={
            # Sequential models take a softmax over all items, beside which negatives are refused.
            **({"train_neg_sample_args": None} if sequential else {}),
            **job["given"],
            "data_path": str(folder),
            "checkpoint_dir": str(folder),
            "load_col": {
                "inter": ["user_id", "item_id", "timestamp"],
                "user": ["user_id"],
                "item": ["item_id"],
            },
            "MAX_ITEM_LIST_LENGTH": job["length"],
            # All of the file is for training: what is held out is not in it.
            "eval_args": {
                "split": {"RS": [1.0, 0.0, 0.0]},
                "group_by": "user",
                "order": "TO",
                "mode": "full",
            },
            "use_gpu": False,
            "show_progress": False,
            "epochs": 1,
            "seed": job["seed"],
        },
    )
    init_seed(job["seed"], reproducibility=True)
    dataset = create_dataset(config)
    parts = dataset.build()
    sampler = create_samplers(config, dataset, parts)[0]
    loader = get_dataloader(config, "train")(config, parts[0], sampler, shuffle=True)
    model = get_model(config["model"])(config, parts[0])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    torch.set_num_threads(1)  # in case RecBole sets its own
    ranking = Ranking(model, dataset, config, known, job["n_items"], job["listed"])

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    batches, spent, drawn = endless(), 0.0, 0
    for number, checkpoint in enumerate(job["checkpoints"]):
        if spent >= checkpoint:
            continue
        until = Until(loader, batches, checkpoint - spent)
        started = time.process_time()
        trainer.fit(until, saved=False, verbose=False, show_progress=False)
        spent += time.process_time() - started
        drawn += until.drawn
        found: dict[str, Any] = {}
        everybody = np.arange(known.n_users)
        for name, users, late in (("val", known.sample, False), ("test", everybody, True)):
            found[f"{name}_items"], found[f"{name}_scores"] = ranking.best(users, late)
        np.savez(folder / f"{number}.npz", **found)
        said = {"file": f"{number}.npz", "cpu_seconds": spent, "epochs": drawn / len(loader)}
        print(ANNOUNCED + json.dumps(said), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
