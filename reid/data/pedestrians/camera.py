"""One camera: how it looks at people, and what its sensor makes of them."""

from dataclasses import dataclass
from math import cos, pi

import numpy as np
from numpy.typing import NDArray

from reid.data.pedestrians.dice import CAMERA, Dice, Floats

NIGHT = 1
#: Directions of the colour cast, as changes of (red, green, blue) gain: warm, cool, green, magenta, …
CASTS = (
    (0.26, 0.02, -0.26),
    (-0.24, 0.0, 0.26),
    (-0.14, 0.14, -0.10),
    (0.12, -0.12, 0.14),
    (0.0, 0.05, -0.2),
    (-0.1, 0.0, 0.0),
)


@dataclass(frozen=True)
class Camera:
    """What one camera does to every crop.

    Attributes:
        pitch: how far it looks down, in radians.
        walk: angle at which most people cross its view, in radians (see `View.turn`).
        two_way: share of the people who walk the other way.
        fill: height of an average adult in the crop, as a share of the crop's height.
        side: where light comes from, -1 left to 1 right; `ambient` is the light without direction.
        gains: red, green and blue gain, the white balance and exposure together.
        gamma, saturation, haze: tone curve exponent, colourfulness, and veil added to black.
        blur: standard deviation in pixels of the crop; noise: in display units (0..1).
        quality: JPEG quality.
        scenery: number of the scene behind (see `scene.draw_scene`).
    """

    pitch: float
    walk: float
    two_way: float
    fill: float
    side: float
    ambient: float
    gains: tuple[float, float, float]
    gamma: float
    saturation: float
    haze: float
    blur: float
    noise: float
    quality: int
    scenery: int


def draw_cameras(seed: int, domain: int, count: int) -> tuple[Camera, ...]:
    """`count` cameras, spread over the casts, exposures and scenes so that no two are alike."""
    order = Dice(seed, domain, CAMERA)
    casts, scenes = order.sample(len(CASTS), len(CASTS)), order.sample(5, 5)
    lights, walks = order.sample(count, count), order.sample(count, count)
    return tuple(
        _draw_camera(
            Dice(seed, domain, CAMERA, index + 1),
            night=domain == NIGHT,
            cast=CASTS[casts[index % len(casts)]],
            scenery=scenes[index % len(scenes)],
            bright=lights[index] / max(count - 1, 1),
            walk=walks[index] / count,
        )
        for index in range(count)
    )


def _draw_camera(
    dice: Dice, night: bool, cast: tuple[float, float, float], scenery: int, bright: float, walk: float
) -> Camera:
    strength = dice.between(0.8, 1.1)
    exposure = (0.55 + 0.35 * bright if night else 0.72 + 0.55 * bright) * dice.between(0.95, 1.05)
    tint = (1.12, 0.98, 0.78) if night else (1.0, 1.0, 1.0)
    red, green, blue = (exposure * t * (1.0 + strength * c) for t, c in zip(tint, cast, strict=True))
    return Camera(
        pitch=dice.between(0.06, 0.42),
        walk=2 * pi * walk + dice.between(-0.3, 0.3),
        two_way=dice.between(0.3, 0.6),
        fill=dice.between(0.80, 0.90),
        side=dice.between(-0.45, 0.45),
        ambient=dice.between(0.45, 0.65) * (0.85 if night else 1.0),
        gains=(red, green, blue),
        gamma=dice.between(0.8, 1.3) * (1.1 if night else 1.0),
        saturation=dice.between(0.65, 1.1) * (0.8 if night else 1.0),
        haze=dice.between(0.0, 0.09),
        blur=dice.between(0.3, 0.9),
        noise=dice.between(0.008, 0.02) * (2.0 if night else 1.0),
        quality=60 + dice.below(31),
        scenery=scenery,
    )


def expose(image: Floats, camera: Camera, dice: Dice) -> NDArray[np.uint8]:
    """What the sensor stores of `image`, (H, W, 3) display values in 0..1: (H, W, 3) uint8.

    Exposure and white balance drift a little from crop to crop.
    """
    drift = dice.between(0.90, 1.10)
    gains = np.array([gain * drift * dice.between(0.97, 1.03) for gain in camera.gains], np.float32)
    image = _blurred(image, camera.blur * dice.between(0.8, 1.5))
    image = np.clip(image, 0.0, 1.0) ** np.float32(camera.gamma)
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    image = grey[..., None] + np.float32(camera.saturation) * (image - grey[..., None])
    image = np.float32(camera.haze) + np.float32(1.0 - camera.haze) * image * gains
    height, width = grey.shape
    luma = dice.grain(height, width)[..., None]
    chroma = dice.grain(height, width, 3)
    # Bright pixels roll off as on film instead of clipping hard, so white cloth keeps its cast.
    image = np.where(image > 0.8, 0.8 + 0.2 * (1.0 - np.exp((0.8 - image) / 0.2)), image)
    image = image + np.float32(camera.noise) * (luma + np.float32(0.5) * chroma)
    return (np.clip(image, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)


def _blurred(image: Floats, sigma: float) -> Floats:
    """A blur by raised-cosine weights, borders repeated."""
    reach = max(1, int(2.5 * sigma + 0.5))
    weights = [1.0 + cos(pi * k / (reach + 1)) if sigma > 0 else 0.0 for k in range(-reach, reach + 1)]
    share = min(1.0, sigma)
    weights = [w / sum(weights) * share + (1.0 - share) * (k == reach) for k, w in enumerate(weights)]
    for axis in (0, 1):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (reach, reach)
        padded = np.pad(image, pad, mode="edge")
        length = image.shape[axis]
        blurred = np.zeros_like(image)
        for shift, weight in enumerate(weights):
            part = padded[shift : shift + length] if axis == 0 else padded[:, shift : shift + length]
            blurred += np.float32(weight) * part
        image = blurred
    return image
