"""A sweep in words: the best setting, whether its lead is more than noise, and what is amiss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reid.retrieval import Difference, difference
from reid.sweeps.outcome import Setting, SweptRun, varying
from reid.words import as_markdown

#: At most so many cells or parameters are named.
NAMED = 8


def conclude(settings: Sequence[Setting], split: str) -> str:
    """One sentence, or two: the best setting, and whether its lead over the next one exceeds the noise.

    The best is compared with the runner-up, not with the rest: of many equal settings the two best lie close
    together, so the choice does not make noise look like a lead.  In Markdown.

    settings: best first, those without a finished run last.
    """
    done = [setting for setting in settings if setting.done]
    if not done:
        return "No cell finished: there is no score to report."
    best = done[0]
    score = f"mAP {_spread(best)} % on {split}"
    if len(done) == 1:
        return f"{as_markdown(best.name)}: {score}; there is no other finished setting to compare it with."
    second = done[1]
    lead = difference(best.measured, second.measured)
    best_setting = f"Best: {as_markdown(best.name)} with {score}; "
    points = f"its lead of {100 * lead.value:.1f} points over {as_markdown(second.name)}"
    if math.isnan(lead.interval.low):
        return (
            f"{best_setting}whether {points} exceeds the noise cannot be told: there is one seed, and the "
            "scores by query are not there or not comparable."
        )
    verdict = "exceeds the noise" if lead.exceeds_noise else "does not exceed the noise"
    interval = f"[{100 * lead.interval.low:.1f}, {100 * lead.interval.high:.1f}]"
    return f"{best_setting}{points} {interval} {verdict} (95 % interval, {_sources(lead)})."


def notes(
    runs: Sequence[SweptRun], settings: Sequence[Setting], split: str, other_data: bool = False
) -> list[str]:
    """What a reader has to know to trust the table, in Markdown; [] where there is nothing.

    other_data: the settings are meant to be judged on different data, one part each.
    """
    lines = []
    lost = [run for run in runs if run.status != "FINISHED"]
    if lost:
        named = "; ".join(
            f"{as_markdown(run.name or 'the config')} ({as_markdown(run.error or run.status.lower())})"
            for run in lost[:NAMED]
        )
        more = f"; and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        lines.append(
            f"**{len(runs) - len(lost)} of {len(runs)} cells finished: this table is not complete.** "
            f"Missing: {named}{more}. The same command goes on with them."
        )
    if split == "test" and len(settings) > 1:
        lines.append(
            "Scores are those on test: whoever picks the best setting by them selects on test, and its score "
            "is then too good. Choose on held-out people of the training set (eval.split=val), and judge the "
            "winner once on test."
        )
    finished = [len(setting.done) for setting in settings if setting.done]
    if 1 in finished:
        alone = finished.count(1) == len(finished)
        single = (
            "One seed a setting" if alone else f"One seed in {finished.count(1)} of {len(finished)} settings"
        )
        lines.append(f"{single}: no spread of the seeds (±) is known. seed=0,1,2 runs three.")
    if not other_data and len({run.data for run in runs if run.data}) > 1:
        lines.append(
            "The runs do not share their data (their fingerprints differ, see cells.csv): scores are not "
            "compared query by query."
        )
    commits = {run.commit for run in runs if run.commit}
    if len(commits) > 1:
        lines.append(f"The runs were made by {len(commits)} versions of the code, see cells.csv.")
    unlike = sorted({name for setting in settings for name in varying(setting)})
    if unlike:
        lines.append(
            f"Runs of one row differ in more than their seed, so that their mean means little: "
            f"{', '.join(unlike[:NAMED])}{' …' if len(unlike) > NAMED else ''}."
        )
    if sum(bool(setting.done) for setting in settings) > 2:
        lines.append(
            "Each interval in the table holds for itself: of twenty settings that are as good as the one "
            "they are compared with, one looks better or worse."
        )
    return lines


def _sources(lead: Difference) -> str:
    if lead.people and lead.seeds:
        return "people resampled and seeds compared"
    if lead.people:
        return (
            "people resampled; one of the two has a single seed, so that the spread of the seeds is unknown "
            "and the interval holds for these trained models only"
        )
    return "over the seeds alone, since the scores by query are not there or not comparable"


def _spread(setting: Setting) -> str:
    mean, deviation = setting.mean(setting.score), setting.deviation(setting.score)
    return f"{100 * mean:.1f}" + ("" if math.isnan(deviation) else f" ± {100 * deviation:.1f}")
