"""Which gallery images count for a query.

`cross_camera` is the protocol of Market-1501 (Zheng et al., ICCV 2015): gallery images of the
query's pid and camera are junk and are left out of its ranking. `ignore_camera` leaves nothing
else out, for data with a single camera or without camera ids; query and gallery must then share no
image, for an image would find itself. Under both, the frames of the query's own tracklet are junk: they
show the same moment, and finding them says nothing. A distractor matches nobody: those who bear its pid are
not one person.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reid.errors import UsageError
from reid.people import DISTRACTOR, NO_TRACKLET

PROTOCOLS = ("cross_camera", "ignore_camera")


class EvaluationError(UsageError, ValueError):
    """The wanted scores do not exist; the message has the reason and what to do."""


class NonFiniteFeaturesError(EvaluationError):
    """Features hold NaN or infinity, as those of a model that diverged do."""


@dataclass(frozen=True, eq=False)
class MatchCounts:
    """How many gallery images show the person of each query.

    Attributes:
        total: (Q,) int64, gallery images of the query's person; 0 for a distractor.
        usable: (Q,) int64, those of them that the protocol keeps.
        distractors: how many queries are distractors.
    """

    total: Tensor
    usable: Tensor
    distractors: int = 0


def check_protocol(protocol: str) -> None:
    """Raise ValueError unless `protocol` is one of PROTOCOLS."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; allowed: {', '.join(PROTOCOLS)}")


def count_matches(
    query_pids: Tensor,
    query_camids: Tensor,
    gallery_pids: Tensor,
    gallery_camids: Tensor,
    protocol: str = "cross_camera",
    distractor: int | None = DISTRACTOR,
    query_tracklets: Tensor | None = None,
    gallery_tracklets: Tensor | None = None,
) -> MatchCounts:
    """Count the matches of each query from ids alone, before any feature exists.

    Args:
        query_pids, query_camids: (Q,) int64.
        gallery_pids, gallery_camids: (G,) int64.
        protocol: "cross_camera" or "ignore_camera".
        distractor: the pid of distractors; None: all pids are people.
        query_tracklets, gallery_tracklets: (Q,) and (G,) int64, -1 for an image of none; None: there are
        none.

    Raises:
        ValueError: unknown protocol.
    """
    check_protocol(protocol)
    pids, pid = torch.unique(torch.cat([query_pids, gallery_pids]), return_inverse=True)
    person = torch.ones_like(query_pids) if distractor is None else (query_pids != distractor).long()
    distractors = len(person) - int(person.sum())
    queries = len(query_pids)
    total = _occurrences(pid, queries, len(pids)) * person
    if query_tracklets is None or gallery_tracklets is None:
        tracklet = None
    else:
        tracklet = torch.unique(torch.cat([query_tracklets, gallery_tracklets]), return_inverse=True)[1]
    if protocol == "ignore_camera" and tracklet is None:
        return MatchCounts(total, total, distractors)
    camid = torch.unique(torch.cat([query_camids, gallery_camids]), return_inverse=True)[1]
    junk = torch.zeros_like(total)
    if protocol == "cross_camera":
        junk += _alike([pid, camid], queries)
    if tracklet is not None and query_tracklets is not None:
        framed = (query_tracklets != NO_TRACKLET).long()
        junk += _alike([pid, tracklet], queries) * framed
        if protocol == "cross_camera":  # those were counted twice
            junk -= _alike([pid, camid, tracklet], queries) * framed
    return MatchCounts(total, total - junk * person, distractors)


def require_matches(counts: MatchCounts, protocol: str = "cross_camera") -> None:
    """Raise EvaluationError, with the reason and the remedy, when no query has a usable match."""
    queries = len(counts.total)
    if queries == 0:
        raise EvaluationError("there is no query image; at least one is needed")
    if bool((counts.usable > 0).any()):
        return
    absent = int((counts.total == 0).sum()) - counts.distractors
    same_camera = queries - absent - counts.distractors
    reasons, remedies = [], []
    if absent:
        reasons.append(f"the pid of {absent} is not in the gallery at all")
        remedies.append("query and gallery must show the same people: check how the data was split")
    if counts.distractors:
        reasons.append(f"{counts.distractors} bear pid 0 and are distractors, whom nobody looks for")
        remedies.append(
            "if 0 is a person, set dataset.distractor=null for data of your own, or count people from 1"
        )
    if same_camera and protocol == "ignore_camera":
        reasons.append(f"{same_camera} are matched only by frames of their own tracklet, which are left out")
        remedies.append("give more than one tracklet of a person, or leave the tracklets out")
    elif same_camera:
        reasons.append(f"{same_camera} are matched only by images of their own camera, which are left out")
        remedies.append(
            "if the data has one camera or no camera ids, use eval.protocol=ignore_camera; otherwise check "
            "that camera ids are read from the file names"
        )
    raise EvaluationError(
        f"none of the {queries} queries has a match under the protocol {protocol}: "
        f"{'; '.join(reasons)}. {'; '.join(remedies).capitalize()}."
    )


def _alike(labels: list[Tensor], queries: int) -> Tensor:
    """How many gallery images agree with each query, which come first, in all of these labels, from 0
    each."""
    joint = labels[0]
    if len(joint) == 0:
        return joint
    for more in labels[1:]:
        joint = torch.unique(joint * (int(more.max()) + 1) + more, return_inverse=True)[1]
    return _occurrences(joint, queries, int(joint.max()) + 1)


def _occurrences(labels: Tensor, queries: int, distinct: int) -> Tensor:
    """How often the label of each query, which come first, stands among the gallery's; labels < distinct."""
    return torch.bincount(labels[queries:], minlength=distinct)[labels[:queries]]
