"""What stands behind people: for each camera a wide view that its crops cut their backgrounds from."""

from math import pi

import numpy as np

from reid.data.pedestrians.camera import Camera
from reid.data.pedestrians.canvas import Light, column, disc, limb, plain, soft
from reid.data.pedestrians.dice import Dice, Floats
from reid.data.pedestrians.identity import Colour

WALLS: tuple[Colour, ...] = (
    (0.55, 0.36, 0.28),
    (0.62, 0.60, 0.55),
    (0.35, 0.42, 0.46),
    (0.70, 0.62, 0.48),
    (0.28, 0.30, 0.30),
)
PAVING: tuple[Colour, ...] = ((0.52, 0.51, 0.50), (0.36, 0.36, 0.38), (0.60, 0.55, 0.47), (0.44, 0.42, 0.44))
ASPHALT: Colour = (0.36, 0.36, 0.38)
GRAVEL: Colour = (0.60, 0.55, 0.47)
BINS: tuple[Colour, ...] = ((0.15, 0.30, 0.20), (0.25, 0.25, 0.28), (0.10, 0.20, 0.40))
BOLLARDS: tuple[Colour, ...] = ((0.75, 0.60, 0.10), (0.20, 0.20, 0.22), (0.60, 0.15, 0.12))
GRASS: Colour = (0.30, 0.42, 0.18)
LEAVES: Colour = (0.20, 0.33, 0.15)
CAR_COLOURS: tuple[Colour, ...] = (
    (0.65, 0.10, 0.10),
    (0.75, 0.75, 0.77),
    (0.12, 0.14, 0.20),
    (0.20, 0.35, 0.60),
    (0.85, 0.85, 0.83),
)

#: Kinds of scene, by `Camera.scenery`.
KINDS = ("brick", "lawn", "shops", "road", "fence")


def draw_scene(camera: Camera, height: int, width: int, dice: Dice) -> Floats:
    """A view `width` pixels wide: wall, hedge or shop windows above the horizon line, ground below it.

    Returns (height, width, 3) float32 of display values in 0..1.  The more the camera looks down, the more
    ground there is.
    """
    name = KINDS[camera.scenery]
    horizon = int(height * (0.62 - 0.9 * camera.pitch))
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
    image = np.empty((height, width, 3), np.float32)
    image[:] = np.array(dice.pick(WALLS), np.float32)
    mottle = smooth_noise(dice, height, width, 9) * 0.6 + smooth_noise(dice, height, width, 3) * 0.4
    patches = smooth_noise(dice, height, width, 40)
    if name == "brick":
        image *= (1.0 - 0.28 * _bricks(x, y))[..., None]
    elif name == "lawn":
        image[:] = np.array(LEAVES, np.float32)
        image *= (1.0 + 0.45 * mottle)[..., None]
    elif name == "shops":
        _draw_windows(image, horizon, dice)
    elif name == "road":
        image *= (1.0 - 0.15 * soft(np.sin(y * np.float32(2 * pi / 34.0)) - 0.95, 0.1))[..., None]
    else:
        image[:] = np.array(GRASS, np.float32) * 1.1
        bars = soft(np.sin(x * np.float32(2 * pi / 11.0)) - 0.35, 0.5) * soft(y - horizon * 0.3, 3.0)
        rail = np.array((0.25, 0.26, 0.28), np.float32)
        image += bars[..., None] * (rail - image)
    _draw_ground(image, "grass" if name == "lawn" else "road" if name == "road" else "tiles", horizon, dice)
    image *= (1.0 + 0.10 * mottle + 0.14 * patches)[..., None]
    for _ in range(width // 90):
        _draw_clutter(image, horizon, dice)
    return np.clip(image, 0.02, 1.0)


def smooth_noise(dice: Dice, height: int, width: int, cell: int) -> Floats:
    """Value noise in about -1..1 whose blobs are `cell` pixels wide."""
    rows, columns = height // cell + 2, width // cell + 2
    knots = np.clip(dice.grain(rows, columns) * np.float32(0.6), -1.0, 1.0)
    r, c = np.arange(height, dtype=np.float32) / cell, np.arange(width, dtype=np.float32) / cell
    r0, c0 = r.astype(np.intp), c.astype(np.intp)
    fr, fc = (r - r0)[:, None], c - c0
    tall = knots[r0] * (1 - fr) + knots[r0 + 1] * fr
    return tall[:, c0] * (1 - fc) + tall[:, c0 + 1] * fc


def draw_occluder(image: Floats, dice: Dice) -> None:
    """Something between the camera and the person: a post, a bin, or the bonnet of a car."""
    height, width = image.shape[:2]
    light = Light(dice.between(-0.3, 0.3), 0.6)
    kind = dice.pick(("post", "bin", "car"))
    if kind == "post":
        x = width * dice.pick((dice.between(0.05, 0.35), dice.between(0.65, 0.95)))
        half = width * dice.between(0.03, 0.07)
        _column(image, -4, height + 4, x, half, dice.pick(WALLS), light)
    elif kind == "bin":
        x = width * dice.pick((dice.between(0.0, 0.3), dice.between(0.7, 1.0)))
        top = height * dice.between(0.55, 0.75)
        half = width * dice.between(0.15, 0.25)
        _column(image, top, height + 4, x, half, dice.pick(BINS), light)
    else:
        x = width * dice.pick((-0.05, 1.05))
        top = height * dice.between(0.66, 0.8)
        _draw_car(image, x, top, height * 0.4, dice)


def _draw_ground(image: Floats, kind: str, horizon: int, dice: Dice) -> None:
    height, width = image.shape[:2]
    below = image[horizon:]
    rows = height - horizon
    depth = (np.arange(rows, dtype=np.float32)[:, None] + np.float32(4.0)) / np.float32(rows)
    x = np.arange(width, dtype=np.float32)[None, :]
    if kind == "grass":
        below[:] = np.array(GRASS, np.float32)
        path = soft(depth - 0.55, 0.05)
        below += path[..., None] * (np.array(GRAVEL, np.float32) - below)
        return
    below[:] = np.array(dice.pick(PAVING) if kind == "tiles" else ASPHALT, np.float32)
    below *= (0.82 + 0.25 * depth)[..., None]
    if kind == "tiles":
        courses = soft(np.sin(np.float32(26.0) / (depth + 0.25)) - 0.9, 0.15)
        seams = soft(np.sin(x * np.float32(2 * pi / 48.0)) - 0.96, 0.06)
        below *= (1.0 - 0.2 * np.maximum(courses, seams))[..., None]
    else:
        kerb = soft(0.12 - np.abs(depth - 0.2), 0.03)
        below += kerb[..., None] * (np.array((0.66, 0.65, 0.62), np.float32) - below)
        line = soft(0.03 - np.abs(depth - 0.72), 0.02) * soft(np.sin(x * np.float32(2 * pi / 260.0)), 0.1)
        below += line[..., None] * (np.array((0.85, 0.84, 0.80), np.float32) - below)


def _bricks(x: Floats, y: Floats) -> Floats:
    """Mortar: 1 in the joints of a brick wall."""
    course = np.floor(y / np.float32(10.0))
    flat = soft(np.abs(y / np.float32(10.0) - course - 0.5) - 0.42, 0.12)
    run = x / np.float32(24.0) + 0.5 * (course % 2)
    upright = soft(np.abs(run - np.floor(run) - 0.5) - 0.46, 0.06)
    return np.maximum(flat, upright)


def _draw_windows(image: Floats, horizon: int, dice: Dice) -> None:
    width, x = image.shape[1], 0
    while x < width:
        wide = 50 + dice.below(70)
        tint = (dice.between(0.1, 0.5), dice.between(0.2, 0.5), dice.between(0.25, 0.55))
        glass = np.array(tint, np.float32)
        top, bottom = int(horizon * 0.25), int(horizon * 0.92)
        pane = image[top:bottom, x + 6 : x + wide - 6]
        fade = np.linspace(1.25, 0.75, bottom - top, dtype=np.float32)[:, None, None]
        pane[:] = glass * fade
        sign = dice.pick(CAR_COLOURS)
        image[int(horizon * 0.08) : int(horizon * 0.2), x + 4 : x + wide - 4] = np.array(sign, np.float32)
        x += wide


def _draw_clutter(image: Floats, horizon: int, dice: Dice) -> None:
    """A tree, a lamp post, a parked car, a bollard or somebody far away."""
    x = dice.between(0, image.shape[1])
    light = Light(dice.between(-0.3, 0.3), 0.6)
    kind = dice.pick(("tree", "post", "car", "bollard", "passer"))
    if kind == "tree":
        _column(image, 0, horizon + 14, x, dice.between(5, 10), (0.30, 0.22, 0.16), light)
        for _ in range(6):
            size = dice.between(14, 30)
            leaf = tuple(channel * dice.between(0.7, 1.4) for channel in LEAVES)
            at = (x + dice.between(-30, 30), dice.between(-5, horizon * 0.35))
            disc(image, at, (size, size * 0.7), plain((leaf[0], leaf[1], leaf[2])), light)
    elif kind == "post":
        _column(image, -4, horizon + dice.between(5, 30), x, dice.between(2.5, 4), (0.3, 0.32, 0.33), light)
    elif kind == "car":
        _draw_car(image, x, horizon - dice.between(5, 25), dice.between(45, 65), dice)
    elif kind == "bollard":
        foot = horizon + dice.between(10, 50)
        _column(image, foot - 32, foot, x, 4.5, dice.pick(BOLLARDS), light)
    else:
        foot, tall = horizon + dice.between(4, 14), dice.between(38, 56)
        coat, legs = dice.pick(CAR_COLOURS), dice.pick(WALLS)
        for step in (-4, 4):
            limb(image, (x, foot - tall * 0.5), (x + step, foot), (4, 2.5), plain(legs), light)
        limb(image, (x, foot - tall * 0.8), (x, foot - tall * 0.48), (6.5, 6), plain(coat), light)
        disc(image, (x, foot - tall * 0.95), (3.4, 4.4), plain((0.6, 0.45, 0.35)), light)


def _draw_car(image: Floats, x: float, top: float, tall: float, dice: Dice) -> None:
    """A parked car seen from the side."""
    light, paint = Light(0.0, 0.8), plain(dice.pick(CAR_COLOURS))
    long = tall * 1.25
    glass = plain((0.2, 0.25, 0.3))
    body = (top + tall * 0.34, top + tall * 0.6, top + tall * 0.86)
    roof = (top, top + tall * 0.2, top + tall * 0.42)
    column(image, roof, (x, x, x), (long * 0.42, long * 0.6, long * 0.75), paint, light)
    column(image, (roof[0] + tall * 0.07, roof[2]), (x, x), (long * 0.40, long * 0.62), glass, light)
    column(image, body, (x, x, x), (long * 1.02, long * 1.06, long), paint, light)
    tyre, radius = plain((0.06, 0.06, 0.07)), tall * 0.17
    for wheel in (-0.6, 0.6):
        disc(image, (x + wheel * long, top + tall * 0.86), (radius, radius), tyre, None)


def _column(
    image: Floats, top: float, bottom: float, x: float, half: float, colour: Colour, light: Light
) -> None:
    column(image, (top, bottom), (x, x), (half, half), plain(colour), light)
