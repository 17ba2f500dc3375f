"""Telling a run whose embeddings have collapsed to one point: its loss looks calm, and it learns no more."""

from collections.abc import Mapping

#: Spread of the embeddings of a batch (0 to 1) below which they count as collapsed.  Runs that learn lie at
#: 0.99 to 1; batch-hard triplet loss on the raw features of MobileNetV2 fell to 0.06 and scored half.
SMALLEST_SPREAD = 0.1


def collapse(values: Mapping[str, float]) -> str | None:
    """What to say of an epoch's values if its embeddings have collapsed, else None.

    values: as tracked; `train/embedding_std` is the spread of L2-normalised embeddings, mean over the steps.
    """
    spread = values.get("train/embedding_std", 1.0)
    if spread >= SMALLEST_SPREAD:
        return None
    return (
        f"the embeddings have collapsed: their spread within a batch is {spread:.2f} of 1, so that all "
        "people look alike. Features of length 1 for the metric loss (loss.normalise=true), "
        "a lower optimizer.lr or loss.metric_weight, or a longer tricks.warmup are the usual cures"
    )
