"""A whole person: legs, garments, arms and bags, painted from the far side to the near one."""

import numpy as np

from reid.data.pedestrians import wardrobe
from reid.data.pedestrians.canvas import Cloth, Light, column, darken, disc, limb, plain, soft
from reid.data.pedestrians.dice import Floats
from reid.data.pedestrians.head import draw_hair_behind, draw_head
from reid.data.pedestrians.identity import Colour, Identity
from reid.data.pedestrians.pose import Limb, Point, Skeleton, View

#: (height, half breadth, half depth) of an upright part, highest first; unit: body heights.
Outline = tuple[tuple[float, float, float], ...]

#: How far an upper garment hangs below the hips, in body heights (0.02 if not named).
HEM = {"hoodie": 0.045, "jacket": 0.03, "coat": 0.20, "dress": 0.0}
#: Thickness that a cut adds round the trunk and the arms.
BULK = {"hoodie": 1.10, "jacket": 1.08, "coat": 1.12, "vest": 1.10}
SKIRT_LENGTH = {"skirt": 0.19, "long_skirt": 0.36, "dress": 0.22}
LEG_WIDTH = {"slim": 0.86, "wide": 1.3, "bare": 0.8}


def draw_person(image: Floats, person: Identity, bones: Skeleton, view: View, light: Light) -> None:
    """Paint a person onto `image`, (H, W, 3) float32 of display values in 0..1, in place."""
    near, far = view.scale * 0.2, view.scale * 0.05
    darken(image, (view.x + light.side * view.scale * 0.1, view.ground), (near, far), 0.55)
    from_behind = view.facing < 0
    if not from_behind:
        draw_hair_behind(image, person, bones, view, light)
        _draw_bag(image, person, bones, view, light, over=False)
    arms = sorted(bones.arms, key=lambda arm: view.depth(arm.middle))
    behind = [arm for arm in arms if view.depth(arm.middle) < -0.05]
    for arm in behind:
        _draw_arm(image, person, arm, view, light)
    for leg in sorted(bones.legs, key=lambda leg: view.depth(leg.middle) + view.depth(leg.top)):
        _draw_leg(image, person, leg, view, light)
    _draw_skirt(image, person, bones, view, light)
    _draw_trunk(image, person, bones, view, light)
    if from_behind:
        draw_head(image, person, bones, view, light)
        draw_hair_behind(image, person, bones, view, light)
    if from_behind or person.bag != "backpack":
        _draw_bag(image, person, bones, view, light, over=True)
    else:
        _draw_straps(image, person, bones, view, light)
    if not from_behind:
        draw_head(image, person, bones, view, light)
    for arm in arms:
        if arm not in behind:
            _draw_arm(image, person, arm, view, light)


def _draw_trunk(image: Floats, person: Identity, bones: Skeleton, view: View, light: Light) -> None:
    garment = person.upper
    thick = BULK.get(garment.cut, 1.0) * person.build
    hem = bones.hip - HEM.get(garment.cut, 0.02)
    shoulder = 0.112 * person.shoulders * (0.7 + 0.3 * person.build)
    flare = 1.18 if garment.cut == "coat" else 1.0
    outline = (  # height, half breadth, half depth
        (bones.shoulder + 0.022, 0.045, 0.045),
        (bones.shoulder - 0.005, shoulder * 0.93, 0.058 * thick),
        (bones.shoulder - 0.06, max(shoulder, 0.092 * thick), 0.07 * thick),
        (bones.hip + 0.10, 0.082 * thick, 0.064 * thick),
        (bones.hip + 0.005, 0.09 * thick, 0.072 * thick),
        (min(hem, bones.hip), 0.09 * thick * flare, 0.074 * thick * flare),
    )
    cloth = wardrobe.trunk_cloth(garment, view.turn, bones.shoulder - hem, bones.legs[0].middle[2] * 9)
    _upright(image, outline, cloth, view, light)
    if garment.cut == "hoodie":
        hood = Light(light.side, light.ambient * 0.9)
        x, y = view.pixel((0, bones.shoulder + 0.012, -0.03))
        disc(image, (x, y), (view.width(0.06, 0.05, 0.8), view.scale * 0.028), plain(garment.colour), hood)
    if garment.cut == "dress":
        x, y = view.pixel((0, bones.hip + 0.085, 0))
        belt = view.width(0.083 * thick, 0.066 * thick, 0.5)
        size = view.scale * 0.012
        column(image, (y - size, y + size), (x, x), (belt, belt), plain(garment.second), light, 0.5)


def _draw_skirt(image: Floats, person: Identity, bones: Skeleton, view: View, light: Light) -> None:
    garment = person.upper if person.upper.cut == "dress" else person.lower
    if garment.cut not in SKIRT_LENGTH:
        return
    length = SKIRT_LENGTH[garment.cut]
    spread = max(abs(leg.middle[2]) for leg in bones.legs) * 0.55
    wide = 0.09 * person.build
    outline = (
        (bones.hip + 0.06, wide * 0.92, wide * 0.78),
        (bones.hip - 0.03, wide * 1.08, wide * 0.95),
        (bones.hip - length, wide * 1.32, wide * 1.05 + spread),
    )
    _upright(image, outline, wardrobe.skirt_cloth(garment, view.turn, length), view, light)


def _draw_leg(image: Floats, person: Identity, leg: Limb, view: View, light: Light) -> None:
    lower = person.lower
    thick = person.build * LEG_WIDTH.get(lower.cut, 1.0)
    outward = (1.0 if leg.top[0] > 0 else -1.0) * view.facing
    # The far leg is in the near one's shade.
    shade = Light(light.side, light.ambient * (0.86 if view.depth(leg.top) < -0.01 else 1.0))
    skin = plain(person.skin)
    cloth = wardrobe.leg_cloth(lower, 0.24, outward)
    bare = lower.cut in ("shorts", "skirt", "long_skirt") or lower.cut == "bare"
    ankle = 0.023 if not bare and lower.cut == "slim" else 0.034 if lower.cut == "wide" else 0.027
    _stroke(image, leg.low, leg.tip, (0.024, 0.018), plain(person.shoes), view, shade)
    _stroke(image, leg.middle, leg.low, (0.036 * thick, ankle * thick), skin if bare else cloth, view, shade)
    clad = cloth if lower.cut not in ("skirt", "long_skirt", "bare") else skin
    _stroke(image, leg.top, leg.middle, (0.058 * thick, 0.039 * thick), clad, view, shade)
    if lower.cut == "shorts":
        knee = _between(leg.top, leg.middle, 0.88)
        _stroke(image, leg.top, knee, (0.058 * thick, 0.047 * thick), cloth, view, shade)


def _draw_arm(image: Floats, person: Identity, arm: Limb, view: View, light: Light) -> None:
    garment = person.upper
    thick = (0.8 + 0.2 * person.build) * BULK.get(garment.cut, 1.0)
    shade = Light(light.side, light.ambient * (0.82 if view.depth(arm.middle) < -0.05 else 0.95))
    skin = plain(person.skin)
    short = garment.cut in ("tshirt", "dress")
    sleeveless = garment.cut == "vest"
    upper = skin if sleeveless else wardrobe.sleeve_cloth(garment, 0.165, 0.0)
    lower = skin if short or sleeveless else wardrobe.sleeve_cloth(garment, 0.15, 0.165)
    _stroke(image, arm.low, arm.tip, (0.019, 0.014), skin, view, shade)
    _stroke(image, arm.middle, arm.low, (0.028 * thick, 0.021 * thick), lower, view, shade)
    if short:
        _stroke(image, arm.top, arm.middle, (0.03 * thick, 0.026 * thick), skin, view, shade)
        cuff = _between(arm.top, arm.middle, 0.62)
        _stroke(image, arm.top, cuff, (0.034 * thick, 0.035 * thick), upper, view, shade)
    else:
        _stroke(image, arm.top, arm.middle, (0.034 * thick, 0.028 * thick), upper, view, shade)
    if person.bag == "hand" and arm.top[0] < 0:
        x, y = view.pixel(arm.tip)
        wide, tall = view.width(0.022, 0.075, 0.4), view.scale * 0.10
        heights = (y + tall * 0.1, y + tall * 0.25, y + tall)
        column(image, heights, (x, x, x), (wide * 0.5, wide, wide * 1.1), plain(person.bag_colour), light)


def _draw_bag(image: Floats, person: Identity, bones: Skeleton, view: View, light: Light, over: bool) -> None:
    """A backpack (behind the trunk or over it) or, over it, a shoulder bag with its strap."""
    if person.bag == "backpack":
        top, bottom = bones.shoulder - 0.015, bones.shoulder - 0.235
        outline: Outline = (
            (top, 0.06, 0.03),
            (top - 0.04, 0.082, 0.045),
            (bottom + 0.02, 0.088, 0.055),
            (bottom, 0.08, 0.05),
        )
        _upright(image, outline, _bag_cloth(person.bag_colour), view, light, forward=-0.105)
    elif person.bag == "shoulder" and over:
        hip: Point = (0.125 * person.build, bones.hip + 0.01, 0.0)
        _draw_strap(image, person, (-0.07, bones.shoulder, 0.0), hip, view, light)
        if view.depth(hip) < -0.08:
            return
        top = bones.hip + 0.05
        outline = ((top, 0.04, 0.075), (top - 0.02, 0.048, 0.09), (top - 0.13, 0.05, 0.092))
        _upright(image, outline, _bag_cloth(person.bag_colour), view, light, sideways=hip[0])


def _draw_strap(image: Floats, person: Identity, start: Point, end: Point, view: View, light: Light) -> None:
    """A strap across the chest or the back, whichever shows."""
    near = 0.075 if view.facing >= 0 else -0.075
    chest = (start[0] * 0.5 + end[0] * 0.5, start[1] * 0.5 + end[1] * 0.5, near)
    colour = plain((person.bag_colour[0] * 0.8, person.bag_colour[1] * 0.8, person.bag_colour[2] * 0.8))
    _stroke(image, start, chest, (0.011, 0.011), colour, view, light)
    _stroke(image, chest, end, (0.011, 0.011), colour, view, light)


def _draw_straps(image: Floats, person: Identity, bones: Skeleton, view: View, light: Light) -> None:
    """The two straps that show of a backpack from the front."""
    for x in (-0.06, 0.06):
        colour = plain(person.bag_colour)
        end = (x * 1.15, bones.shoulder - 0.15, 0.06)
        _stroke(image, (x, bones.shoulder, 0.02), end, (0.014, 0.013), colour, view, light)


def _upright(
    image: Floats,
    outline: Outline,
    cloth: Cloth,
    view: View,
    light: Light,
    forward: float = 0.0,
    sideways: float = 0.0,
) -> None:
    """A part of the trunk, moved forward or sideways off the body's axis."""
    points = [view.pixel((sideways, height, forward)) for height, _, _ in outline]
    widths = tuple(view.width(broad, deep, height) for height, broad, deep in outline)
    column(image, tuple(y for _, y in points), tuple(x for x, _ in points), widths, cloth, light)


def _stroke(
    image: Floats,
    start: Point,
    end: Point,
    radii: tuple[float, float],
    cloth: Cloth,
    view: View,
    light: Light,
) -> None:
    """A limb between two points of the body; radii in body heights."""
    sizes = (radii[0] * view.zoom(start[1]), radii[1] * view.zoom(end[1]))
    limb(image, view.pixel(start), view.pixel(end), sizes, cloth, light)


def _bag_cloth(colour: Colour) -> Cloth:
    """A bag with a darker pocket below."""
    solid = np.array(colour, np.float32)

    def cloth(across: Floats, along: Floats) -> Floats:
        pocket = soft(along - 0.55, 0.06) * soft(0.7 - np.abs(across), 0.2)
        return solid * (1.0 - 0.22 * pocket)[..., None]

    return cloth


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share
