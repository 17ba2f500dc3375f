"""Cloth: what a garment's surface looks like, wrapped round the body so that it turns with it."""

from math import pi

import numpy as np

from reid.data.pedestrians.canvas import Cloth, soft
from reid.data.pedestrians.dice import Floats
from reid.data.pedestrians.identity import Colour, Garment

OPEN_FRONTS = frozenset({"jacket", "coat", "vest"})


def around(across: Floats, turn: float) -> Floats:
    """Angle round the body of a visible point: 0 on the chest, +-pi on the back."""
    angle = np.arcsin(across) - np.float32(turn)
    return angle - np.float32(2 * pi) * np.round(angle / np.float32(2 * pi))


def trunk_cloth(garment: Garment, turn: float, length: float, crease: float) -> Cloth:
    """The body of an upper garment that is `length` long (body heights); `crease` moves its folds."""
    base, second = _colours(garment)

    def cloth(across: Floats, along: Floats) -> Floats:
        angle = around(across, turn)
        down = along * length
        share = _pattern(garment.pattern, angle, down)
        if garment.cut in OPEN_FRONTS:
            share = np.maximum(share, soft(0.34 - 0.25 * along - np.abs(angle), 0.12))
        elif garment.cut == "hoodie":
            pocket = soft(0.6 - np.abs(angle), 0.1) * soft(0.05 - np.abs(down - 0.22), 0.02)
            return _mixed(base, second, share) * (_folds(across, along, crease) - 0.16 * pocket)[..., None]
        return _mixed(base, second, share) * _folds(across, along, crease)[..., None]

    return cloth


def sleeve_cloth(garment: Garment, length: float, start: float) -> Cloth:
    """A sleeve's piece that is `length` long and begins `start` below the shoulder."""
    base, second = _colours(garment)
    if garment.pattern == "raglan":
        base = second

    def cloth(across: Floats, along: Floats) -> Floats:
        down = start + along * length
        if garment.pattern in ("stripes", "checks", "pinstripes"):
            share = _pattern(garment.pattern, across * 0.9, down)
        else:
            share = np.zeros_like(across)
        return _mixed(base, second, share) * _folds(across, along, start * 9)[..., None]

    return cloth


def leg_cloth(garment: Garment, length: float, outside: float) -> Cloth:
    """A trouser leg's piece; `outside` is the side (-1 left, 1 right, 0 unseen) on which its seam shows."""
    base, second = _colours(garment)

    def cloth(across: Floats, along: Floats) -> Floats:
        if garment.pattern == "seam":
            share = soft(0.3 - np.abs(across - 0.55 * outside), 0.15) * abs(outside)
        elif garment.pattern == "checks":
            share = 0.7 * _pattern("checks", across * 0.9, along * length)
        else:
            share = np.zeros_like(across)
        return _mixed(base, second, share) * _folds(across, along, length * 7)[..., None]

    return cloth


def skirt_cloth(garment: Garment, turn: float, length: float) -> Cloth:
    """A skirt, or the skirt of a dress: the garment's pattern over pleats."""
    base, second = _colours(garment)

    def cloth(across: Floats, along: Floats) -> Floats:
        angle = around(across, turn)
        known = garment.pattern in ("stripes", "checks", "pinstripes")
        share = _pattern(garment.pattern, angle, along * length) if known else np.zeros_like(angle)
        if garment.pattern in ("seam", "block"):
            share = soft(along - 0.78, 0.06)
        pleats = 1.0 + 0.09 * along * np.sin(angle * np.float32(9.0))
        return _mixed(base, second, share) * pleats[..., None]

    return cloth


def _pattern(pattern: str, angle: Floats, down: Floats) -> Floats:
    """Share of the second colour at an angle round the body and a way down it (body heights)."""
    if pattern == "stripes":
        return soft(np.sin(down * np.float32(2 * pi / 0.066)), 0.7)
    if pattern == "pinstripes":
        return soft(np.sin(angle * np.float32(8.0)) - 0.3, 0.8)
    if pattern == "checks":
        rows = soft(np.sin(down * np.float32(2 * pi / 0.085)), 0.6)
        columns = soft(np.sin(angle * np.float32(6.0)), 0.6)
        return 0.5 * (rows + columns)
    if pattern == "block":
        return soft(down - 0.145, 0.012)
    if pattern == "logo":
        size = ((np.abs(angle) - 0.0) / 0.55) ** 2 + ((down - 0.115) / 0.05) ** 2
        behind = ((pi - np.abs(angle)) / 0.65) ** 2 + ((down - 0.11) / 0.06) ** 2
        return soft(1.0 - np.minimum(size, behind), 0.4)
    return np.zeros_like(angle)


def _colours(garment: Garment) -> tuple[Floats, Floats]:
    return _array(garment.colour), _array(garment.second)


def _array(colour: Colour) -> Floats:
    return np.array(colour, np.float32)


def _mixed(base: Floats, second: Floats, share: Floats) -> Floats:
    return base + share[..., None] * (second - base)


def _folds(across: Floats, along: Floats, crease: float) -> Floats:
    """Brightness of cloth that hangs in slanted folds."""
    slanted = np.sin(along * np.float32(11.0) + across * np.float32(3.1) + np.float32(crease))
    fine = np.sin(along * np.float32(23.0) - across * np.float32(5.3) + np.float32(2.0 * crease))
    return 1.0 + 0.055 * slanted + 0.035 * fine
