"""Drawn features with the spread of a trained network's, in the counts of the public sets.

An identity is a point of a space of `LATENT` dimensions, an image lies near its identity: nearer or farther,
since some images are hard (blurred, cut, occluded). A fixed random matrix maps that space to the features'
dimensions, some isotropic noise fills the rest, and rows are scaled to length 1. `SPREAD` is such that the
drawn Market-1501 scores about what the published networks score on the real one; the benchmarks report the
mAP of what they drew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid.retrieval import Embeddings

LATENT = 64
#: Distance of an image from its identity over that of identities from their mean: median, and the standard
#: deviation of its logarithm.
SPREAD, HARDNESS = 0.8, 0.45
NOISE = 0.2
CHUNK = 4096
#: Embeddings that are taken for images of the same person, when real ones are repeated with noise.
ALIKE = 5

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """How many images, people, cameras, dimensions; `distractors` of the gallery show `strangers`, whom no
    query shows (pid 0)."""

    queries: int
    gallery: int
    identities: int
    cameras: int
    dimensions: int
    distractors: int = 0
    strangers: int = 1

    def part(self, fraction: float) -> Scale:
        """The same with a fraction of the images and of the people."""
        queries, gallery, identities, distractors = (
            round(fraction * count)
            for count in (self.queries, self.gallery, self.identities, self.distractors)
        )
        return Scale(queries, gallery, identities, self.cameras, self.dimensions, distractors, self.strangers)


def size(scale: Scale) -> str:
    """How a case of this scale is called."""
    return f"{scale.queries:,} x {scale.gallery:,} x {scale.dimensions:,}"


def market(dimensions: int) -> Scale:
    """Market-1501: 750 people, 2,798 of the gallery's images are distractors."""
    return Scale(3_368, 15_913, 750, 6, dimensions, 2_798, 2_798)


def msmt17(dimensions: int) -> Scale:
    """MSMT17's test half."""
    return Scale(11_659, 82_161, 3_060, 15, dimensions)


def draw(scale: Scale, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """Query and gallery, the same for the same seed; memory beyond the result is a few MiB."""
    generator = torch.Generator().manual_seed(seed)
    people = scale.identities + scale.strangers
    centres = torch.randn(people, LATENT, generator=generator)
    to_features = torch.randn(LATENT, scale.dimensions, generator=generator) / LATENT**0.5
    query_people = torch.randint(scale.identities, (scale.queries,), generator=generator)
    known = torch.randint(scale.identities, (scale.gallery - scale.distractors,), generator=generator)
    strange = torch.randint(scale.identities, people, (scale.distractors,), generator=generator)
    gallery_people = torch.cat([known, strange])
    gallery_people = gallery_people[torch.randperm(scale.gallery, generator=generator)]
    query, gallery = (
        Embeddings(
            _features(of, centres, to_features, generator),
            torch.where(of < scale.identities, of + 1, 0),
            torch.randint(scale.cameras, (len(of),), generator=generator),
        )
        for of in (query_people, gallery_people)
    )
    return query, gallery


def repeat_with_noise(embeddings: Floats, out: Floats, generator: np.random.Generator) -> Integers:
    """Fill `out` (n, C) with embeddings (N, C), each drawn at random and moved as embeddings differ.

    A row is moved by a fifth to four fifths of the difference between some image and one of its `ALIKE`
    nearest others, so that the noise has the directions in which images of one person differ, and by a
    little isotropic noise. Rows have length 1, if the embeddings have. Returns which embedding each row was
    drawn from, (n,).
    """
    import faiss  # only here: the benchmarks that draw all do without

    _, near = faiss.knn(embeddings, embeddings, 1 + ALIKE)
    unit = bool(np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3))
    little = 0.1 * float(embeddings.std(axis=0).mean())
    origins = generator.integers(len(embeddings), size=len(out))
    for start in range(0, len(out), CHUNK):
        part = out[start : start + CHUNK]
        count = len(part)
        first = generator.integers(len(embeddings), size=count)
        second = near[first, generator.integers(1, near.shape[1], size=count)]
        much = generator.uniform(0.2, 0.8, (count, 1)).astype(np.float32)
        part[:] = embeddings[origins[start : start + CHUNK]]
        part += much * (embeddings[first] - embeddings[second])
        part += little * generator.standard_normal(part.shape, np.float32)
        if unit:
            part /= np.linalg.norm(part, axis=1, keepdims=True)
    return origins


def _features(people: Tensor, centres: Tensor, to_features: Tensor, generator: torch.Generator) -> Tensor:
    features = torch.empty(len(people), to_features.shape[1])
    for of, part in zip(people.split(CHUNK), features.split(CHUNK), strict=True):
        spread = SPREAD * torch.exp(HARDNESS * torch.randn(len(of), 1, generator=generator))
        latent = centres[of] + spread * torch.randn(len(of), LATENT, generator=generator)
        part.normal_(generator=generator).mul_(NOISE).addmm_(latent, to_features)
        part.div_(part.norm(dim=1, keepdim=True))
    return features
