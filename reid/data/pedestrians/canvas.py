"""Soft-edged shapes on a float image, each with coordinates of its own surface for cloth and light.

Shapes are distance fields, so that edges are smooth and a last-digit difference in a distance moves a pixel
by far less than a grey level.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reid.data.pedestrians.dice import Floats
from reid.data.pedestrians.identity import Colour

#: Colour of a surface: (across, along) -> (h, w, 3) or one colour.  `across` runs from -1 (left edge) to 1,
#: `along` from 0 to 1 down the shape; both (h, w).
Cloth = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Light:
    """`side` < 0 is light from the left, > 0 from the right; `ambient` is what falls everywhere."""

    side: float
    ambient: float

    def on(self, across: Floats) -> Floats:
        """Brightness of a round surface at `across` in [-1, 1]."""
        facing = np.sqrt(np.maximum(1.0 - across * across, 0.0))
        return self.ambient + (1.0 - self.ambient) * np.maximum(
            0.15 + 0.85 * facing + self.side * across, 0.0
        )


def plain(colour: Colour) -> Cloth:
    """A surface of one colour."""
    solid = np.array(colour, np.float32)
    return lambda across, along: solid


def soft(x: Floats, width: float) -> Floats:
    """0 below, 1 above zero, linear over `width`."""
    return np.clip(x / width + 0.5, 0.0, 1.0)


def blend(image: Floats, rows: slice, columns: slice, cover: Floats, colour: Floats) -> None:
    """Lay `colour` over a part of the image, as far as it covers."""
    part = image[rows, columns]
    part += cover[..., None] * (colour - part)


def limb(
    image: Floats,
    start: tuple[float, float],
    end: tuple[float, float],
    radii: tuple[float, float],
    cloth: Cloth,
    light: Light,
) -> None:
    """A rounded, tapering stroke from `start` to `end` (x, y in pixels)."""
    (ax, ay), (bx, by), widest = start, end, max(radii) + 1.0
    window = _window(
        image, min(ax, bx) - widest, max(ax, bx) + widest, min(ay, by) - widest, max(ay, by) + widest
    )
    if window is None:
        return
    rows, columns, x, y = window
    dx, dy = bx - ax, by - ay
    length = max((dx * dx + dy * dy) ** 0.5, 1e-3)
    dx, dy = dx / length, dy / length
    px, py = x - ax, y - ay
    along = np.clip((px * dx + py * dy) / length, 0.0, 1.0)
    radius = radii[0] + (radii[1] - radii[0]) * along
    ox, oy = px - along * (dx * length), py - along * (dy * length)
    cover = np.clip(radius + 0.5 - np.sqrt(ox * ox + oy * oy), 0.0, 1.0)
    # A limb that hangs down has its left edge at -1, whichever way it is swung.
    across = np.clip((ox * dy - oy * dx) / radius, -1.0, 1.0)
    blend(image, rows, columns, cover, cloth(across, along) * light.on(across)[..., None])


def column(
    image: Floats,
    heights: tuple[float, ...],
    centres: tuple[float, ...],
    half_widths: tuple[float, ...],
    cloth: Cloth,
    light: Light,
    round_ends: float = 3.0,
) -> None:
    """An upright shape by its outline: at each of `heights` (y, going down) a centre and a half width."""
    widest = max(half_widths) + 1.0
    top, bottom = heights[0], heights[-1]
    window = _window(image, min(centres) - widest, max(centres) + widest, top - 1, bottom + 1)
    if window is None:
        return
    rows, columns, x, y = window
    line = y[:, 0]
    centre = np.interp(line, heights, centres).astype(np.float32)[:, None]
    half = np.interp(line, heights, half_widths).astype(np.float32)[:, None]
    offset = x - centre
    across = np.clip(offset / np.maximum(half, 0.5), -1.0, 1.0)
    sag = round_ends * across * across
    ends = np.clip(np.minimum(y - top - sag, bottom - sag * 0.6 - y) + 0.5, 0.0, 1.0)
    cover = np.clip(half + 0.5 - np.abs(offset), 0.0, 1.0) * ends
    along = np.broadcast_to((y - top) / max(bottom - top, 1e-3), cover.shape)
    blend(image, rows, columns, cover, cloth(across, along) * light.on(across)[..., None])


def disc(
    image: Floats, centre: tuple[float, float], radii: tuple[float, float], cloth: Cloth, light: Light | None
) -> None:
    """An ellipse with upright axes; `along` runs from -1 (top) to 1 here.  Without a light it stays flat."""
    (cx, cy), (rx, ry) = centre, (max(radii[0], 0.6), max(radii[1], 0.6))
    window = _window(image, cx - rx - 1, cx + rx + 1, cy - ry - 1, cy + ry + 1)
    if window is None:
        return
    rows, columns, x, y = window
    across, along = (x - cx) / rx, (y - cy) / ry
    distance = np.sqrt(across * across + along * along)
    cover = np.clip((1.0 - distance) * min(rx, ry) + 0.5, 0.0, 1.0)
    across, along = np.broadcast_arrays(np.clip(across, -1, 1), np.clip(along, -1, 1))
    colour = cloth(across, along)
    if light is not None:
        colour = colour * (light.on(across) * (1.0 - 0.12 * along))[..., None]
    blend(image, rows, columns, cover, colour)


def darken(image: Floats, centre: tuple[float, float], radii: tuple[float, float], strength: float) -> None:
    """A soft shadow: an ellipse that takes up to `strength` of the light."""
    (cx, cy), (rx, ry) = centre, radii
    window = _window(image, cx - rx, cx + rx, cy - ry, cy + ry)
    if window is None:
        return
    rows, columns, x, y = window
    fall = np.clip(1.0 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2, 0.0, 1.0)
    image[rows, columns] *= (1.0 - strength * fall)[..., None]


def _window(
    image: Floats, left: float, right: float, top: float, bottom: float
) -> tuple[slice, slice, Floats, Floats] | None:
    """Rows and columns that a shape can touch, and their pixels' centres; None if off the image."""
    height, width = image.shape[:2]
    x0, x1 = max(int(left), 0), min(int(right) + 2, width)
    y0, y1 = max(int(top), 0), min(int(bottom) + 2, height)
    if x0 >= x1 or y0 >= y1:
        return None
    x = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5)
    return slice(y0, y1), slice(x0, x1), x, y
