"""Which crops a drawn dataset has: who, by which camera, in which folder, under which name."""

from dataclasses import dataclass
from typing import Literal

from reid.data.pedestrians.dice import PLAN, TRACK, Dice

PresetName = Literal["tiny", "small"]
DomainName = Literal["day", "night"]
#: Domains share nothing: each has its own people and cameras.
DOMAINS: dict[str, int] = {"day": 0, "night": 1}
#: Changed whenever the same seed would give other names or pixels, so that an old drawing is noticed.
DRAWING = 1

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


@dataclass(frozen=True)
class Preset:
    """How large a drawn dataset is.

    Attributes:
        train_people, test_people: identities to train and to test on.
        cameras: how many there are.
        views: fewest and most cameras that see a person to train on; who is tested is seen by all of them.
        crops: fewest and most crops of a person by one camera.
        strangers: people among the distractors.
        junk: crops whose box missed.
    """

    train_people: int
    test_people: int
    cameras: int
    views: tuple[int, int]
    crops: tuple[int, int]
    strangers: int
    junk: int

    @property
    def people(self) -> int:
        """Everybody who has a name; strangers come after."""
        return self.train_people + self.test_people


PRESETS: dict[str, Preset] = {
    "tiny": Preset(12, 6, 3, views=(2, 3), crops=(2, 3), strangers=3, junk=4),
    "small": Preset(180, 60, 4, views=(3, 4), crops=(3, 5), strangers=40, junk=30),
}

Kind = Literal["person", "stranger", "junk"]


@dataclass(frozen=True)
class Shot:
    """One crop to draw.  `person` counts everybody from 0, `camera` too; `number` is unique in the set."""

    folder: str
    name: str
    kind: Kind
    person: int
    camera: int
    number: int


def plan(preset: PresetName, domain: DomainName, seed: int) -> tuple[Shot, ...]:
    """Every crop of the set, in a fixed order."""
    size, place = PRESETS[preset], DOMAINS[domain]
    shots: list[Shot] = []

    def add(folder: str, kind: Kind, pid: str, person: int, camera: int, frame: int, box: int) -> None:
        name = f"{pid}_c{camera + 1}s1_{frame:06d}_{box:02d}.jpg"
        shots.append(Shot(folder, name, kind, person, camera, len(shots)))

    for person in range(size.people):
        dice = Dice(seed, place, PLAN, person)
        trains = person < size.train_people
        views = size.views[0] + dice.below(size.views[1] - size.views[0] + 1) if trains else size.cameras
        for camera in sorted(dice.sample(size.cameras, views)):
            frame = dice.below(90_000)
            for index in range(size.crops[0] + dice.below(size.crops[1] - size.crops[0] + 1)):
                folder = TRAIN if trains else GALLERY if index else QUERY
                add(folder, "person", f"{person + 1:04d}", person, camera, frame, 1)
                frame += 4 + dice.below(20)
    for index in range(size.strangers):
        person = size.people + index
        dice = Dice(seed, place, PLAN, person)
        for box in range(1, 3):
            camera, frame = dice.below(size.cameras), index * 100 + dice.below(100)
            add(GALLERY, "stranger", "0000", person, camera, frame, box)
    for index in range(size.junk):
        dice = Dice(seed, place, PLAN, size.people + size.strangers, index)
        person, camera = dice.below(size.people), dice.below(size.cameras)
        add(GALLERY, "junk", "-1", person, camera, index * 100 + dice.below(100), 1)
    return tuple(shots)


def track_dice(seed: int, domain: int, person: int, camera: int) -> Dice:
    """Choices that the crops of one person by one camera share: they come from one walk past it."""
    return Dice(seed, domain, TRACK, person, camera)
