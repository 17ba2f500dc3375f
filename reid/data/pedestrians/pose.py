"""How a person stands in one crop: a walking skeleton, and its projection into the crop."""

from dataclasses import dataclass
from math import cos, pi, sin, sqrt

from reid.data.pedestrians.identity import Identity

#: A point of the body: across (towards the person's left), up from the ground, and forward.  Unit: the
#: height of an average adult.
Point = tuple[float, float, float]
Pixel = tuple[float, float]


@dataclass(frozen=True)
class View:
    """Where the person stands in the crop and how the camera looks at them.

    Attributes:
        x, ground: pixel of the point between the feet.
        scale: pixels that the height of an average adult takes.
        turn: angle of the body in radians: 0 faces the camera, pi / 2 walks to the right, pi walks away.
        pitch: how far the camera looks down, in radians.
    """

    x: float
    ground: float
    scale: float
    turn: float
    pitch: float

    @property
    def facing(self) -> float:
        """1 when the person faces the camera, -1 when seen from behind."""
        return cos(self.turn)

    @property
    def heading(self) -> float:
        """1 when the person walks to the right, -1 to the left."""
        return sin(self.turn)

    def depth(self, point: Point) -> float:
        """How much nearer to the camera than the body's axis."""
        return point[2] * self.facing - point[0] * self.heading

    def zoom(self, height: float) -> float:
        """Pixels a unit at that height: a camera that looks down sees the head larger than the feet."""
        return self.scale * (1.0 + 0.55 * sin(self.pitch) * (height - 0.5))

    def pixel(self, point: Point) -> Pixel:
        """The point (x, y) in the crop."""
        across = point[0] * self.facing + point[2] * self.heading
        down = self.depth(point) * sin(self.pitch) - point[1] * cos(self.pitch)
        return self.x + self.zoom(point[1]) * across, self.ground + self.scale * down

    def width(self, broad: float, deep: float, height: float) -> float:
        """Half width in pixels of a round part with these half axes, as seen at this turn."""
        seen = sqrt((broad * self.facing) ** 2 + (deep * self.heading) ** 2)
        return seen * self.zoom(height)


@dataclass(frozen=True)
class Limb:
    """Three joints of an arm or a leg, top to bottom, and where the hand or foot ends."""

    top: Point
    middle: Point
    low: Point
    tip: Point


@dataclass(frozen=True)
class Skeleton:
    """A person at one instant.  `legs` and `arms` are (right, left); levels are heights of the trunk."""

    legs: tuple[Limb, Limb]
    arms: tuple[Limb, Limb]
    hip: float
    shoulder: float
    head: float


def walk(person: Identity, phase: float, vigour: float, holding: bool) -> Skeleton:
    """The skeleton at `phase` (radians) of a stride.

    `vigour` runs from 0, standing, to 1, a full stride; `holding` bends the left arm, as with a phone.
    """
    tall = person.height
    leg = 0.475 * person.legs * tall
    swings = [0.42 * person.stride * vigour * sin(phase + side * pi) for side in (0, 1)]
    bends = [0.08 + vigour * 0.6 * max(0.0, sin(phase + side * pi + 1.9)) for side in (0, 1)]
    reach = [_hang(leg * 0.52, a) + _hang(leg * 0.48, a - b) for a, b in zip(swings, bends, strict=True)]
    ankle = 0.035 * tall
    hip = max(reach) + ankle
    shoulder = hip + 0.315 * tall
    legs, arms = [], []
    for side, (swing, bend) in enumerate(zip(swings, bends, strict=True)):
        x = (0.052 if side else -0.052) * person.build
        knee = _down((x, hip, 0.0), leg * 0.52, swing)
        low = _down(knee, leg * 0.48, swing - bend)
        tilt = 0.6 * max(0.0, bend - swing) * vigour
        legs.append(Limb((x, hip, 0.0), knee, low, _down(low, 0.085 * tall, pi / 2 - 0.35 - tilt)))
    for side, swing in enumerate(swings):
        out = 0.110 * person.shoulders * (0.7 + 0.3 * person.build)
        x = out if side else -out
        arm = -0.75 * swing
        top = (x, shoulder - 0.030 * tall, 0.0)
        elbow = _down(top, 0.165 * tall, arm if not (holding and side) else 0.25)
        elbow = (elbow[0] * 1.12, elbow[1], elbow[2])
        fore = arm + 0.25 + 0.2 * vigour if not (holding and side) else 1.9
        hand = _down(elbow, 0.15 * tall, fore)
        arms.append(Limb(top, elbow, hand, _down(hand, 0.035 * tall, fore)))
    return Skeleton((legs[0], legs[1]), (arms[0], arms[1]), hip, shoulder, shoulder + 0.115 * tall)


def _hang(length: float, angle: float) -> float:
    return length * cos(angle)


def _down(point: Point, length: float, angle: float) -> Point:
    """From a joint along a bone that hangs down, swung forward by `angle`."""
    return point[0], point[1] - length * cos(angle), point[2] + length * sin(angle)
