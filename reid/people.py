"""Who counts as a person: what the pids below 1 mean, the same in labels, pairs, rankings and training."""

from typing import Any

#: An image of nobody who is looked for.  It stays in the gallery and is an impostor to everybody; nobody's
#: match is it, not even that of another distractor; it is no query, and nothing is trained on it.
DISTRACTOR = 0

#: Stands in a tensor of tracklets for an image that is a frame of none.
NO_TRACKLET = -1

#: A crop that shows no person, as detectors make them.  The readers count it and leave it out.
JUNK = -1


def is_person(pids: Any) -> Any:
    """Whether `pids`, one number or a tensor or array of them, stand for people: bool, of the same shape."""
    return pids > DISTRACTOR
