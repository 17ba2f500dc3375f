"""The commands that train and judge, called from Python: the same code, the same bits, the same run folder.

from reid import api

run = api.train(["experiment=quickstart", "seed=1"])       # what `python -m reid.train` takes, as a list
run.scores["test/mAP"], run.history, run.model.embed("a.jpg")
api.threshold([f"checkpoint={run.folder}"]).model.same("a.jpg", "b.jpg")
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reid.inference import TrainedModel, load_model
from reid.jobs.python_call import call
from reid.words import percent

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Run:
    """What became of a call, and where it lies.

    Attributes:
        scores: fractions, by the names that MLflow shows, such as `test/mAP`.
        folder: the run's: checkpoints, figures, log.
        run_id: MLflow's; None for a threshold, which is no run, or while the store cannot be reached.
        name: what the run is called in MLflow and in its figures, or the command.
        checkpoint: the file, the folder or the run id that `model` is loaded from.
    """

    scores: dict[str, float]
    folder: Path
    run_id: str | None
    name: str
    checkpoint: str = field(repr=False)

    @cached_property
    def history(self) -> "pandas.DataFrame":
        """A row for each epoch, with what was measured in it; of what trained nothing, one row of scores."""
        import pandas

        file = self.folder / "history.csv"
        return pandas.read_csv(file) if file.exists() else pandas.DataFrame([self.scores])

    @cached_property
    def model(self) -> TrainedModel:
        """The model that was trained or judged, loaded when it is first asked for."""
        return load_model(self.checkpoint)

    def __repr__(self) -> str:
        wanted = [name for name in self.scores if name.endswith(("/mAP", "/rank-1", "/EER"))][:2]
        shown = ", ".join(f"{name} {percent(self.scores[name])}" for name in wanted)
        name = self.name if len(self.name) <= 30 else f"{self.name[:29]}…"
        return f"Run({name}: {shown}; {self.folder.name})"


def train(overrides: Sequence[str] = ()) -> Run:
    """What `python -m reid.train <overrides>` does, but for sweeps (`-m`).

    Raises:
        ConfigError, and others that are a `reid.errors.UsageError`: asked wrongly; nothing was written.
        RunError: it failed on the way; the message says what to do.
        KeyboardInterrupt: stopped by Ctrl-C; the same call with "resume=auto" goes on.
    """
    return _run("train", "reid.commands.train:run", overrides)


def evaluate(overrides: Sequence[str]) -> Run:
    """What `python -m reid.evaluate checkpoint=… …` does; raises as `train` does."""
    return _run("evaluate", "reid.commands.evaluate:run", overrides)


def threshold(overrides: Sequence[str]) -> Run:
    """What `python -m reid.threshold checkpoint=… …` does; `.model` then has it. Raises as `train` does."""
    return _run("threshold", "reid.commands.threshold:run", overrides)


def adapt(overrides: Sequence[str]) -> Run:
    """What `python -m reid.adapt checkpoint=… dataset=… …` does, but for sweeps; raises as `train` does."""
    return _run("adapt", "reid.commands.adapt:run", overrides)


def _run(command: str, story: str, overrides: Sequence[str]) -> Run:
    job = call(command, story, overrides)
    written = [job.folder / name for name in ("model.pt", "last.pt")]
    named = job.config.get("output") or job.config.get("checkpoint")
    checkpoint = next((str(path) for path in written if path.exists()), str(named))
    return Run(job.status.scores, job.folder, job.status.run_id, job.name or command, _absolute(checkpoint))


def _absolute(checkpoint: str) -> str:
    """A path that the next change of the working directory does not lead astray; a run id as it is."""
    return str(Path(checkpoint).absolute()) if Path(checkpoint).exists() else checkpoint
