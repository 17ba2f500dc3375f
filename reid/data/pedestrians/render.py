"""From a shot to pixels."""

from math import pi

import numpy as np
from numpy.typing import NDArray

from reid.data.pedestrians.camera import Camera, draw_cameras, expose
from reid.data.pedestrians.canvas import Light
from reid.data.pedestrians.dice import SCENE, SENSOR, SHOT, Dice, Floats
from reid.data.pedestrians.figure import draw_person
from reid.data.pedestrians.identity import Identity, draw_identities
from reid.data.pedestrians.plan import DOMAINS, PRESETS, DomainName, PresetName, Shot, track_dice
from reid.data.pedestrians.pose import View, walk
from reid.data.pedestrians.scene import draw_occluder, draw_scene

#: Size of a crop, Market-1501's.
HEIGHT, WIDTH = 128, 64
_FINE = 2  # painted larger by this, then averaged down
_SCENE_WIDTH = 1400


class Studio:
    """Everything that the crops of one set share: its people, its cameras and the views behind them."""

    def __init__(self, preset: PresetName, domain: DomainName, seed: int) -> None:
        size, self._domain, self._seed = PRESETS[preset], DOMAINS[domain], seed
        self.people = draw_identities(seed, self._domain, size.people + size.strangers)
        self.cameras = draw_cameras(seed, self._domain, size.cameras)
        self._scenes = [
            draw_scene(camera, HEIGHT * _FINE, _SCENE_WIDTH, Dice(seed, self._domain, SCENE, index))
            for index, camera in enumerate(self.cameras)
        ]

    def render(self, shot: Shot) -> NDArray[np.uint8]:
        """The crop before JPEG, (128, 64, 3) uint8 RGB.  Earlier crops have no part in it."""
        camera = self.cameras[shot.camera]
        track = track_dice(self._seed, self._domain, shot.person, shot.camera)
        dice = Dice(self._seed, self._domain, SHOT, shot.number)
        image = self._background(shot.camera, dice)
        light = Light(camera.side, camera.ambient)
        if dice.chance(0.12):
            self._passer_by(image, camera, light, dice, behind=True)
        if shot.kind != "junk" or dice.chance(0.7):
            view = _view(camera, track, dice, missed=shot.kind == "junk")
            _paint(image, self.people[shot.person], view, light, track, dice)
        if dice.chance(0.10):
            draw_occluder(image, dice)
        elif dice.chance(0.04):
            self._passer_by(image, camera, light, dice, behind=False)
        return expose(_averaged(image), camera, Dice(self._seed, self._domain, SENSOR, shot.number))

    def _background(self, camera: int, dice: Dice) -> Floats:
        left = dice.below(_SCENE_WIDTH - WIDTH * _FINE)
        return self._scenes[camera][:, left : left + WIDTH * _FINE] * np.float32(dice.between(0.92, 1.08))

    def _passer_by(self, image: Floats, camera: Camera, light: Light, dice: Dice, behind: bool) -> None:
        """Somebody else who is partly in the crop, smaller behind the person or larger before them."""
        height, width = image.shape[:2]
        size = dice.between(0.55, 0.8) if behind else dice.between(0.95, 1.1)
        aside = dice.between(-0.05, 0.2) if behind else -0.08
        x = width * dice.pick((aside, 1.0 - aside))
        ground = height * (dice.between(0.68, 0.8) if behind else dice.between(1.0, 1.1))
        view = View(x, ground, height * camera.fill * size, dice.between(0, 2 * pi), camera.pitch)
        _paint(image, self.people[dice.below(len(self.people))], view, light, dice, dice)


def _averaged(image: Floats) -> Floats:
    """Each block of `_FINE` x `_FINE` pixels as one (adding slices is five times faster than a mean)."""
    parts = [image[row::_FINE, column::_FINE] for row in range(_FINE) for column in range(_FINE)]
    return sum(parts[1:], parts[0].copy()) * np.float32(1.0 / len(parts))


def _view(camera: Camera, track: Dice, dice: Dice, missed: bool) -> View:
    """Where a person stands in the crop: the walk's direction, and the error of the box."""
    turn = camera.walk + track.between(-0.6, 0.6) + (pi if track.chance(camera.two_way) else 0.0)
    turn += dice.between(-0.3, 0.3)
    spread = 5.0 if missed else 1.0
    x = WIDTH * _FINE * (0.5 + spread * dice.between(-0.08, 0.08))
    ground = HEIGHT * _FINE * (0.955 + spread * dice.between(-0.035, 0.035))
    scale = HEIGHT * _FINE * camera.fill * (dice.between(1.2, 1.8) if missed else dice.between(0.93, 1.07))
    return View(x, ground, scale, turn, camera.pitch + dice.between(-0.03, 0.03))


def _paint(image: Floats, person: Identity, view: View, light: Light, track: Dice, dice: Dice) -> None:
    vigour = 0.1 if track.chance(0.15) else track.between(0.7, 1.0)
    bones = walk(person, dice.between(0, 2 * pi), vigour, holding=track.chance(0.15))
    draw_person(image, person, bones, view, light)
