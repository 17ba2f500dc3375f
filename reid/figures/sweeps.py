"""One picture of a sweep: the score of every run against the keys that were swept."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reid.figures.style import MUTED, ONE_SEED, SMALL, new_figure, styled
from reid.figures.sweep_charts import draw_dots, draw_heat_map, draw_line, draw_parallel


@styled
def sweep_figure(
    table: pd.DataFrame,
    keys: Sequence[str],
    score: str,
    *,
    score_label: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the score of a sweep's runs against the swept keys; the number and kind of keys pick the chart.

    One numeric key: a line. One categorical key: dots, best on top. Two keys: a heat map with the values
    written in. Three or more: parallel coordinates, a line for each run. Runs that share the values of `keys`
    (seeds, say) are averaged in the first three, with their sample standard deviation; where none do, the
    figure says that it has no spread. Failed runs are marked in red, never left out.

    Args:
        table: one row a run, with the columns `keys` and `score`.
        keys: the swept keys. Text that reads as numbers is numeric; a missing value is the choice "none".
        score: the column with the score, a fraction in 0..1 shown in percent; NaN says that the run failed.
        score_label: names the score on its axis, such as "mAP on test (%)"; by default "`score` (%)".
        title: by default "`score` against `keys`".

    Raises:
        ValueError: if the table is empty, lacks one of the columns, no key is given, or a score is not in
            0..1.
    """
    keys = list(keys)
    missing = [column for column in dict.fromkeys([*keys, score]) if column not in table]
    if missing or not keys:
        raise ValueError(
            f"the sweep's table lacks {missing}, keys are {keys}; expected at least one key, and every "
            f"key and the score among the columns {sorted(map(str, table.columns))}"
        )
    if table.empty:
        raise ValueError("the sweep's table has no row; expected one for each run")
    runs = pd.DataFrame({key: _typed(table[key]) for key in keys})
    runs["score"] = 100 * pd.to_numeric(table[score]).astype("float64")
    if not bool((runs["score"].isna() | runs["score"].between(0, 100)).all()):
        raise ValueError(
            f"column {score!r} holds {table[score].tolist()[:8]}; expected fractions in 0..1, or NaN"
        )

    label = score_label or f"{score} (%)"
    choices = [runs[key].nunique() for key in keys]
    if len(keys) == 1 and pd.api.types.is_numeric_dtype(runs[keys[0]]):
        figure = new_figure(height=4.4)
        axes = figure.add_subplot()
        draw_line(axes, runs, keys[0], label)
    elif len(keys) == 1:
        figure = new_figure(height=1.5 + 0.42 * choices[0])
        axes = figure.add_subplot()
        draw_dots(axes, runs, keys[0], label)
    elif len(keys) == 2:
        figure = new_figure(height=min(9.0, 1.8 + 0.6 * choices[0]))
        axes = figure.add_subplot()
        draw_heat_map(axes, runs, keys[0], keys[1], label)
    else:
        figure = new_figure(height=5.0)
        axes = figure.add_subplot()
        draw_parallel(axes, runs, keys, label)
    axes.set_title(title or f"{score} against {' and '.join(keys) if len(keys) < 3 else f'{len(keys)} keys'}")
    if not runs.dropna(subset="score").duplicated(subset=keys).any():
        figure.supxlabel(ONE_SEED, fontsize=SMALL, color=MUTED, x=0.011, ha="left")
    return figure


def _typed(column: pd.Series) -> pd.Series:
    """A key's values as floats where all of them are numbers, else as text."""
    if not pd.api.types.is_bool_dtype(column):
        numbers = pd.to_numeric(column.astype("object"), errors="coerce").astype("float64")
        if (
            bool(np.isfinite(numbers.to_numpy()).all())
            and not column.map(lambda v: isinstance(v, bool)).any()
        ):
            return numbers
    return column.map(lambda value: "none" if pd.isna(value) else str(value)).astype("object")
