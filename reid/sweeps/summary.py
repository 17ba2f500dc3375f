"""The report of a sweep: table, figure and one sentence, on its parent run and in the study's results."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from reid.config.schema import config_folder
from reid.engine.rundir import RunStatus
from reid.figures import Against, difference_figure, save, sweep_figure
from reid.home import home
from reid.retrieval import Difference, difference
from reid.sweeps.conclusion import conclude, notes
from reid.sweeps.left_out import KEY as LEFT_OUT
from reid.sweeps.left_out import cells_of, is_left_out, mean_score, names_of, table
from reid.sweeps.left_out import conclude as conclude_left_out
from reid.sweeps.outcome import SEED, Setting, SweptRun, cell_table, runs_of_jobs, settings_of, without_twins
from reid.sweeps.tracked_sweep import NAME_TAG
from reid.tracking import Tracker, figure_markdown
from reid.tracking.journal import Journal, replace_text
from reid.words import as_markdown

log = logging.getLogger(__name__)

REPORT, CELLS, FIGURE = "report.md", "cells.csv", "figure.png"


@dataclass(frozen=True)
class Report:
    """A sweep as it is told. `settings` are sorted, best first; `differences` are theirs from `reference`."""

    title: str
    keys: list[str]
    split: str
    runs: list[SweptRun]
    settings: list[Setting]
    reference: Setting | None
    differences: list[Difference | None]
    sentence: str
    notes: list[str]

    @property
    def score(self) -> str:
        return f"{self.split}/mAP"

    def markdown(self, picture: str = "") -> str:
        """Sentence, figure, table and notes: what matters first, since the UI folds a long description.

        picture: the figure as Markdown.
        """
        compared = self.reference is not None and sum(bool(one.done) for one in self.settings) > 1
        if is_left_out(self.keys):
            rows = table(cells_of(self.settings, self.runs), self.keys, self.split)
            return "\n\n".join(part for part in (self.sentence, picture, rows, *self.notes) if part) + "\n"
        head = [*self.keys, f"mAP on {self.split} (%)", "rank-1 (%)", "seeds"]
        if self.reference and compared:
            head.append(f"mAP less that of {as_markdown(self.reference.name)}, points [95 %]")
        lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for setting, less in zip(self.settings, self.differences, strict=True):
            numbers = [self._score(setting, "mAP"), self._score(setting, "rank-1"), seeds(setting)]
            numbers += [_less(less)] if compared else []
            values = [as_markdown(setting.values[key] or "-") for key in self.keys]
            lines.append(f"| {' | '.join([*values, *numbers])} |")
        parts = [self.sentence, picture, "\n".join(lines), *self.notes]
        return "\n\n".join(part for part in parts if part) + "\n"

    def description(self, run_id: str | None) -> str:
        """The same, as the tracked parent of this id shows it: its artifact is the figure."""
        drawn = run_id is not None and self._draws
        return self.markdown(figure_markdown(str(run_id), FIGURE, as_markdown(self.title)) if drawn else "")

    def page(self, figure: bool, again: str) -> str:
        """`report.md`: the same under a title, with the command that makes it again."""
        title = as_markdown(self.title)
        picture = f"![{title}]({FIGURE})" if figure else ""
        return (
            f"# {title}\n\n{self.markdown(picture)}\n"
            f"Every run: [{CELLS}]({CELLS}). Made by `python -m reid.report runs={again}`.\n"
        )

    def best(self, name: str) -> float:
        """The score of the best setting; where parts are left out in turn, its mean over the parts."""
        if is_left_out(self.keys):
            return mean_score(self.settings, f"{self.split}/{name}")
        return self.settings[0].mean(f"{self.split}/{name}")

    def cells(self) -> str:
        found: pd.DataFrame = cell_table(self.runs, self.keys, self.split)
        return str(found.to_csv(index=False))

    def figure(self) -> Figure | None:
        """The chart for the sweep's shape; None where there is nothing to draw."""
        if not self._draws:
            return None
        title = f"{self.title}: mAP on {self.split}"
        if len(self.keys) == 1 and self.reference and len(self.settings) > 1:
            key = self.keys[0]
            if self.reference.values[key] == default_choice(key):
                rows = [
                    _against(setting, less, key)
                    for setting, less in zip(self.settings, self.differences, strict=True)
                    if setting is not self.reference
                ]
                named = (self.reference.values[key], 100 * self.reference.mean(self.score))
                once = all(len(setting.done) < 2 for setting in self.settings)
                return difference_figure(rows, named, key, title=title, one_seed=once)
        if is_left_out(self.keys):
            return self._left_out(title)
        shown = pd.DataFrame(
            [{**run.values, self.score: run.scores.get(self.score, math.nan)} for run in self.runs]
        )
        return sweep_figure(shown, self.keys, self.score, score_label=f"mAP on {self.split} (%)", title=title)

    def _left_out(self, title: str) -> Figure:
        """The same chart with the parts by their names."""
        named = {
            place: names_of(self.runs, place)[1] for place in {run.values[LEFT_OUT] for run in self.runs}
        }
        rows = [
            {
                **run.values,
                LEFT_OUT: named[run.values[LEFT_OUT]],
                self.score: run.scores.get(self.score, math.nan),
            }
            for run in self.runs
        ]
        label = f"mAP on {self.split} (%)"
        return sweep_figure(pd.DataFrame(rows), self.keys, self.score, score_label=label, title=title)

    @property
    def _draws(self) -> bool:
        return bool(self.keys) and any(one.done for one in self.settings)

    def _score(self, setting: Setting, name: str) -> str:
        mean, spread = setting.mean(f"{self.split}/{name}"), setting.deviation(f"{self.split}/{name}")
        if math.isnan(mean):
            return "-"
        return f"{100 * mean:.1f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.1f}")


def build(
    runs: Sequence[SweptRun], keys: Sequence[str], split: str, title: str, reference: str | None = None
) -> Report:
    """The report of these runs: settings compared with `reference` (a choice of the only key), the published
    recipe's choice where it is among them, or else with the best.

    Raises:
        ValueError: there is no run, or no setting of that name.
    """
    runs = without_twins(runs)
    if not runs:
        raise ValueError("no run to report; a sweep has at least one")
    shown = [key for key in keys if key != SEED]
    left_out = is_left_out(shown)
    same_data = len({run.data for run in runs if run.data}) < 2
    settings = settings_of(runs, split, paired=same_data or left_out)
    base = None if left_out else _reference(settings, shown, reference)
    differences = [
        difference(one.measured, base.measured) if base and one.done and one is not base else None
        for one in settings
    ]
    sentence = conclude_left_out(cells_of(settings, runs), split) if left_out else conclude(settings, split)
    said = notes(runs, settings, split, other_data=left_out)
    return Report(title, shown, split, runs, settings, base, differences, sentence, said)


def write(
    parent: Tracker,
    folder: Path,
    jobs: list[RunStatus],
    keys: Sequence[str],
    split: str,
    name: str | None = None,
) -> str:
    """Put the report of the sweep in `folder` on its parent run, into that folder and into the results.

    name: of the folder of the results; the swept keys by default.  Returns what to say of it on the terminal.
    Whatever goes wrong is warned of, since the runs themselves are done.
    """
    summary = ""
    try:
        if not jobs:
            return summary
        experiment, name = str(Journal(folder).creation["experiment"]), name or default_name(keys)
        report = build(runs_of_jobs(folder, jobs, keys), keys, split, f"{experiment}: {name}")
        parent.tags({NAME_TAG: name})
        parent.description(report.description(parent.run_id))
        written = write_report(report, folder, parent.run_id or folder.name)
        for path in written:
            parent.artifact(path)
        summary = terminal_text(report, written, publish(folder, experiment, name))
        best = {name: report.best(name) for name in ("mAP", "rank-1")}
        if not math.isnan(best["mAP"]):
            # In the columns of the jobs: a sweep and its jobs are then compared at a glance.
            parent.metrics({f"{split}/{name}": value for name, value in best.items()}, 0)
            parent.tags({"reid.selected_on": split})
    except Exception as error:
        log.warning(
            "the sweep's report is not complete (%s); later: python -m reid.report runs=%s", error, folder
        )
    return summary


def terminal_text(report: Report, written: Sequence[Path], place: Path) -> str:
    """A report as the terminal shows it, and where it lies."""
    return f"{report.markdown()}\nwritten: {', '.join(path.name for path in written)} in {place}"


def write_report(report: Report, folder: Path, again: str) -> list[Path]:
    """Write the files of a report to `folder` and return them; a figure that cannot be drawn is warned of."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / REPORT, folder / CELLS]
    picture = folder / FIGURE
    try:
        figure = report.figure()
        if figure is not None:
            written.append(save(figure, picture))
    except (OSError, ValueError) as error:
        log.warning("the figure of the sweep could not be drawn: %s", error)
    if picture not in written:
        picture.unlink(missing_ok=True)  # one of an earlier report would be taken for this one's
    replace_text(folder / REPORT, report.page(picture in written, again))
    replace_text(folder / CELLS, report.cells())
    return written


def publish(folder: Path, experiment: str, name: str) -> Path:
    """Copy the files of a report into the results of its study, and return that folder."""
    place = results_folder(experiment, name)
    place.mkdir(parents=True, exist_ok=True)
    for file in (REPORT, CELLS, FIGURE):
        if (folder / file).is_file():
            shutil.copyfile(folder / file, place / file)
        else:
            (place / file).unlink(missing_ok=True)
    return place


def results_folder(experiment: str, name: str) -> Path:
    """Where the report of a sweep lies: of a study in `experiments/<experiment>/results/<name>` at home, of
    any other experiment in `outputs/reports/<experiment>/<name>`, which git leaves alone.

    A report that older versions put beside the studies stays where it is.
    """
    study = home() / "experiments" / as_folder(experiment)
    beside = study / "results" / as_folder(name)
    if (study / "README.md").is_file() or beside.is_dir():
        return beside
    return home() / "outputs" / "reports" / as_folder(experiment) / as_folder(name)


def as_folder(name: str) -> str:
    """A name as one folder: nothing in it leads anywhere else."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "unnamed"


def default_name(keys: Sequence[str]) -> str:
    return "-".join(key for key in keys if key != SEED) or "one_config"


def default_choice(group: str) -> str | None:
    """What `group` is where nobody chooses: the published recipe's; None for a key that is no group."""
    for entry in OmegaConf.load(config_folder() / "train.yaml").defaults:
        if OmegaConf.is_dict(entry) and group in entry:
            return str(entry[group])
    return None


def seeds(setting: Setting) -> str:
    """How many finished: "3", or "2 of 3"."""
    done, all_runs = len(setting.done), len(setting.runs)
    return str(done) if done == all_runs else f"{done} of {all_runs}"


def _reference(settings: Sequence[Setting], keys: Sequence[str], wanted: str | None) -> Setting | None:
    done = [setting for setting in settings if setting.done]
    if wanted is not None:
        for setting in done:
            if wanted in (setting.name, *(setting.values.values() if len(keys) == 1 else ())):
                return setting
        names = "; ".join(setting.name for setting in done)
        raise ValueError(f"no finished setting {wanted!r} to compare with; there are: {names}")
    default = default_choice(keys[0]) if len(keys) == 1 else None
    usual = [setting for setting in done if default and setting.values[keys[0]] == default]
    return next(iter([*usual, *done]), None)


def _against(setting: Setting, less: Difference | None, key: str) -> Against:
    nan = math.nan
    value, low, high = (less.value, *less.interval) if less else (nan, nan, nan)
    score = setting.mean(setting.score)
    return Against(setting.values[key] or "none", 100 * score, 100 * value, 100 * low, 100 * high)


def _less(less: Difference | None) -> str:
    if less is None:
        return "-"
    low, high = less.interval
    interval = "" if math.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * less.value:+.1f}{interval}"
