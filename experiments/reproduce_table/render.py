"""The table as text: Markdown, CSV, HTML."""

import csv
import io
from html import escape

from experiments.reproduce_table.table import Entry, Run, Table
from experiments.reproduce_table.words import ABOVE, BELOW, cells, notes
from reid.words import as_markdown

_STYLE = """
body { font: 15px/1.5 "DejaVu Sans", Verdana, sans-serif; color: #222; margin: 2em auto; max-width: 80em;
  padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .35em .8em; text-align: right; border-bottom: 1px solid #e3e6ea; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid #9aa1a9 }
thead th[colspan] { text-align: center }
td:nth-child(3n + 2) { padding-left: 2em }
.published, .difference { color: #5f6670 }
.outside { color: #cc1f2f; font-weight: bold }
.incomplete { color: #cc1f2f; font-weight: bold }
.seeds { font-size: 80% }
dt { font-weight: bold } dd { margin: 0 0 .3em 1.5em }
"""


def markdown(table: Table, whole: bool = True) -> str:
    """The table with its notes; `whole` adds the list of runs and the provenance."""
    head, rule = ["network"], ["---"]
    for column in table.profile.columns:
        head += [column.label, *table.profile.beside]
        rule += ["---:"] * 3
    lines = [f"# {table.profile.title}", "", _row(head), _row(rule)]
    for entries in _rows(table):
        texts = [entries[0].row.label]
        for entry in entries:
            value, *beside = cells(entry, table.profile.comparable)
            texts += [_linked(value, entry.runs), *beside]
        lines.append(_row(texts))
    lines += ["", *(line for note in notes(table) for line in (as_markdown(note), ""))]
    if whole:
        lines += [*_runs(table), "## Provenance", ""]
        lines += [f"- {what}: {as_markdown(fact)}" for what, fact in table.provenance.items()] + [""]
    return "\n".join(lines)


def comma_separated(table: Table) -> str:
    """One line for each number of the table, unrounded, in percent; empty where nothing was run."""
    lines = []
    for entry in table.entries:
        for name, score in (("mAP", entry.mAP), ("rank-1", entry.rank_1)):
            compared = score.difference is not None
            lines.append(
                {
                    "backbone": entry.row.backbone,
                    "reranked": str(entry.row.reranked).lower(),
                    "dataset": entry.column.dataset,
                    "score": name,
                    "measured": _number(score.mean),
                    "spread": _number(score.spread),
                    "low": _number(score.interval[0] if score.interval else None),
                    "high": _number(score.interval[1] if score.interval else None),
                    "seeds": " ".join(str(run.seed) for run in entry.runs),
                    "published": _number(score.published, 1),
                    "difference": _number(score.difference, 1),
                    "tolerance": _number(score.tolerance if compared else None),
                    "outside": str(score.outside).lower() if compared else "",
                    "runs": " ".join(run.run_id for run in entry.runs if run.run_id),
                }
            )
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def html(table: Table) -> str:
    """One page that needs no other file; each measured cell leads to its runs in the MLflow UI."""
    columns = table.profile.columns
    heads = "".join(f'<th colspan="3">{escape(column.label)}</th>' for column in columns)
    kinds = "".join(f"<th>{name}</th>" for name in ("measured", *table.profile.beside)) * len(columns)
    comparable = table.profile.comparable
    body = "\n".join(
        f"<tr><th>{escape(row[0].row.label)}</th>{''.join(_html_cells(one, comparable) for one in row)}</tr>"
        for row in _rows(table)
    )
    state, *rest = notes(table)
    flag = "" if table.complete else ' class="incomplete"'
    paragraphs = f"<p{flag}>{escape(state)}</p>\n" + "\n".join(f"<p>{escape(note)}</p>" for note in rest)
    facts = "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in table.provenance.items())
    title = escape(table.profile.title)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f"<table>\n<thead><tr><th></th>{heads}</tr>\n<tr><th>network</th>{kinds}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n{paragraphs}\n"
        + (f"<h2>Provenance</h2>\n<dl>\n{facts}\n</dl>\n" if facts else "")
        + "</html>\n"
    )


def _rows(table: Table) -> list[list[Entry]]:
    return [table.row(row) for row in dict.fromkeys(entry.row for entry in table.entries)]


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _linked(text: str, runs: tuple[Run, ...]) -> str:
    """With one run the number is its link, with several each seed is."""
    linked = [run for run in runs if run.address]
    if len(runs) == 1 and linked:
        return f"[{text}]({runs[0].address})"
    seeds = ", ".join(f"[{run.seed}]({run.address})" for run in linked)
    return f"{text} (seeds {seeds})" if seeds else text


def _runs(table: Table) -> list[str]:
    if not table.runs:
        return []
    lines = ["## Runs", "", _row(["network", "dataset", "seed", "MLflow run"]), _row(["---"] * 4)]
    for entry in table.entries:
        if not entry.row.reranked:
            for run in entry.runs:
                name = run.run_id or "not sent to the store yet"
                link = f"[{name}]({run.address})" if run.address else name
                lines.append(_row([entry.row.label, entry.column.label, str(run.seed), link]))
    return [*lines, ""]


def _html_cells(entry: Entry, comparable: bool) -> str:
    value, published, difference = (escape(text) for text in cells(entry, comparable))
    linked = [run for run in entry.runs if run.address]
    if len(entry.runs) == 1 and linked:
        value = f'<a href="{escape(str(linked[0].address))}">{value}</a>'
    elif linked:
        seeds = " ".join(f'<a href="{escape(str(run.address))}">{run.seed}</a>' for run in linked)
        value += f' <span class="seeds">seeds {seeds}</span>'
    marked = ABOVE in difference or BELOW in difference
    return (
        f'<td>{value}</td><td class="published">{published}</td>'
        f'<td class="{"outside" if marked else "difference"}">{difference}</td>'
    )


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"
