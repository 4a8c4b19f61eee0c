"""The search: trials one after another until the time is up, each remembered when it ends.

In: an experiment's file, minutes. Out: a `Record` in ``WORKDIR/tune/KEY``. The key is a digest of
the data, of all settings and of what is searched, so the same command goes on with the same search.
The first trial has the experiment's own settings; Optuna's TPE sampler proposes the others, and its
median pruner stops those that are behind.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from cadc_rec.config.experiment import Experiment, TrackingConfig
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import BusyError, CadcError
from cadc_rec.evaluation.statistics import mean_intervals
from cadc_rec.log import log
from cadc_rec.store.artifact import artifact_key
from cadc_rec.store.atomic import locked
from cadc_rec.tuning.measure import prepare, rank_on_validation
from cadc_rec.tuning.report import BEST, Asked, refuse_foreign
from cadc_rec.tuning.space import Setting, as_overrides, search_space
from cadc_rec.tuning.trials import METRIC, Record, Trial

if TYPE_CHECKING:
    import optuna

_AT_RANDOM = 4  # trials before the sampler learns from them, and before any is pruned
_UNJUDGED = 5  # the first epochs tell little: one part in this many of the experiment's own
_REPEATS = 50  # proposals in a row that were tried already: the space is small
_NO_SAY = {"tracking", "checkpoint", "compute", "update", "loader"}  # of a result


class _TimeIsUp(BaseException):
    """Like a Ctrl-C, it passes through what catches ordinary errors."""


class _Behind(Exception):
    """The pruner's word on a trial."""


class Search:
    """A search over one experiment's settings; on entering, the data are prepared.

    Args:
        config: the experiment's file.
        workdir: keeps what trials make, and the search.
        data_dir: the raw data.
        method: overrides the file's.
        sets: overrides; the settings they name stay as they are.

    Raises:
        CadcError: Optuna is missing, nothing is to be searched, several processes are asked for,
            or the data cannot be prepared.
    """

    def __init__(
        self,
        config: Path,
        workdir: Path,
        data_dir: Path | None = None,
        method: str | None = None,
        sets: Sequence[str] = (),
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise CadcError(
                "tuning needs Optuna; install it: pip install 'cadc-rec[tune]'."
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self.workdir, self.method, self.sets = config, workdir, method, sets
        self.experiment = load_experiment(config, method=method, overrides=sets)
        if self.experiment.compute.processes > 1:
            raise CadcError(
                f"compute.processes = {self.experiment.compute.processes}: a search trains in one "
                "process; add --set compute.processes=1."
            )
        self.space = search_space(config, method, sets, self.experiment)
        dataset = prepare(self.experiment, workdir, data_dir)
        self._given = {"prepare": dataset}
        settings = {
            "experiment": self.experiment.model_dump(mode="json", exclude=_NO_SAY),
            "space": {setting.name: list(setting.values) for setting in self.space},
        }
        self.folder = workdir / "tune" / artifact_key("tune", settings, {"dataset": dataset})
        self.folder.mkdir(parents=True, exist_ok=True)
        self.record = Record(self.folder)
        self.asked = Asked(config, self.experiment.method, tuple(sets))

    def require_writable(self, out: Path, overwrite: bool) -> None:
        """Refuse, before any trial, a config that could not be written.

        Raises:
            CadcError: the file is there, and this search did not write it.
        """
        if not overwrite:
            refuse_foreign(out, self.folder / BEST)

    def run(self, seconds: float, most: int | None = None) -> None:
        """Make trials until the time is up.

        Args:
            seconds: the budget of this call.
            most: trials in all, those of earlier calls included; None is no limit.

        Raises:
            CadcError: the experiment's own settings cannot be run.
            BusyError: another process is at this search.
        """
        with locked(self.folder / "lock") as mine:
            if not mine:
                raise BusyError(f"{self.folder}: another process is at this search; wait for it.")
            self.record = Record(self.folder)
            ends = time.monotonic() + seconds
            study, repeats = self._study(), 0
            while len(self.record.trials) < (most or len(self.record.trials) + 1):
                if time.monotonic() >= ends or repeats == _REPEATS:
                    break
                if not self.record.trials:
                    study.enqueue_trial({setting.name: setting.own for setting in self.space})
                asked = study.ask(self._distributions())
                before = self._tried_before(asked.params)
                if before is not None:
                    self._tell(study, asked, before)
                    repeats += 1
                    continue
                repeats = 0
                trial = self._trial(asked, ends)
                if trial is None:
                    break
                self._tell(study, asked, trial)
                self.record.add(trial)
                _say(trial, self.record)
            if repeats == _REPEATS:
                log.info("nearly all combinations were tried; the search ends here")

    def experiment_of(self, values: dict[str, Any]) -> Experiment:
        """The experiment with a trial's values."""
        overrides = [*self.sets, *as_overrides(values)]
        return load_experiment(self.config, method=self.method, overrides=overrides)

    def _trial(self, asked: optuna.Trial, ends: float) -> Trial | None:
        """Make one; None where the time was up before the experiment's own settings had ended."""
        number = len(self.record.trials)
        values = {s.name: s.values[asked.params[s.name]] for s in self.space}
        epochs: list[tuple[int, float]] = []

        def epoch_ended(entry: dict[str, float]) -> None:
            if time.monotonic() >= ends:  # where the alarm's exception was lost
                raise _TimeIsUp
            if METRIC not in entry:
                return
            epochs.append((int(entry["epoch"]), entry[METRIC]))
            asked.report(entry[METRIC], int(entry["epoch"]))
            if number and asked.should_prune():
                raise _Behind

        started, file = time.monotonic(), self.record.ranks(number)

        def ended(state: Any, **more: Any) -> Trial:
            return Trial(
                number, values, state, epochs=epochs, seconds=time.monotonic() - started, **more
            )

        try:
            with _alarm(ends):
                experiment = _without_traces(self.experiment_of(values), first=not number)
                rank_on_validation(experiment, self.workdir, self._given, file, epoch_ended)
            ranks = pq.read_table(file, columns=["rank"])["rank"].to_numpy()
            # Every metric has the sample's interval; the mean is that of the gains.
            (interval,) = mean_intervals(ranks, [METRIC]).values()
            return ended(
                "done", ndcg=float(self.record.gains(number).gains.mean()), interval=interval
            )
        except _Behind:
            return ended("pruned", why=f"behind the others after epoch {epochs[-1][0]}")
        except _TimeIsUp:
            return ended("pruned", why="the time was up") if number else None
        except CadcError as error:
            if not number:
                raise
            return ended("refused", why=str(error))

    def _study(self) -> optuna.Study:
        """Optuna's study, with the trials of earlier calls."""
        import optuna

        seed = self.experiment.seed + len(self.record.trials)
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, seed=seed % 2**32),
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_AT_RANDOM,
                n_warmup_steps=max(1, self.experiment.train.epochs // _UNJUDGED),
            ),
        )
        for trial in self.record.trials:
            study.add_trial(
                optuna.trial.create_trial(
                    state=_state(trial),
                    params={s.name: s.values.index(trial.settings[s.name]) for s in self.space},
                    distributions=self._distributions(),
                    value=trial.ndcg,
                    intermediate_values={int(epoch): value for epoch, value in trial.epochs},
                )
            )
        return study

    def _distributions(self) -> dict[str, Any]:
        """Of the places of values."""
        return {setting.name: _distribution(setting) for setting in self.space}

    def _tried_before(self, places: dict[str, int]) -> Trial | None:
        values = {s.name: s.values[places[s.name]] for s in self.space}
        return next((t for t in self.record.trials if dict(t.settings) == values), None)

    def _tell(self, study: optuna.Study, asked: optuna.Trial, trial: Trial) -> None:
        study.tell(asked, trial.ndcg, _state(trial))


def _distribution(setting: Setting) -> Any:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    places = range(len(setting.values))
    if setting.ordered:
        return IntDistribution(places[0], places[-1])
    return CategoricalDistribution(list(places))


def _state(trial: Trial) -> Any:
    from optuna.trial import TrialState

    states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "refused": TrialState.FAIL}
    return states[trial.state]


def _without_traces(experiment: Experiment, *, first: bool) -> Experiment:
    """The same without curves, and without checkpoints, which trials that are pruned would leave.

    The first trial saves itself: a search that is started again goes on with it.
    """
    e = experiment
    untracked = TrackingConfig(tensorboard=False, interval_seconds=0.0)
    update: dict[str, Any] = {"tracking": untracked}
    if not first:
        never = {"every_seconds": 0.0, "every_epochs": 0}
        update["checkpoint"] = e.checkpoint.model_copy(update=never)
    return e.model_copy(update=update)


@contextlib.contextmanager
def _alarm(ends: float) -> Iterator[None]:
    """Raise `_TimeIsUp` within when the monotonic clock is at `ends`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(ends - time.monotonic(), 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _say(trial: Trial, record: Record) -> None:
    """A line on a trial that ended."""
    first = record.trials[0].settings
    changed = ", ".join(f"{k}={v}" for k, v in trial.settings.items() if v != first[k])
    found = trial.why
    if trial.ndcg is not None:
        found = f"validation NDCG@10 {100 * trial.ndcg:.2f}%"
        found += ", the best so far" if record.best is trial else ""
    log.info(
        "trial %d: %s, %s in %.0f s (%s)",
        trial.number,
        trial.state,
        found,
        trial.seconds,
        changed or "the file's own settings",
    )
