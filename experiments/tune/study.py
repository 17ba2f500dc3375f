"""The study: its name, its folder, where Optuna keeps it, and how a trial's values become a config."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from reid.config.checks import ConfigError
from reid.config.identity import config_hash, flat
from reid.config.schema import TrainConfig, TuneConfig
from reid.config.search_space import is_whole, training, tune_settings
from reid.config.settings import train_settings
from reid.formats import FormatError, format_problem
from reid.home import home
from reid.jobs.job import Job
from reid.tracking import Store, TrackingError, default_store, reason, sqlite_uri

#: The only score that a study looks at.
SCORE = "val/mAP"
#: The databases that both MLflow and Optuna speak to.
SHARED = ("sqlite", "postgresql", "mysql")
CONFIG = "reid.config"
#: The attribute with the format of what a study keeps in the database and in its folder (`reid.formats`).
FORMAT_KEY, FORMAT = "reid.format", 1


@dataclass(frozen=True)
class Search:
    """A study under way: its settings, and its trials in Optuna."""

    settings: TuneConfig
    overrides: list[str]
    name: str
    folder: Path
    place: str
    study: optuna.Study

    @classmethod
    def of(cls, job: Job, create: bool = True) -> "Search":
        """The study of this command line, created where it is new (`create`).

        Raises:
            ConfigError: the name that was typed belongs to a study of another config.
            FormatError: a newer version made the study.
            TrackingError: the database does not answer.
        """
        settings = tune_settings(job.config)
        identity = {
            "config": config_hash(training(settings)),
            "space": {name: asdict(entry) for name, entry in settings.study.space.items()},
            "search": [settings.study.seed, settings.study.startup, settings.study.prune,
                       settings.study.prune_after],
        }  # fmt: skip
        fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        choice = HydraConfig.get().runtime.choices.get("study") or "study"
        name = settings.study.name or f"{choice}-{fingerprint}"
        store = default_store(home(), settings.tracking.uri)
        uri = settings.study.storage or database_of(store)
        try:
            study = optuna.create_study(
                storage=open_storage(store, uri, create),
                study_name=name,
                load_if_exists=True,
                direction="maximize",
                pruner=pruner_of(settings),
            )
        except Exception as error:
            raise TrackingError(
                f"the study {name} could not be opened in {Store(uri).public_uri} "
                f"({type(error).__name__}: {reason(error)})"
            ) from error
        refuse_newer(study, name)
        if study.user_attrs.get(CONFIG, fingerprint) != fingerprint:
            raise ConfigError(
                f"study.name={name}: that study has another config, search space or sampler. "
                "Type the overrides of then, or another name"
            )
        if create and CONFIG not in study.user_attrs:
            study.set_user_attr(FORMAT_KEY, FORMAT)
            study.set_user_attr(CONFIG, fingerprint)
        folder = home() / "multirun" / name
        folder.mkdir(parents=True, exist_ok=True)
        return cls(settings, list(job.overrides), name, folder, Store(uri).public_uri, study)

    @property
    def keys(self) -> list[str]:
        return [dimension.key for dimension in self.settings.study.space.values()]

    def progress(self) -> str:
        done = sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))
        trials = self.settings.study.trials
        counts = f"study {self.name}: {done} of {trials} trials are done"
        return f"{counts}; kept in {self.place}, runs in {self.folder}"

    def sampler(self, number: int) -> optuna.samplers.TPESampler:
        """The sampler of one trial, seeded by its number: so a study that is taken up again goes on as if it
        had never stopped, where a sampler seeded once would draw its first points again."""
        study = self.settings.study
        seed = int.from_bytes(hashlib.sha256(f"{study.seed} {number}".encode()).digest()[:4])
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=study.startup)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of a trial by key, drawn where it has none yet, and rounded to what a name shows."""
        self.study.sampler = self.sampler(trial.number)
        base = flat(training(self.settings))
        values: dict[str, Any] = {}
        for entry in self.settings.study.space.values():
            if entry.choices is not None:
                values[entry.key] = trial.suggest_categorical(entry.key, entry.choices)
                continue
            assert entry.low is not None
            assert entry.high is not None
            if is_whole(entry, base[entry.key]):
                low, high, step = int(entry.low), int(entry.high), int(entry.step or 1)
                values[entry.key] = trial.suggest_int(entry.key, low, high, step=step, log=entry.log)
            else:
                drawn = trial.suggest_float(entry.key, entry.low, entry.high, step=entry.step, log=entry.log)
                values[entry.key] = rounded(drawn)
        return values

    def trial_config(
        self, values: Mapping[str, Any], *more: str
    ) -> tuple[DictConfig, TrainConfig, list[str]]:
        """The config of a run with these values, its settings, and the command line that `reid.train` takes.

        Raises:
            ConfigError: the values do not go together.
        """
        added = [*(f"{key}={value}" for key, value in values.items()), *more]
        config = compose("tune", overrides=[*self.overrides, *added])
        settings = train_settings(config)
        assert isinstance(settings, TuneConfig)
        settings.sweep.take = "none"  # the study knows which trials are done
        split = [] if more else ["eval.split=val", "eval.period=1"]
        kept = [word for word in self.overrides if not word.lstrip("+~").startswith("study")]
        return config, training(settings), [*kept, *split, *added]


def refuse_newer(study: optuna.Study, name: str) -> None:
    """Raises FormatError for a study that a newer version of the suite made."""
    if problem := format_problem(f"the study {name}", study.user_attrs.get(FORMAT_KEY), FORMAT):
        raise FormatError(problem)


def rounded(value: float) -> float:
    """Six digits: what the name of a run shows is what it was trained with."""
    return float(f"{value:.6g}")


def pruner_of(settings: TuneConfig) -> optuna.pruners.BasePruner:
    """The median rule once `startup` trials are complete, from epoch `prune_after` on; or nothing."""
    study = settings.study
    if study.prune == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=study.startup, n_warmup_steps=study.prune_after)


def database_of(store: Store) -> str:
    """Where the study is kept: in MLflow's own database, or where only a server sees that in `optuna.db`."""
    return store.uri if store.uri.startswith(SHARED) else sqlite_uri(home() / "optuna.db")


def open_storage(store: Store, uri: str, create: bool) -> optuna.storages.RDBStorage:
    """Optuna's tables in the database at `uri`.

    Optuna and MLflow both keep the revision of their schema in a table `alembic_version`, and either refuses
    the other's there (Optuna 5.0: "no longer compatible with the table schema"; MLflow 3.17: "Can't locate
    revision").  Their other tables have no name in common.  So MLflow's come first, always: Optuna leaves a
    revision that it finds alone, and is set not to compare it with its own.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shared = uri == store.uri
    if shared:
        _ = store.client  # creates MLflow's tables where there are none, one process at a time
    sqlite = uri.startswith("sqlite")
    return optuna.storages.RDBStorage(
        uri,
        engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else None,  # seconds; workers write in turn
        skip_compatibility_check=shared,
        skip_table_creation=not create,
    )
