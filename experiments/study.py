r"""A study of Optuna: which trial comes next, for all workers that share OUT.

    OUT/study.journal       what is to be trained, what is being trained, what came of it
    OUT/trials/NAME         see `trials.py`

The directories say what is done: without its journal a study finds them again. The journal tells
workers, of this process and of others on any machine that sees OUT, what is theirs; a worker that
was killed gives it back, for whoever trains a trial holds the lock of its directory.

Optuna draws trials and prunes them. What is listed, it only queues: its GridSampler knows no fields
that change together, and gives workers one point twice (four workers, 12 points: 15 or 16 trials).
Nor does its journal know which workers live: heartbeats are for databases alone.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import jobs, trials
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError

Overrides = Mapping[str, Any]
SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median", "halving")
IDLE_S = 0.5  # between looks at what other workers do


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a study is of.

    Attributes:
      name: studies of other names leave this one alone.
      out: directory of the journal.
      make: from overrides to a trial.
      suggest: draws the overrides of a trial by its `suggest_` methods; None: only what is listed.
      count: number of trials to draw.
      sampler, pruner: of `SAMPLERS` and `PRUNERS`.
      budget_s: seconds after which a training stops.
      parallel: trainings at once in this process.
    """

    name: str
    out: Path
    make: Callable[[Overrides], trials.Trial]
    suggest: Callable[[Any], Overrides] | None = None
    count: int = 0
    sampler: str = "tpe"
    pruner: str = "none"
    budget_s: float = math.inf
    parallel: int = 1


def run(settings: Settings, listed: Sequence[Overrides] = ()) -> list[trials.Outcome]:
    """Trains what is listed and what is drawn, unless it is done; returns an outcome per trial.

    Returns when other workers are through as well. What failed or was interrupted is taken up.

    Raises:
      InputError: Optuna is not installed, or the journal is damaged.
      KeyboardInterrupt: see `jobs.work`.
    """
    study = _Study(settings)
    study.enqueue(listed)

    def worker(slot: jobs.Slot) -> None:
        while not slot.is_stopping:
            with contextlib.ExitStack() as lock:
                trial = study.take(lock)
                if trial is not None:
                    study.train(trial, slot)
            if trial is None:
                if study.is_over():
                    return
                study.announce_others()
                time.sleep(IDLE_S)

    jobs.work(settings.parallel, worker)
    drawn = study.overrides() if settings.suggest else ()
    unique = {trial.directory: trial for trial in map(study.make, (*listed, *drawn))}
    return [trials.read(trial, jobs.read_record(trial.job)) for trial in unique.values()]


def load_optuna() -> Any:
    """Returns the library, which from now on prints warnings alone.

    Raises:
      InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "sweeps need Optuna: pip install -c constraints.txt -e '.[sweep]'. Without it, "
            "--print gives a command for each listed trial."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def samplers() -> dict[str, Callable[..., Any]]:
    """Returns from each of `SAMPLERS` to what makes it of a seed."""
    library = load_optuna().samplers
    # Optuna's ten random trials at first would be all of a short search.
    tpe = functools.partial(library.TPESampler, n_startup_trials=3)
    return {"tpe": tpe, "random": library.RandomSampler}


class _Study:
    """The study in its journal; methods may be called by several threads at once."""

    def __init__(self, settings: Settings):
        optuna = load_optuna()
        from optuna.storages import journal

        self._settings, self._samplers = settings, samplers()
        self._made: dict[str, trials.Trial] = {}
        self._announced: set[int] = set()  # numbers, those of this process included
        self._states = optuna.trial.TrialState
        pruners = {
            "none": optuna.pruners.NopPruner(),
            # Of step 0 it would judge the start of training.
            "median": optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
            "halving": optuna.pruners.SuccessiveHalvingPruner(),
        }
        file = settings.out / "study.journal"
        with self._alone():
            try:
                _drop_torn_line(file, journal.JournalFileSymlinkLock(str(file)))
                backend = journal.JournalFileBackend(str(file))
                self._study = optuna.create_study(
                    storage=optuna.storages.JournalStorage(backend),
                    study_name=settings.name,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=pruners[settings.pruner],
                )
            except (ValueError, LookupError, AssertionError, TypeError) as error:
                raise InputError(
                    f"{file} is damaged ({error}). Remove it: trials are found again by their "
                    f"directories."
                ) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other workers out, threads of this process included, until the block ends."""
        self._settings.out.mkdir(parents=True, exist_ok=True)
        with (self._settings.out / ".study.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _trials(self, *states: Any) -> list[Any]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def make(self, overrides: Overrides) -> trials.Trial:
        """Returns a trial, whose config is read once: that takes 5 ms."""
        key = _key(overrides)
        if key not in self._made:
            self._made[key] = self._settings.make(overrides)
        return self._made[key]

    def overrides(self) -> list[Overrides]:
        """Returns those of all trials, in order."""
        return [t.user_attrs["overrides"] for t in self._trials() if "overrides" in t.user_attrs]

    def is_over(self) -> bool:
        """Whether no worker has a trial, and none waits."""
        return not self._trials(self._states.RUNNING, self._states.WAITING)

    def announce_others(self) -> None:
        """Says once of each trial that another process has it, and that it is waited for."""
        for trial in self._trials(self._states.RUNNING):
            if trial.number not in self._announced and "overrides" in trial.user_attrs:
                self._announced.add(trial.number)
                name = self.make(trial.user_attrs["overrides"]).name
                print(f"{name}: waiting for the process that trains it", flush=True)

    def enqueue(self, listed: Sequence[Overrides]) -> None:
        """Queues what is listed or was drawn before, unless it is done or another worker has it."""
        with self._alone():
            self._give_back()
            before = [t for t in self._trials() if "overrides" in t.user_attrs]
            latest = {_key(t.user_attrs["overrides"]): t for t in before}
            wanted = [*listed, *(t.user_attrs["overrides"] for t in before)]
            for key, overrides in {_key(each): each for each in wanted}.items():
                trial = latest.get(key)
                if trial is None or (trial.state.is_finished() and not self._is_done(overrides)):
                    self._queue(overrides, trial)

    def _queue(self, overrides: Overrides, before: Any = None) -> None:
        """Queues overrides, again if there was a trial of them before."""
        params = dict(before.params) if before else {}
        is_drawn, again = bool(params), before is not None
        attributes = {"overrides": overrides, "is_drawn": is_drawn, "again": again}
        self._study.enqueue_trial(params, user_attrs=attributes)

    def _is_done(self, overrides: Overrides) -> bool:
        return jobs.read_record(self.make(overrides).job).is_done(self._settings.budget_s)

    def _give_back(self) -> None:
        """Queues what workers had that are no more."""
        for trial in self._trials(self._states.RUNNING):
            overrides = trial.user_attrs.get("overrides")
            if overrides is None:
                self._study.tell(trial.number, state=self._states.FAIL)
                continue
            if self._is_free(self.make(overrides)):
                self._study.tell(trial.number, state=self._states.FAIL)
                self._queue(overrides, trial)

    @staticmethod
    def _is_free(training: trials.Trial) -> bool:
        """Whether no worker has it, and it does not go on alone after its worker was killed."""
        try:
            outputs.refuse_locked(training.directory)
            outputs.refuse_locked(training.workdir)
        except InputError:
            return False
        return True

    def take(self, lock: contextlib.ExitStack) -> Any:
        """Returns a trial of the queue, or a drawn one; None if there is none to be had now.

        Args:
          lock: gets the lock of the trial's directory.
        """
        with self._alone():
            self._give_back()
            everything = self._trials()
            is_queued = any(t.state == self._states.WAITING for t in everything)
            count = sum(not t.user_attrs.get("again", False) for t in everything)
            if not is_queued and count >= self._settings.count:
                return None
            # A seed of its own for each number: workers of one seed would draw alike.
            self._study.sampler = self._samplers[self._settings.sampler](seed=len(everything))
            trial = self._study.ask()
            try:
                if self._settings.suggest and trial.user_attrs.get("is_drawn", True):
                    suggested = self._settings.suggest(trial)
                    drawn = {field: trials.plain(value) for field, value in suggested.items()}
                    self.make(drawn)  # refuses a field that is none
                    trial.set_user_attr("overrides", drawn)
                training = self.make(trial.user_attrs["overrides"])
                if not self._is_free(training):
                    print(f"{training.name}: another sweep trains it", flush=True)
                    self._study.tell(trial, state=self._states.FAIL)
                    return None
                lock.enter_context(outputs.lock(training.directory))
                self._announced.add(trial.number)
            except BaseException:
                self._study.tell(trial, state=self._states.FAIL)
                raise
            return trial

    def train(self, trial: Any, slot: jobs.Slot) -> None:
        """Trains a trial, and says what came of it."""
        training, budget_s = self.make(trial.user_attrs["overrides"]), self._settings.budget_s
        watch = self._watch(trial, training)
        record = jobs.read_record(training.job)
        if not record.is_done(budget_s):
            record = slot.run(training.job, budget_s, trials.environment(training), watch)
            print(trials.summary(trials.read(training, record)), flush=True)
        watch()  # what it wrote last, or earlier
        outcome = trials.read(training, record)
        if outcome.error or record.status == jobs.INTERRUPTED:
            self._study.tell(trial, state=self._states.FAIL)
        elif record.status == jobs.PRUNED:
            self._study.tell(trial, state=self._states.PRUNED)
        else:
            self._study.tell(trial, outcome.value)

    @staticmethod
    def _watch(trial: Any, training: trials.Trial) -> Callable[[], bool]:
        """Returns what reports validations as they are written, and whether to stop early."""
        file = training.workdir / "metrics.jsonl"
        seen, reported = -1, set()

        def watch() -> bool:
            nonlocal seen
            size = file.stat().st_size if file.exists() else -1
            if size == seen:
                return False
            seen = size
            lags = False  # at any of the steps that came since: a pruner compares equal steps
            for step, metrics in trials.read(training).curve:
                if step not in reported:
                    reported.add(step)
                    trial.report(trials.sign(training.metric) * metrics[training.metric], step)
                    lags |= trial.should_prune()
            return lags

        return watch


def _key(overrides: Overrides) -> str:
    return json.dumps(overrides, sort_keys=True)


def _drop_torn_line(file: Path, lock: Any) -> None:
    """Drops what a worker that was killed wrote of a line: the next one would be joined to it."""
    lock.acquire()
    try:
        text = file.read_bytes() if file.exists() else b""
        if text and not text.endswith(b"\n"):
            os.truncate(file, text.rfind(b"\n") + 1)
    finally:
        lock.release()
