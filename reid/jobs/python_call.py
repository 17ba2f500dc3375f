"""A Hydra command called from Python: the same jobs, in a process that is somebody else's.

What a command leaves behind when it exits is put back here: arguments, environment, Hydra, logging, warnings,
signals, and torch's switches, threads and seeds. Nothing is refused by an exit, only by exceptions.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from hydra import version
from hydra.core.global_hydra import GlobalHydra

from reid.config.checks import ConfigError
from reid.engine.runtime import borrowed_process
from reid.engine.stop import Stopped
from reid.errors import RunError
from reid.jobs.job import Job
from reid.jobs.launch import HYDRAS_ERRORS, Outcome, in_words, run_jobs
from reid.sweeps.callback import swept_keys

#: cuBLAS reads it once, so what a job has set for it holds for the process.
_STAYS = "CUBLAS_WORKSPACE_CONFIG"

#: Hydra, logging and torch's switches belong to the process, so one call at a time can have them.
_one_call = threading.Lock()


def call(command: str, story: str, overrides: Sequence[str]) -> Job:
    """Run the one job of `python -m reid.<command> <overrides>`; the arguments are those of `launch`.

    Raises:
        ConfigError: asked wrongly, also for a sweep.
        KeyboardInterrupt: stopped by Ctrl-C, when all is written; `resume=auto` goes on.
        RunError: another call is under way; and what the job raises.
    """
    words = _checked(command, overrides)
    if not _one_call.acquire(blocking=False):
        raise RunError(
            "another call of reid.api is under way in this process, and two would share Hydra, logging and "
            "torch's switches. Wait until it ends, or start a second process"
        )
    outcome = Outcome()
    try:
        with _hydra_and_logging(), _arguments([f"reid-{command}", *words]), borrowed_process():
            if keys := swept_keys(words):
                raise ConfigError(_no_sweep(command, f"{', '.join(keys)} takes several values"))
            run_jobs(command, story, outcome)
    except HYDRAS_ERRORS as error:
        raise ConfigError(in_words(error, command, words)) from None
    except Stopped as stopped:
        stop_as_the_caller_does(command, stopped)
    finally:
        _one_call.release()
    if outcome.job is None:
        raise ConfigError(_no_sweep(command, "hydra.mode=MULTIRUN asks for a sweep"))
    return outcome.job


def _checked(command: str, overrides: Sequence[str]) -> list[str]:
    """What was given as the words of a command line.

    Raises:
        ConfigError: it is no list of `key=value`, a sweep, or several processes.
    """
    expected = f'expected a list of texts, such as reid.api.{command}(["seed=1", "device=cpu"])'
    if isinstance(overrides, str):
        raise ConfigError(f"{overrides!r} is one text: {expected}")
    words = list(overrides)
    for word in words:
        if not isinstance(word, str):
            raise ConfigError(f"{word!r} is no text: {expected}")
        if word in ("-m", "--multirun") or word.startswith(("sweep=", "+sweep=", "hydra.mode=")):
            raise ConfigError(_no_sweep(command, f"{word} asks for a sweep"))
        if word.startswith("-"):
            raise ConfigError(f"{word} belongs to a command line: {expected}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError(
            "torchrun has started several processes, and reid.api is one. Type torchrun … -m reid.train …"
        )
    return words


def _no_sweep(command: str, what: str) -> str:
    return (
        f"{what}, and reid.api.{command} runs one job. Call it in a loop, such as "
        f'[reid.api.{command}(["seed=" + str(seed)]) for seed in range(3)], or type the sweep, which has a '
        f"report too: python -m reid.{command} -m …"
    )


def stop_as_the_caller_does(command: str, stopped: Stopped) -> NoReturn:
    """Give the signal, which was kept until all was written, to whoever would have had it.

    Raises:
        KeyboardInterrupt: for Ctrl-C.
        RunError: the caller's own handler lets the program go on.
    """
    how = " To go on: the same call with resume=auto" if command == "train" else ""
    if stopped.signum == signal.SIGINT:
        raise KeyboardInterrupt(f"reid.api.{command} was stopped.{how}") from None
    signal.raise_signal(stopped.signum)
    raise RunError(f"reid.api.{command} was {stopped}.{how}")


@contextlib.contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    """`sys.argv` is these words, and what the block puts into the environment is taken out again."""
    arguments, environment = sys.argv, dict(os.environ)
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = arguments
        for name in {*os.environ, *environment} - {_STAYS}:
            if name not in environment:
                del os.environ[name]
            elif os.environ.get(name) != environment[name]:
                os.environ[name] = environment[name]


@contextlib.contextmanager
def _hydra_and_logging() -> Iterator[None]:
    """Hydra is not initialised in the block, whose handlers of logs and rules of warnings end with it."""
    ours, base = GlobalHydra.instance().hydra, version.VersionBase.instance().getbase()
    GlobalHydra.instance().clear()
    named = logging.root.manager.loggerDict.values()
    loggers = [logging.root, *(one for one in named if isinstance(one, logging.Logger))]
    before = [(one, one.level, one.handlers[:], one.disabled, one.propagate) for one in loggers]
    # Hydra's `dictConfig` would close the handlers that are there; what lists them has no public name.
    internal: Any = logging
    handlers, handlers_by_name = internal._handlerList[:], dict(internal._handlers)
    internal._handlerList.clear()
    captured, shown = internal._warnings_showwarning is not None, warnings.formatwarning
    try:
        with warnings.catch_warnings():
            try:
                yield
            finally:
                logging.captureWarnings(captured)
    finally:
        warnings.formatwarning = shown
        for logger, level, its_handlers, disabled, propagate in before:
            for handler in [one for one in logger.handlers if one not in its_handlers]:
                logger.removeHandler(handler)
                handler.close()
            logger.handlers[:], logger.disabled, logger.propagate = its_handlers, disabled, propagate
            logger.setLevel(level)
        internal._handlerList[:] = handlers
        internal._handlers.update(handlers_by_name)
        GlobalHydra.instance().clear()
        if ours is not None:
            GlobalHydra.instance().initialize(ours)
        version.VersionBase.instance().version_base = base
