"""A finished experiment, as the exported forms need it: its model, and what gives new vectors.

In: settings, artifacts, the dataset and pre-trained vectors. Out: towers, vectors and programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.context import request_codes, requests_of_test_items
from cadc_rec.data.counted_lists import Counting
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.prepare.new_rows import Columns
from cadc_rec.data.recent_popularity import LatestScores
from cadc_rec.data.request_codes import RequestCodes
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.data.user_items import UserItems
from cadc_rec.export.new_items import NewItemProgram, new_item_program
from cadc_rec.export.new_users import NewUsers, new_user_program
from cadc_rec.export.newcomers import newcomer_program, row_fold
from cadc_rec.export.programs import Program
from cadc_rec.export.state import (
    State,
    nothing_held_out,
    vectors_of_histories,
    vectors_of_towers,
)
from cadc_rec.export.trained import TrainedModel, trained_towers
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior, fitted_tables
from cadc_rec.pretrain.tables_alone import TablesAlone
from cadc_rec.serving.bundle.mapping import map_tensors
from cadc_rec.serving.predict.cold_items import NewItems
from cadc_rec.store.artifact import Artifact


@dataclass(frozen=True)
class Finished:
    """A finished experiment.

    Attributes:
        experiment: its settings.
        artifacts: by stage.
        dataset: the prepared data.
        pretrained: pre-trained vectors where there are any.
        update: the update that the artifacts are of, for people: its ``day``, its ``number``, how
            many there are (``of``) and all that as ``text``; None for a run.
        state: what is known of users. In ``production`` that is all of the log; in ``evaluation``
            it is what was known when the test items were ranked.
        evaluated: the artifacts of the evaluated model, where this one was fitted again on all
            rows (`cadc_rec.pipeline.refit`): nothing of it was measured.
    """

    experiment: Experiment
    artifacts: Mapping[str, Artifact]
    dataset: Dataset
    pretrained: Pretrained
    update: Mapping[str, Any] | None = None
    state: State = "evaluation"
    evaluated: Mapping[str, Artifact] | None = None

    @property
    def name(self) -> str:
        """What its bundle is called."""
        e = self.experiment
        update = f"-update{self.update['number']}" if self.update else ""
        again = "-refit" if self.evaluated is not None else ""
        return f"{e.data.source}-{e.method}-seed{e.seed}{update}{again}"

    def trained(self) -> TrainedModel | None:
        """The towers; None if tables are scored without any."""
        return trained_towers(
            self.experiment, self.artifacts, self.dataset, self.pretrained, self.listed()
        )

    @cached_property
    def log(self) -> Dataset:
        """The dataset whose rows are known, as `state` says; of a test item's ranking, D_full."""
        return nothing_held_out(self.dataset) if self.state == "production" else self.dataset

    @cached_property
    def known(self) -> UserItems:
        """The items left out of what is recommended, for each user in order of time.

        In the state of the evaluation, these are left out of a test item's candidates.
        """
        log = self.log
        return UserItems(log.user_indptr, log.train_item).and_one_each(log.val_item)

    @cached_property
    def new_items(self) -> NewItems:
        """What gives vectors to items that no table has a row of."""
        learned = self.new_item_program
        widths = [] if learned is None else learned.widths
        data = self.dataset
        made = NewItems(
            data.item_attributes,
            self.vectors("item"),
            learned,
            widths,
            known_dense=data.item_dense,
        )
        return replace(made, gain=made.gain_for(self.vectors("user")))

    @cached_property
    def new_item_program(self) -> NewItemProgram | None:
        """What gives the learned part of their vectors, where anything reads attributes."""
        every = self.dataset.every_item_attributes()
        return None if self._towers is None else new_item_program(self._towers, every)

    @cached_property
    def _towers(self) -> TrainedModel | None:
        """`trained`, for all programs that make vectors of what is new."""
        return self.trained()

    @cached_property
    def newcomer_program(self) -> Program:
        """What gives vectors to users by their histories alone."""
        e = self.experiment
        return newcomer_program(
            e.prior,
            e.history,
            e.pretrain.model == "als",
            self.dataset,
            self._towers,
            self.pretrained,
            self.vectors("item"),
            self.fitted(),
            self.latest.scores is not None,
        )

    @cached_property
    def new_user_program(self) -> Program | None:
        """What gives vectors to users by their attributes, too; None where nothing reads them."""
        trained, e = self._towers, self.experiment
        fold = None
        if trained is not None:
            fold = row_fold(e.prior, e.pretrain.model == "als", trained, self.pretrained)
        latest = self.latest.scores is not None
        return new_user_program(trained, fold, self.dataset.user_attributes, latest)

    @property
    def new_users(self) -> NewUsers:
        """What gives vectors to users that no table has a row of."""
        return NewUsers.of_programs(self.new_user_program, self.newcomer_program)

    @property
    def columns(self) -> Columns:
        """How the tables' columns are read."""
        return Columns.of_dataset(self.experiment.data, self.artifacts["prepare"])

    def untaken(self) -> np.ndarray:
        """Vectors of the items that nobody took yet; zeros where a vector counts who took it."""
        count, known = self.dataset.n_untaken, self.vectors("item")
        if not count or self.experiment.pretrain.model == "popularity":
            return np.zeros((count, known.shape[1]), np.float32)
        data = self.dataset
        return self.new_items.vectors_of(data.untaken_attributes(), count, data.untaken_dense())

    def forgotten(self) -> dict[str, dict[str, list[int]]]:
        """What a bundle's model says of forgotten users and items: their rows, where any are."""
        rows = {f"{side}s": of.tolist() for side, of in self.dataset.forgotten.rows.items()}
        return {"forgotten": rows} if any(rows.values()) else {}

    def fitted(self) -> FittedPrior | None:
        """What was chosen of the prior; None where its settings stand."""
        made = self.artifacts.get("prior")
        return None if made is None else FittedPrior.open(made.path)

    def listed(self) -> ListedScores | None:
        """The scores that came on top of dot products when the test items were ranked."""
        stages = [stage for stage in ("evaluate", "transitions") if stage in self.artifacts]
        folders = [self.artifacts[stage].path for stage in stages]
        return ListedScores.of_evaluation(self.artifacts["evaluate"].info, folders)

    @property
    def counting(self) -> Counting | None:
        """How `listed`'s lists were counted; None without lists."""
        if self.listed() is None:
            return None
        e, fitted = self.experiment, self.fitted()
        counted = e.transitions.window > 0 and e.transitions.form == "lists"
        factors: Mapping[str, float] = {}
        if fitted is not None:
            factors = (fitted if self._towers is None else fitted.for_towers).factors
        content = factors.get("content", 0.0)
        if counted and content:
            content /= factors["lists"]
        return Counting(e.transitions if counted else None, content)

    @cached_property
    def held_out(self) -> np.ndarray:
        """How many of a user's latest items in `known` are held out: uint8 ``[n_users]``."""
        held = (np.asarray(self.dataset.val_item) >= 0).astype(np.uint8)
        if self.state == "production":
            held += np.asarray(self.dataset.test_item) >= 0
        return held

    @cached_property
    def codes(self) -> RequestCodes | None:
        """What makes the codes of requests; None where no context had a part in the ranking."""
        features = self.artifacts["evaluate"].info.get("context")
        if not features:
            return None
        return request_codes(self.dataset, features, with_test=self.state == "production")

    @cached_property
    def latest(self) -> LatestScores:
        """What had been taken just before the log ended, where that has a part in the score."""
        info, log = self.artifacts["evaluate"].info, self.log
        if "recent" not in info:
            return LatestScores(None)
        return LatestScores.of_evaluation(info, log.train_timestamp, log.train_item, log.n_items)

    def recent_rows(self) -> tuple[dict[str, float], dict[str, np.ndarray]] | None:
        """What a service goes on counting from: window and factor, and the last window's rows.

        ``time`` float64 ascending, and ``item`` int32; None where nothing recent has a part.
        """
        info = self.artifacts["evaluate"].info
        if "recent" not in info:
            return None
        times, items = np.asarray(self.log.train_timestamp), np.asarray(self.log.train_item)
        start = np.nextafter(times.max(initial=0.0), np.inf) - info["recent"]["window"]
        kept = np.flatnonzero(times >= start)
        kept = kept[np.argsort(times[kept], kind="stable")]
        return dict(info["recent"]), {
            "time": times[kept].astype(np.float64),
            "item": items[kept].astype(np.int32),
        }

    @property
    def log_ends(self) -> float | None:
        """When the last interaction was that is known, seconds since 1970; None without a clock."""
        data = self.log
        if data.timestamp_kind != "clock" or not data.time_unit or not len(data.train_item):
            return None
        return float(np.max(data.train_timestamp))

    def moments(self) -> tuple[np.ndarray | None, Mapping[str, Sequence[Any]]] | None:
        """What requests of all users say whose vectors are `vectors`; None of a model without.

        Their times ``[n_users]``, NaN where none is told, and values of columns. In the state of
        the evaluation these are the test items' requests, in production they say nothing.
        """
        if self.codes is None:
            return None
        if self.state == "evaluation":
            return requests_of_test_items(self.dataset, self.codes)
        n = self.dataset.n_users
        times = np.full(n, np.nan) if self.codes.reads_time else None
        return times, {name: [None] * n for name in self.codes.values}

    def vectors(self, side: str) -> np.ndarray:
        """The vectors of ``user`` or ``item`` in this state, and what is `latest`."""
        if side == "item":
            return self.latest.of_items(self._evaluated(side))
        return self.latest.of_users(self._of_users)

    @property
    def sessions(self) -> str | None:
        """Which program forms a known user's vector by a history; None if no history changes it.

        The towers' reads users' rows, too. Tables alone know users by what they took.
        """
        if self._towers is not None:
            return "query" if self._towers.history_length else None
        return None if self._tables is None else "newcomer"

    @cached_property
    def _tables(self) -> TablesAlone | None:
        """What tables alone say of histories; None without a prior."""
        e = self.experiment
        return fitted_tables(e.prior, e.history, self.dataset, self.pretrained, self.fitted())

    @cached_property
    def _of_users(self) -> np.ndarray:
        """Users' vectors: those that ranked the test items, or by histories to the log's end."""
        if self.state == "evaluation":
            return self._evaluated("user")
        vectors = self._at_the_end()
        if vectors is None:
            return self._evaluated("user")
        vectors[self.dataset.forgotten.rows["user"]] = 0
        return vectors

    def _at_the_end(self) -> np.ndarray | None:
        """Users' vectors when the log has ended; None of a model to which nothing happens then."""
        trained, folder = self._towers, self.artifacts["evaluate"].path.parent
        if trained is not None:
            if not trained.history_length and not trained.request:
                return None
            codes = self.codes
            now = None if codes is None else codes.of_nothing(self.dataset.n_users)
            return vectors_of_towers(trained, self.log, now, folder)
        if self._tables is None:
            return None
        length = self.experiment.history.length
        return vectors_of_histories(self._tables.program(), self.log, length, folder)

    def _evaluated(self, side: str) -> np.ndarray:
        file = self.artifacts["evaluate"].path / f"{side}_vectors.safetensors"
        return map_tensors(file)["vectors"]
