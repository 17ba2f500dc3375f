"""The words that every form of the table shares: numbers, differences, marks, notes."""

from experiments.reproduce_table.table import TOLERANCE, Entry, Score, Table

DASH = "—"
ABOVE, BELOW = "▲", "▼"


def measured(score: Score) -> str:
    """`87.0`, with several seeds `87.0 ± 0.3`, a dash where nothing was run."""
    if score.mean is None:
        return DASH
    spread = "" if score.spread is None else f" ± {score.spread:.1f}"
    return f"{score.mean:.1f}{spread}"


def published(score: Score) -> str:
    return DASH if score.published is None else f"{score.published:.1f}"


def difference(score: Score) -> str:
    """`+0.4`, `-1.3 ▼` outside the tolerance, a dash where there is nothing to compare."""
    if score.difference is None:
        return DASH
    mark = (ABOVE if score.difference > 0 else BELOW) if score.outside else ""
    return f"{score.difference:+.1f} {mark}".rstrip()


def interval(score: Score) -> str:
    """`85.1 to 86.9`, a dash with less than two seeds."""
    ends = score.interval
    return DASH if ends is None else f"{ends[0]:.1f} to {ends[1]:.1f}"


def cells(entry: Entry, comparable: bool = True) -> tuple[str, str, str]:
    """Measured, published, difference; each mAP / rank-1, or one dash for both.

    comparable: else measured, the interval of mAP, that of rank-1.
    """

    def both(parts: list[str]) -> str:
        return DASH if set(parts) == {DASH} else " / ".join(parts)

    scores = entry.scores
    found = both([measured(score) for score in scores])
    if not comparable:
        return found, interval(entry.mAP), interval(entry.rank_1)
    return (
        found,
        both([published(score) for score in scores]),
        both([difference(score) for score in scores]),
    )


def notes(table: Table) -> list[str]:
    """What a reader has to know, a sentence or two a line."""
    lines = [table.state()]
    lines += [f"Not finished: {failure}" for failure in table.failures]
    if table.profile.note:
        lines.append(f"{table.profile.note[0].upper()}{table.profile.note[1:]}.")
    lines.append(
        "mAP / rank-1 in %, of each run's last epoch; with several seeds mean ± standard deviation over "
        f"them. {DASH}: not run, or nothing to compare with."
    )
    if not table.profile.comparable:
        lines.append(
            "95 %: the interval of the mean over seeds (Student's t), for these people and these images."
        )
    else:
        lines.append(
            f"Published: by the authors, never measured here. {BELOW} {ABOVE}: below or above it by more "
            f"than {TOLERANCE:.1f} point (with three seeds and more, by more than two standard deviations "
            "where that is larger)."
        )
    return lines
