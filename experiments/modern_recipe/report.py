"""What the rows say, as the Markdown of the README: nothing stands there that is not in results/cells.csv."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.mean import Mean
from experiments.modern_recipe.plan import Plan, recipe_name, word
from experiments.modern_recipe.search import Decision, Search, Walk
from experiments.modern_recipe.stages import Missing, Study, Variant, paired
from experiments.modern_recipe.table import Row, Table, median_minutes

BEGIN, END = "<!-- results: written by `python -m experiments.modern_recipe report` -->", "<!-- end -->"
NOTHING = "**Nothing is measured yet.** The tables and figures will stand here."
#: The goals, in points of mAP: at the shortest budget, and at the longest.
SHORTEST, LONGEST = 6.0, 3.0
#: What experiment=market_split scores in its 20 epochs; and the share of its time to reach that in.
PUBLISHED_SCORE, HALF = 78.5, 0.5


def write(readme: Path, text: str) -> None:
    """Put the text between the marks of the README.

    Raises:
        ValueError: the marks are not there.
    """
    before, mark, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"{readme} has no {BEGIN} … {END} to write between")
    readme.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")


def markdown(plan: Plan, table: Table, figures: Sequence[str] = ()) -> str:
    """All sections of which there are rows; figures: the names of those that were drawn."""
    if not table.rows:
        return NOTHING
    sections = [
        ("Where it was measured", machines),
        ("The curve: mAP against minutes of training", curve),
        ("The screen", lambda study: screen(study, "screen")),
        ("The screen at full size", lambda study: screen(study, "large")),
        ("Why the lead melts", lambda study: series(study, "melt")),
        ("The ladder", lambda study: series(study, "ladder")),
        ("A second network", lambda study: series(study, "second")),
        ("Away from home", away),
        ("Distillation", lambda study: series(study, "distil")),
        ("The speed run", speedrun),
    ]
    found = []
    study = Study(plan, table, table.rows[-1].cpu)
    for title, section in sections:
        lines = _lines(section, study)
        if lines:
            found.append("\n".join([f"### {title}", "", *lines]))
    for name in figures:
        found.append(f"![{FIGURES[name]}](results/{name})")
    return "\n\n".join(found)


#: The figures that there may be, with what they show.
FIGURES = {
    "curve.png": "mAP over minutes of training of both recipes, each with its interval over the seeds",
    "ladder.png": "mAP of each step of the ladder, with its interval over the seeds",
    "cost.png": "mAP over the latency of one image, for each network of the study",
}


def _lines(section: Callable[[Study], list[str]], study: Study) -> list[str]:
    try:
        return section(study)
    except Missing:  # what it needs is not measured yet
        return []


def machines(study: Study) -> list[str]:
    lines = []
    rows = study.table.rows
    for cpu in dict.fromkeys(row.cpu for row in rows):
        own = [row for row in rows if row.cpu == cpu]
        threads = " or ".join(str(one) for one in sorted({row.threads for row in own}))
        commits = ", ".join(f"`{one[:7]}`" for one in dict.fromkeys(row.commit for row in own))
        trees = ", ".join(f"`{one}`" for one in dict.fromkeys(row.tree for row in own))
        lines.append(
            f"{len(own)} cells on {cpu}, {threads} threads, torch "
            f"{', '.join(dict.fromkeys(row.torch for row in own))}; commits {commits}; trees {trees}."
        )
    spent = sum(row.minutes or row.train_minutes or 0 for row in rows)
    lines += [
        "",
        f"{spent / 60:.1f} hours in all. Each row of `results/cells.csv` has its command and commit.",
    ]
    return lines


# ---- the curve


def curve(study: Study) -> list[str]:
    """Both recipes at each budget, their difference paired by seed, and the goals."""
    lines = [
        "| budget, minutes | published: minutes, epochs | mAP | rank-1 | winner: minutes, epochs | mAP "
        "| rank-1 | difference in mAP | at equal time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    seeds = len(study.plan.section("curve")["seeds"])
    found = {
        budget.minutes: paired(study.table, *zip(*budget.pairs, strict=True)) for budget in study.curve()
    }
    found = {minutes: pairs for minutes, pairs in found.items() if pairs}
    leads: dict[float, Mean] = {}
    for minutes, pairs in found.items():
        cells = [f"{minutes:g}"]
        for rows in zip(*pairs, strict=True):
            cells += [f"{median_minutes(rows):.1f}, {rows[0].epochs}", str(_mAP(rows)), str(_rank_1(rows))]
        cells.append(_of_seeds(_lead(pairs).signed(), len(pairs), seeds))
        equal = equal_time_leads(found, minutes)
        if equal:
            leads[minutes] = Mean.of(equal)
        cells.append(_of_seeds(leads[minutes].signed(), len(equal), seeds) if equal else "")
        lines.append(f"| {' | '.join(cells)} |")
    if not found:
        return []
    lines += [
        "",
        "Mean ± half of the 95 % interval (Student's t over the seeds; differences paired by seed, both runs "
        "on one model of CPU). All on `test`, judged once, after the last epoch. Whole epochs do not fill a "
        "budget, and most of the winner's runs were the longer ones. So the last column compares with what "
        "the published recipe has in the winner's minutes, by a line between its runs of the same seed over "
        "the logarithm of their minutes. The goals are judged by it.",
        "",
        *goals(leads, study.minutes(), seeds),
    ]
    return lines


def equal_time_leads(found: Mapping[float, Sequence[tuple[Row, Row]]], minutes: float) -> list[float]:
    """Of each seed: the winner's mAP at a budget, less the published recipe's after the same minutes.

    found: by budget, the pairs (published, winner). Minutes are medians over the seeds. The published recipe
    has runs on both sides of the winner's time, or else the two nearest ones are drawn on.
    """
    times = {
        budget: [median_minutes(rows) for rows in zip(*pairs, strict=True)]
        for budget, pairs in found.items()
    }  # fmt: skip
    leads = []
    for published, winner in found[minutes]:
        known = [
            (math.log(times[budget][0]), one.mAP)
            for budget, pairs in sorted(found.items())
            for one, _ in pairs
            if one.seed == published.seed
        ]
        at = math.log(times[minutes][1])
        after = sum(time < at for time, _ in known)
        if len(known) < 2 or (after == len(known) and minutes < max(found)):
            continue  # the run on the other side is not measured yet
        place = min(max(after, 1), len(known) - 1)
        (before, low), (behind, high) = known[place - 1], known[place]
        leads.append(winner.mAP - (low + (high - low) * (at - before) / (behind - before)))
    return leads


def _of_seeds(text: str, count: int, wanted: int) -> str:
    """What is the mean of fewer seeds than the plan has says so."""
    return text if count == wanted else f"{text} ({count} of {wanted} seeds)"


def goals(leads: dict[float, Mean], budgets: Sequence[float], seeds: int) -> list[str]:
    """Whether each goal of the curve is reached, in words; what is not measured with all seeds is said to be
    so."""
    leads = {minutes: lead for minutes, lead in leads.items() if lead.count == seeds > 1}

    def verdict(goal: str, reached: bool | None, facts: str) -> str:
        word = "not measured yet" if reached is None else "reached" if reached else "**missed**"
        return f"- {goal}: {word}{f' ({facts})' if facts else ''}."

    ahead = [
        minutes for minutes in budgets if minutes in leads and leads[minutes].value > leads[minutes].half
    ]
    behind = [minutes for minutes in budgets if minutes in leads and minutes not in ahead]
    whole = len(leads) == len(budgets)
    lines = [
        verdict(
            "Ahead at every budget by more than the interval",
            None if not whole and not behind else not behind,
            f"not at {', '.join(f'{one:g}' for one in behind)} minutes" if behind else "",
        )
    ]
    for name, minutes, points in (("shortest", min(budgets), SHORTEST), ("longest", max(budgets), LONGEST)):
        lead = leads.get(minutes)
        lines.append(
            verdict(
                f"At least {points:g} points at the {name} budget",
                None if lead is None else lead.value >= points,
                "" if lead is None else lead.signed(),
            )
        )
    return lines


# ---- screens


def screen(study: Study, name: str) -> list[str]:
    """Each key alone, and the decisions in their order."""
    if not study.plan.sections.get(name):
        return []
    search = study.search(name)
    found = study.walk(name)
    if not found.alone:
        return []
    base = search.cell(study.plan, search.base, search.seeds[0])
    rows = study.table.together([base], study.cpu)
    assert rows is not None
    lines = [
        f"{recipe_name(search.base)} at {search.size}, {rows[0].epochs} epochs, on `{search.split}`: mAP "
        f"{rows[0].mAP:.1f} with seed {search.seeds[0]}.",
        "",
        "| key | what it sets | alone | on the best so far | kept |",
        "|---|---|---|---|---|",
    ]
    decided = {decision.key: decision for decision in found.decisions}
    order = [*decided, *(key for key in search.keys if key not in decided)]
    for key in order:
        alone = f"{found.alone[key]:+.1f}" if key in found.alone else "not run"
        decision = decided.get(key)
        then, kept = "", "left out" if key in found.alone and found.alone[key] <= -search.hopeless else ""
        if decision is not None:
            then = Mean.of(decision.leads).signed() + f" ({len(decision.leads)} seeds)" * (
                len(decision.leads) > 1
            )
            known = _leads(study, search, decision)
            if len(known) > len(decision.leads):  # other decisions needed these runs
                then += f" by one seed; {Mean.of(known).signed()} ({len(known)} seeds)"
            kept = "**yes**" if decision.kept else "no"
        epochs = search.length(study.plan.add(search.base, key)) if key in found.alone else rows[0].epochs
        longer = f", {epochs} epochs" if epochs != rows[0].epochs else ""
        lines.append(f"| {key} | `{_set(study.plan, key)}`{longer} | {alone} | {then} | {kept} |")
    return [*lines, "", conclusion(search.stage, found)]


def _leads(study: Study, search: Search, decision: Decision) -> list[float]:
    """The leads of all seeds that there are, beside those that decided."""
    keys = study.plan.add(decision.against, decision.key)
    cells = ([search.cell(study.plan, recipe, seed) for recipe in (decision.against, keys)]
             for seed in search.seeds)  # fmt: skip
    pairs = [study.table.together(pair, study.cpu) for pair in cells]
    return [rows[1].mAP - rows[0].mAP for rows in pairs if rows is not None]


def conclusion(stage: str, found: Walk) -> str:
    if found.missing:
        what = "search at full size" if stage == "large" else stage
        return f"This {what} is not complete: {len(found.missing)} cells are needed for the next decision."
    return f"Kept: {recipe_name(found.keys)}."


def _set(plan: Plan, name: str) -> str:
    key = plan.key(name)
    values = {one: word(value) for one, value in key.values.items()}
    shares = {one: f"{share} of the epochs" for one, share in key.shares.items() if share is not None}
    return " ".join(f"{one}={value}" for one, value in {**values, **shares}.items())


# ---- series


def series(study: Study, stage: str) -> list[str]:
    """A line a variant: its scores, and the difference from the line that it is compared with."""
    if not study.plan.sections.get(stage):
        return []
    variants = {variant.name: variant for variant in study.series(stage)}
    lines = []
    for variant in variants.values():
        rows = _rows(study, variant)
        if not rows:
            continue
        other = variants.get(variant.against)
        pairs = paired(study.table, other.cells, variant.cells) if other else []
        seeds, difference = len(variant.cells), ""
        if pairs:
            difference = f"{_of_seeds(_lead(pairs).signed(), len(pairs), seeds)} to {variant.against}"
        score = _of_seeds(str(_mAP(rows)), len(rows), seeds)
        accuracy = Mean.of([row.accuracy or 0 for row in rows]).value
        lines.append(
            f"| {variant.name} | {rows[0].split} | {rows[0].epochs} | {median_minutes(rows):.1f} | {score} | "
            f"{_rank_1(rows)} | {accuracy:.1f} | {_mean_loss(rows)} | {difference} |"
        )
    if not lines:
        return []
    return [
        "| recipe | judged on | epochs | minutes of training | mAP | rank-1 | training accuracy "
        "| training loss | difference in mAP |",
        "|---|---|---|---|---|---|---|---|---|",
        *lines,
        "",
        "Training accuracy (%) and cross entropy are those of the last epoch, on augmented batches.",
    ]


def speedrun(study: Study) -> list[str]:
    """The series, and whether the speed run reaches the published score in half of the published time."""
    lines = series(study, "speedrun")
    if not lines:
        return []
    published, ours = (_rows(study, variant) for variant in study.series("speedrun")[:2])
    pairs = [(one, other) for one, other in zip(published, ours, strict=False) if one.cpu == other.cpu]
    if len(pairs) < len(study.plan.section("speedrun")["seeds"]):
        return [*lines, "", "- Published score in half of its time: not measured yet."]
    score = _mAP(ours)
    share = Mean.of([second.train_minutes / first.train_minutes for first, second in pairs
                     if first.train_minutes and second.train_minutes])  # fmt: skip
    reached = score.value >= PUBLISHED_SCORE and share.value <= HALF
    verdict = "reached" if reached else "**missed**"
    facts = f"mAP {score} in {100 * share.value:.0f} % of the published recipe's time"
    return [
        *lines,
        "",
        f"- mAP {PUBLISHED_SCORE} in half of the published recipe's time: {verdict} ({facts}).",
    ]


def _rows(study: Study, variant: Variant) -> list[Row]:
    found = (study.table.together([cell], study.cpu) for cell in variant.cells)
    return [rows[0] for rows in found if rows is not None]


def away(study: Study) -> list[str]:
    lines = []
    for dataset, pairs in study.away().items():
        found = paired(study.table, *zip(*pairs, strict=True))
        if found:
            published, winner = zip(*found, strict=True)
            lines.append(
                f"| {dataset} | {_mAP(published)} | {_rank_1(published)} | {_mAP(winner)} | "
                f"{_rank_1(winner)} | {_lead(found).signed()} |"
            )
    if not lines:
        return []
    return [
        "| judged on | published: mAP | rank-1 | winner: mAP | rank-1 | difference in mAP |",
        "|---|---|---|---|---|---|",
        *lines,
    ]


def _lead(pairs: Sequence[tuple[Row, Row]]) -> Mean:
    return Mean.of([second.mAP - first.mAP for first, second in pairs])


def _mAP(rows: Sequence[Row]) -> Mean:
    return Mean.of([row.mAP for row in rows])


def _rank_1(rows: Sequence[Row]) -> Mean:
    return Mean.of([row.rank_1 for row in rows])


def _mean_loss(rows: Sequence[Row]) -> str:
    losses = [row.id_loss for row in rows if row.id_loss is not None]
    return f"{Mean.of(losses).value:.2f}" if losses else ""
