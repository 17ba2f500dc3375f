"""Heads: a face that looks where the body goes, hair, hats."""

import numpy as np

from reid.data.pedestrians.canvas import Cloth, Light, column, disc, limb, plain, soft
from reid.data.pedestrians.dice import Floats
from reid.data.pedestrians.identity import Colour, Identity
from reid.data.pedestrians.pose import Pixel, Skeleton, View

_HEIGHT, _WIDTH, _LENGTH = 0.074, 0.055, 0.063


def draw_hair_behind(image: Floats, person: Identity, bones: Skeleton, view: View, light: Light) -> None:
    """Hair that falls over the shoulders: painted before the trunk of who faces us, after it otherwise."""
    if person.hair_style not in ("long", "tail"):
        return
    wide = (0.066 if person.hair_style == "long" else 0.024) * person.head
    top, bottom = bones.head, bones.shoulder - (0.055 if person.hair_style == "long" else 0.07)
    back = -0.035 if person.hair_style == "long" else -0.055
    (x0, y0), (x1, y1) = view.pixel((0, top, back)), view.pixel((0, bottom, back - 0.01))
    half = view.width(wide, wide * 0.62, top)
    strands = _strands(person.hair)
    heights, centres = (y0, (y0 + y1) / 2, y1), (x0, (x0 + x1) / 2, x1)
    column(image, heights, centres, (half * 0.9, half, half * 0.75), strands, light)


def draw_head(image: Floats, person: Identity, bones: Skeleton, view: View, light: Light) -> None:
    """Neck, head with hair and face, and the hat."""
    x, y = view.pixel((0, bones.head, 0.012))
    rx = view.width(_WIDTH, _LENGTH, bones.head) * person.head
    ry = _HEIGHT * person.head * view.zoom(bones.head)
    skin = plain(person.skin)
    neck = view.zoom(bones.shoulder) * 0.032
    shaded = Light(light.side, light.ambient * 0.8)
    nape = view.pixel((0, bones.shoulder - 0.01, 0.0))
    limb(image, nape, (x, y + ry * 0.5), (neck * 1.15, neck), skin, shaded)
    if person.hair_style == "bun":
        bx, by = view.pixel((0, bones.head + 0.045, -0.05))
        disc(image, (bx, by), (rx * 0.52, rx * 0.52), _strands(person.hair), light)
    if view.facing > -0.2:
        disc(image, (x + view.heading * rx * 1.0, y + ry * 0.16), (rx * 0.17, ry * 0.13), skin, light)
    disc(image, (x, y), (rx, ry), _face(person, view), light)
    if person.hat != "none":
        _draw_hat(image, person, view, (x, y), (rx, ry), light)


def _draw_hat(
    image: Floats, person: Identity, view: View, at: Pixel, size: tuple[float, float], light: Light
) -> None:
    (x, y), (rx, ry) = at, size
    colour = plain(person.hat_colour)
    if person.hat == "beanie":
        disc(image, (x, y - ry * 0.9), (rx * 0.3, ry * 0.2), colour, light)
    if person.hat == "brim":
        brim = plain(_darker(person.hat_colour))
        disc(image, (x, y - ry * 0.42), (rx * 1.75, ry * (0.16 + 0.5 * view.pitch)), brim, light)
    crown = (y - ry * 1.08, y - ry * 0.8, y - ry * 0.35, y - ry * 0.22)
    column(image, crown, (x, x, x, x), (rx * 0.55, rx * 0.98, rx * 1.08, rx * 1.04), colour, light)
    if person.hat == "cap":
        peak = plain(_darker(person.hat_colour))
        front = (x + view.heading * rx * 0.95, y - ry * 0.26)
        if view.facing > -0.5:
            disc(image, front, (rx * (0.55 + 0.35 * abs(view.facing)), ry * 0.14), peak, light)


def _face(person: Identity, view: View) -> Cloth:
    """Skin, hair where the style has it, eyes and mouth: each at its place on a ball that is turned."""
    skin, hair = np.array(person.skin, np.float32), np.array(person.hair, np.float32)
    facing, heading = np.float32(view.facing), np.float32(view.heading)

    def cloth(across: Floats, along: Floats) -> Floats:
        out = np.sqrt(np.maximum(1.0 - across * across - along * along, 0.0))
        front = across * heading + out * facing
        side = across * facing - out * heading
        colour = np.broadcast_to(skin, (*across.shape, 3)).copy()
        before = soft(front - 0.25, 0.3)
        marks = [(-0.36, -0.02, 0.17, 0.12), (0.36, -0.02, 0.17, 0.12), (0.0, 0.52, 0.26, 0.07)]
        for sx, sy, wide, tall in marks:
            spot = soft(1.0 - ((side - sx) / wide) ** 2 - ((along - sy) / tall) ** 2, 0.9) * before
            colour *= (1.0 - 0.6 * spot)[..., None]
        grown = 0.0 if person.hair_style == "bald" else 1.0
        hairline = soft(-0.42 - along - 0.2 * np.maximum(front, 0.0) ** 2, 0.12)
        nape = 0.95 if person.hair_style == "long" else 0.62
        cover = np.maximum(hairline, soft(0.12 - front, 0.14) * soft(nape - along, 0.14))
        if person.hair_style == "long":
            cover = np.maximum(cover, soft(np.abs(side) - 0.78, 0.14))
        if person.hair_style == "bald":
            cover = 0.55 * soft(0.1 - front, 0.2) * soft(0.2 - np.abs(along - 0.3), 0.15)
            grown = 1.0
        gloss = 1.0 + 0.25 * np.maximum(-along, 0.0)
        return colour + (grown * cover)[..., None] * (hair * gloss[..., None] - colour)

    return cloth


def _strands(colour: Colour) -> Cloth:
    solid = np.array(colour, np.float32)
    return lambda across, along: solid * (1.0 + 0.13 * np.sin(across * np.float32(9.0)))[..., None]


def _darker(colour: Colour) -> Colour:
    return colour[0] * 0.75, colour[1] * 0.75, colour[2] * 0.75
