"""The Python face: what ``import cadc_rec`` offers, and what the commands themselves call.

In: a configuration file, or an `Experiment` made in Python. Out: a `Run`, which has metrics, times,
artifacts and recommendations. Finished work is found again, as with the commands: both keep their
artifacts in the same work folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.log import log, quiet_libraries
from cadc_rec.pipeline.job import opened
from cadc_rec.pipeline.pipeline import STAGES
from cadc_rec.pipeline.summary import run_result
from cadc_rec.store.artifact import Artifact
from cadc_rec.updates.chain import Taken, Update, newest_update, take_update

if TYPE_CHECKING:
    from cadc_rec.data.dataset import Dataset
    from cadc_rec.data.inspect.inspect import Inspection
    from cadc_rec.data.recent_popularity import LatestScores
    from cadc_rec.data.transition_lists import ListedScores
    from cadc_rec.serving.predict.answers import Recommendations
    from cadc_rec.serving.predict.predictor import Predictor
    from cadc_rec.serving.predict.requests import Requests


def load(
    path: Path | str,
    *,
    method: str | None = None,
    set: Mapping[str, Any] | None = None,
) -> Experiment:
    """Read an experiment from its TOML file.

    Args:
        path: the file.
        method: the row of settings to lay over it, such as ``"gold"``; default: the file's.
        set: settings that override those of the file and the method, by dotted name, such as
            ``{"train.epochs": 5, "seed": 1}``.

    Returns:
        The experiment, checked and frozen.

    Raises:
        CadcError: the file cannot be read, or a setting is unknown or not allowed; the message
            names the file, the key, the value and what is allowed.

    Example:
        >>> load("tiny.toml", method="gold", set={"seed": 1}).seed
        1
    """
    return load_experiment(Path(path), method=method, overrides=set or {})


def run(
    experiment: Experiment,
    *,
    workdir: Path | str = "work",
    data_dir: Path | str | None = None,
    force: bool = False,
    profile: bool = False,
    resume: Path | str | None = None,
    wait: bool = True,
) -> Run:
    """Run every stage of an experiment that is not finished yet, from raw data to metrics.

    It is the run itself, whatever updates came on top of it (a warning names the newest); see
    `finished` for those.

    Args:
        experiment: the experiment to run; see `load`. With ``compute.processes`` above 1, the train
            stage starts that many processes.
        workdir: the folder that keeps the artifacts; made if need be.
        data_dir: the folder with the raw data; default: ``$CADC_REC_DATA``, else a download if the
            data are public.
        force: run every stage again; an old artifact stays until the new one is complete.
        profile: train again under torch's profiler, which writes a trace to the work folder.
        resume: the folder of a checkpoint to resume from; default: the newest of this training.
        wait: where another process makes the same artifact, wait for it; False is an error then.

    Returns:
        The finished experiment.

    Raises:
        CadcError: something that the caller can mend, such as missing data, a full disk, or another
            process that makes the same artifact; the message says what to do.

    Example:
        >>> done = run(load("tiny.toml"), workdir="work")
        >>> list(done.artifacts)
        ['prepare', 'pretrain', 'select', 'train', 'evaluate']
        >>> round(done.seconds["transitions"], 1)  # the method has no such stage
        0.0
    """
    with (
        quiet_libraries(),
        opened(
            experiment,
            Path(workdir),
            None if data_dir is None else Path(data_dir),
            force=STAGES if force else (),
            profile=profile,
            resume=None if resume is None else Path(resume),
            wait=wait,
        ) as pipeline,
    ):
        artifacts = pipeline.run()
        newest = None
        with contextlib.suppress(CadcError):  # a damaged record is the updates' own matter
            newest = newest_update(pipeline, artifacts)
        if newest is not None:
            log.warning("this is the run itself, before %s, which later commands take", newest)
        return Run(experiment, artifacts, newest=newest)


def finished(
    experiment: Experiment,
    *,
    workdir: Path | str = "work",
    data_dir: Path | str | None = None,
    update: int | Literal["newest"] = "newest",
) -> Run:
    """The newest state of an experiment that was run before; nothing is trained.

    Args:
        experiment: what was run; see `load`.
        workdir: the folder that keeps the artifacts.
        data_dir: as for `run`.
        update: which of the run's updates (``cadc-rec update``) is meant: ``"newest"``, or its
            number from 1 on; 0 is the run itself. A run without updates is its own newest state.

    Returns:
        The run, with the artifacts of that update.

    Raises:
        CadcError: there is no such run (the message says which there are, and what differs), or no
            such update.

    Example:
        >>> finished(load("tiny.toml"), workdir="work").update is None  # no day was taken in
        True
    """
    folder = None if data_dir is None else Path(data_dir)
    with quiet_libraries(), opened(experiment, Path(workdir), folder) as base:
        taken = take_update(base, update)
        return Run(experiment, taken.pipeline.run(), update=taken.update)


def inspect(
    path: Path | str,
    *,
    delimiter: str = "",
    encoding: str = "utf-8",
    columns: Sequence[str] = (),
    data_dir: Path | str | None = None,
) -> Inspection:
    """Read every table below a path once; describe its columns and guess what they mean.

    Args:
        path: a file, a folder, a zip archive or a glob. It finds Parquet (``.parquet``, ``.pq``),
            Arrow (``.arrow``, ``.feather``, ``.ipc``), JSON Lines (``.jsonl``, ``.ndjson``) and
            text (``.csv``, ``.tsv``, ``.txt``, ``.dat``, also with ``.gz``, ``.bz2`` or ``.zst``).
            A relative path is looked for in the current folder, then in `data_dir`.
        delimiter: the text between the fields of text files; default: a tab in ``.tsv`` files, a
            comma in all others.
        encoding: encoding of text files, such as ``"utf-8"``, ``"windows-1252"`` or ``"utf-16"``.
        columns: the names of all columns of text files without a first line that names them.
        data_dir: the data folder; default: ``$CADC_REC_DATA``.

    Returns:
        The tables' columns (``.tables``), what they are taken for (``.roles``), what looks wrong in
        them (``.warnings``), and a first configuration for them (``.config()``, TOML text).

    Raises:
        CadcError: there is no table, a file cannot be read, or a setting is not allowed.
    """
    from pydantic import ValidationError

    from cadc_rec.config.errors import explain
    from cadc_rec.config.tables import TablesConfig
    from cadc_rec.data.formats.lines import TextFormat
    from cadc_rec.data.inspect.inspect import inspect_path

    named = {"columns": list(columns)}
    settings = {"delimiter": delimiter, "encoding": encoding, "interactions": named}
    try:
        layout = TablesConfig.model_validate(settings)
    except ValidationError as error:
        raise CadcError(explain(error, TablesConfig, "inspect")) from None
    folder = None if data_dir is None else Path(data_dir)
    found = TextFormat(layout.delimiter, layout.encoding, layout.interactions.columns)
    return inspect_path(str(path), found, folder)


@dataclass(frozen=True)
class Run:
    """A finished experiment.

    Attributes:
        experiment: its settings.
        artifacts: the artifact of each stage that its method has; ``.path`` is an artifact's
            folder, ``.info`` what its stage counted and measured.
        update: the update that the artifacts are of; None for the run itself.
        newest: the newest update on top of it, if it has any that it is not of.
    """

    experiment: Experiment
    artifacts: Mapping[str, Artifact]
    update: Update | None = None
    newest: Taken | None = None

    @cached_property
    def result(self) -> dict[str, Any]:
        """The whole result as plain data, as ``cadc-rec run --json`` prints it."""
        return run_result(self.experiment.method, self.experiment.seed, self.artifacts)

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracy on the test items as fractions, such as ``{"hr@10": 0.31, "ndcg@10": 0.17}``.

        The test item of each user is ranked among all items that the user has not taken.
        """
        return dict(self.result["metrics"])

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, in the run that made its artifact; 0 if it has no such stage."""
        return dict(self.result["seconds"])

    @property
    def costs(self) -> dict[str, dict[str, float]]:
        """Processor seconds, memory and bytes of each stage (`cadc_rec.store.costs`)."""
        return dict(self.result["costs"])

    def recommend(
        self,
        users: Sequence[Any],
        k: int = 10,
        time: float | Sequence[float | None] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Recommendations:
        """The k best items of each user, from the vectors that were evaluated.

        The order is exactly that of the evaluation: a user's training and validation items are
        left out, and scores are computed in float64. With ``[context]`` vectors are those of the
        moment that is asked for.

        Args:
            users: original user ids ``[n]``, as they stand in the data.
            k: from 1 to the number of items.
            time: for a model that reads it, when the recommendations are asked for: seconds since
                1970 (UTC), one number or one a user; default: now.
            context: values of the columns that the model reads of a request, by column, one value
                or one a user; default: missing.

        Returns:
            ``item_ids`` and ``scores``, both ``[n, k]``, the best item first, and ``lists()``.

        Raises:
            CadcError: a user is not in the data, an id has the wrong type, `k` is out of range, or
                the model reads no such thing of a request.
        """
        rows = self.predictor.users.rows(users)
        if (rows < 0).any():
            lost = users[int((rows < 0).argmax())]
            later = (
                f"This is the run before {self.newest}: cadc_rec.finished(experiment) knows the "
                "users of that, and a"
                if self.newest
                else "A"
            )
            raise CadcError(
                f"no user has the id {lost!r:.80}; a run answers for users of its own data only. "
                f"{later} bundle (cadc-rec export) also answers for others."
            )
        return self.predictor.recommend(users, k, time=time, context=context)

    @cached_property
    def predictor(self) -> Predictor:
        """Answers from the evaluated vectors, which are read into memory at the first use."""
        import numpy as np
        from safetensors.numpy import load_file

        from cadc_rec.data.dataset import Dataset
        from cadc_rec.data.recent_popularity import LatestScores
        from cadc_rec.data.user_items import UserItems
        from cadc_rec.serving.predict.ids import IdMap
        from cadc_rec.serving.predict.predictor import Predictor
        from cadc_rec.serving.predict.top_k import ItemVectors, load_ahead

        data, evaluated = Dataset.open(self.artifacts["prepare"]), self.artifacts["evaluate"].path
        users, items = (
            load_file(evaluated / f"{side}_vectors.safetensors")["vectors"]
            for side in ("user", "item")
        )
        info, log = self.artifacts["evaluate"].info, (data.train_timestamp, data.train_item)
        latest = LatestScores.of_evaluation(info, *log, data.n_items)
        users, items = latest.of_users(users), latest.of_items(items)
        # Evaluation leaves these items out when it ranks the test items.
        taken = UserItems(data.user_indptr, data.train_item).and_one_each(data.val_item)
        vectors, forms = ItemVectors(items), self.experiment.data.id_forms
        gone = data.forgotten.rows
        load_ahead()
        return Predictor(
            users=IdMap.of_column("user", data.user_ids(), forms, gone["user"]),
            items=IdMap.of_column("item", data.item_ids(), forms, gone["item"]),
            user_vectors=users,
            item_vectors=vectors,
            known=taken,
            popularity=np.bincount(taken.items, minlength=data.n_items),
            retrieval=vectors,
            listed=self._listed(),
            forgotten=gone["item"],
            requests=self._requests(data, latest),
        )

    def _requests(self, data: Dataset, latest: LatestScores) -> Requests | None:
        """What forms users' vectors at the moment of a request, where the model reads that."""
        features = self.artifacts["evaluate"].info.get("context")
        if not features:
            return None
        from cadc_rec.data.context import request_codes
        from cadc_rec.export.programs import tower_programs
        from cadc_rec.export.trained import trained_towers
        from cadc_rec.pipeline.stage import Opened
        from cadc_rec.serving.predict.requests import Requests

        made = self.artifacts
        pretrained = Opened().pretrained(made.get("pretrain"), made.get("transitions"))
        trained = trained_towers(self.experiment, made, data, pretrained)
        assert trained is not None
        query = tower_programs(trained, latest.scores)["query"].module
        return Requests(request_codes(data, features), query, trained.history_length)

    def _listed(self) -> ListedScores | None:
        from cadc_rec.data.transition_lists import ListedScores

        stages = [stage for stage in ("evaluate", "transitions") if stage in self.artifacts]
        folders = [self.artifacts[stage].path for stage in stages]
        return ListedScores.of_evaluation(self.artifacts["evaluate"].info, folders)
