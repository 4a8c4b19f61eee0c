"""The Python face: what ``import cadc_rec`` offers, and what the commands themselves call.

In: a configuration file, or an `Experiment` made in Python. Out: a `Run`, from which metrics,
times, artifacts and recommendations can be read. Work that is done is found again, as with the
commands: both keep their artifacts in the same work folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.log import quiet_libraries
from cadc_rec.pipeline.job import opened
from cadc_rec.pipeline.pipeline import STAGES
from cadc_rec.pipeline.summary import run_result
from cadc_rec.store.artifact import Artifact

if TYPE_CHECKING:
    from cadc_rec.data.inspect.inspect import Inspection
    from cadc_rec.serving.predict.predictor import Predictor, Recommendations


def load(
    path: Path | str,
    *,
    method: str | None = None,
    set: Mapping[str, Any] | None = None,
) -> Experiment:
    """Read an experiment from its TOML file.

    Args:
        path: the file.
        method: which row of settings to lay over it, such as ``"gold"``; default: the file's.
        set: settings that override the file's and the method's, by dotted name, such as
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
) -> Run:
    """Run every stage of an experiment that is not done yet, from raw data to metrics.

    Args:
        experiment: what to run; see `load`. With ``compute.processes`` above 1 the train stage runs
            in as many processes of its own.
        workdir: the folder that keeps the artifacts; made if need be.
        data_dir: the folder with the raw data; default: ``$CADC_REC_DATA``, then a download where
            the data are public.
        force: make every stage anew; an old artifact stays until the new one is whole.
        profile: train anew under torch's profiler, which writes a trace to the work folder.
        resume: the folder of a checkpoint to go on with; default: the newest of this training.

    Returns:
        What came of it.

    Raises:
        CadcError: something the caller can mend, such as data that are missing, a full disk, or
            another process at work on the same artifact; the message says what to do.

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
        ) as pipeline,
    ):
        return Run(experiment, pipeline.run())


def inspect(
    path: Path | str,
    *,
    delimiter: str = "",
    encoding: str = "utf-8",
    columns: Sequence[str] = (),
    data_dir: Path | str | None = None,
) -> Inspection:
    """Read every table below a path once, and say what is in it and what it is taken for.

    Args:
        path: a file, a folder, a zip archive or a glob of CSV, TSV, JSON Lines, Arrow or Parquet
            files; looked for in the current folder, then in the data folder.
        delimiter: between the fields of text files; default: a comma, and a tab in ``.tsv`` files.
        encoding: of text files, such as ``"utf-8"``, ``"windows-1252"`` or ``"utf-16"``.
        columns: of text files without a first line that names them.
        data_dir: the data folder; default: ``$CADC_REC_DATA``.

    Returns:
        Profiles of the tables (``.tables``), what they are taken for (``.roles``), what looks wrong
        in them (``.warnings``), and a first configuration (``.config()``, TOML text).

    Raises:
        CadcError: there is no table, a file cannot be read, or a setting is not allowed.
    """
    from pydantic import ValidationError

    from cadc_rec.config.errors import explain
    from cadc_rec.config.tables import TablesConfig
    from cadc_rec.data.inspect.inspect import inspect_path
    from cadc_rec.data.tables.lines import TextFormat

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
    """

    experiment: Experiment
    artifacts: Mapping[str, Artifact]

    @cached_property
    def result(self) -> dict[str, Any]:
        """All of the result as plain data: what ``cadc-rec run --json`` prints."""
        return run_result(self.experiment, self.artifacts)

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracy on the test items, such as ``{"hr@10": 0.31, "ndcg@10": 0.17}``; fractions.

        The test item of each user is ranked among all items that the user has not taken.
        """
        return dict(self.result["metrics"])

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, of the run that made each artifact; 0 where there is no such stage."""
        return dict(self.result["seconds"])

    def recommend(self, users: Sequence[Any], k: int = 10) -> Recommendations:
        """The k best items of each user, from the vectors that were evaluated.

        Exactly the order in which evaluation ranks the items: a user's training and validation
        items are left out, and scores are formed in float64.

        Args:
            users: original user ids ``[n]``, as they stand in the data.
            k: from 1 to the number of items.

        Returns:
            ``item_ids`` and ``scores``, both ``[n, k]``, the best item first, and ``lists()``.

        Raises:
            CadcError: a user was not in the data, an id is of the wrong type, or `k` is out of
                range.
        """
        rows = self.predictor.users.rows(users)
        if (rows < 0).any():
            lost = users[int((rows < 0).argmax())]
            raise CadcError(
                f"no user has the id {lost!r:.80}; a run answers for users of its own data only. A "
                "bundle (cadc-rec export) also answers for others."
            )
        return self.predictor.recommend(users, k)

    @cached_property
    def predictor(self) -> Predictor:
        """Answers from the evaluated vectors, which it holds in memory; read at the first use."""
        import numpy as np
        from safetensors.numpy import load_file

        from cadc_rec.data.dataset import Dataset
        from cadc_rec.data.user_items import UserItems
        from cadc_rec.serving.predict.catalogue import IdMap
        from cadc_rec.serving.predict.predictor import Predictor
        from cadc_rec.serving.predict.top_k import ItemVectors

        data, evaluated = Dataset.open(self.artifacts["prepare"]), self.artifacts["evaluate"].path
        users, items = (
            load_file(evaluated / f"{side}_vectors.safetensors")["vectors"]
            for side in ("user", "item")
        )
        # What evaluation leaves out when it ranks the test items.
        taken = UserItems(data.user_indptr, data.train_item).and_one_each(data.val_item)
        vectors = ItemVectors(items)
        return Predictor(
            users=IdMap.of_column("user", data.user_ids()),
            items=IdMap.of_column("item", data.item_ids()),
            user_vectors=users,
            item_vectors=vectors,
            known=taken,
            popularity=np.bincount(taken.items, minlength=data.n_items),
            retrieval=vectors,
        )
