"""Who is drawn: the attributes of one person that every camera sees alike."""

from dataclasses import dataclass

from reid.data.pedestrians.dice import IDENTITY, Dice

Colour = tuple[float, float, float]

#: Cloth colours, display RGB in 0..1.  Few and far apart: a camera's colour cast moves them all together,
#: so what tells two people apart is how their colours stand to each other and to the scene.
CLOTH: dict[str, Colour] = {
    "black": (0.09, 0.09, 0.10),
    "white": (0.90, 0.89, 0.87),
    "grey": (0.48, 0.48, 0.50),
    "red": (0.72, 0.12, 0.13),
    "navy": (0.11, 0.15, 0.34),
    "blue": (0.16, 0.34, 0.72),
    "sky": (0.52, 0.70, 0.88),
    "green": (0.13, 0.46, 0.24),
    "olive": (0.38, 0.39, 0.20),
    "yellow": (0.88, 0.76, 0.20),
    "orange": (0.88, 0.45, 0.13),
    "pink": (0.87, 0.52, 0.62),
    "purple": (0.42, 0.22, 0.50),
    "brown": (0.36, 0.23, 0.15),
    "beige": (0.78, 0.68, 0.53),
}
LOWER_COLOURS = ("black", "navy", "blue", "grey", "beige", "white", "olive", "brown", "red", "green")
SHOE_COLOURS = ("black", "white", "brown", "red", "blue")
BAG_COLOURS = ("black", "red", "blue", "brown", "yellow", "green", "grey")
SKIN: tuple[Colour, ...] = ((0.90, 0.72, 0.60), (0.80, 0.60, 0.45), (0.62, 0.43, 0.30), (0.38, 0.25, 0.18))
HAIR: dict[str, Colour] = {
    "black": (0.08, 0.07, 0.07),
    "brown": (0.28, 0.18, 0.11),
    "blond": (0.76, 0.61, 0.36),
    "grey": (0.62, 0.61, 0.60),
    "red": (0.52, 0.22, 0.10),
}
UPPER_CUTS = ("tshirt", "longsleeve", "hoodie", "jacket", "coat", "dress", "vest")
PATTERNS = ("plain", "stripes", "pinstripes", "checks", "block", "logo", "raglan")
PATTERN_WEIGHTS = (0.28, 0.15, 0.09, 0.13, 0.13, 0.11, 0.11)
LOWER_CUTS = ("trousers", "slim", "wide", "shorts", "skirt", "long_skirt")
LOWER_WEIGHTS = (0.24, 0.22, 0.12, 0.17, 0.14, 0.11)
HAIR_STYLES = ("short", "long", "bun", "bald", "tail")
HAIR_WEIGHTS = (0.42, 0.24, 0.12, 0.08, 0.14)


@dataclass(frozen=True)
class Garment:
    """A piece of clothing: `second` is the colour of its pattern, or of what shows under an open front."""

    cut: str
    pattern: str
    colour: Colour
    second: Colour
    colour_name: str
    second_name: str


@dataclass(frozen=True)
class Identity:
    """One person.  Proportions are relative to an average adult's (1.0)."""

    height: float
    build: float
    legs: float
    shoulders: float
    head: float
    stride: float
    skin: Colour
    hair_style: str
    hair: Colour
    upper: Garment
    lower: Garment
    shoes: Colour
    bag: str
    bag_colour: Colour
    hat: str
    hat_colour: Colour
    traits: tuple[str, ...]

    def differs_from(self, other: "Identity") -> int:
        """How many of the visible traits differ."""
        return sum(a != b for a, b in zip(self.traits, other.traits, strict=True))


#: Traits that two people of one set never share in more than all but this many.
LEAST_DIFFERENCE = 4


def draw_identity(dice: Dice) -> Identity:
    """One person at random."""
    upper_cut = dice.pick(UPPER_CUTS)
    upper = _garment(dice, upper_cut, dice.pick(PATTERNS, PATTERN_WEIGHTS), tuple(CLOTH))
    under_dress = dice.pick(("slim", "bare"))
    lower_cut = under_dress if upper_cut == "dress" else dice.pick(LOWER_CUTS, LOWER_WEIGHTS)
    lower_pattern = dice.pick(("plain", "seam", "checks"), (0.72, 0.18, 0.10))
    lower = _garment(dice, lower_cut, lower_pattern, LOWER_COLOURS)
    hair_style = dice.pick(HAIR_STYLES, HAIR_WEIGHTS)
    hair_name = dice.pick(tuple(HAIR), (0.32, 0.30, 0.18, 0.10, 0.10))
    hat = dice.pick(("none", "cap", "beanie", "brim"), (0.70, 0.12, 0.12, 0.06))
    hat_name = dice.pick(tuple(CLOTH))
    bag = dice.pick(("none", "backpack", "shoulder", "hand"), (0.42, 0.26, 0.20, 0.12))
    bag_name = dice.pick(BAG_COLOURS)
    shoe_name = dice.pick(SHOE_COLOURS)
    skin = dice.below(len(SKIN))
    return Identity(
        height=dice.between(0.92, 1.06),
        build=dice.between(0.84, 1.24),
        legs=dice.between(0.94, 1.06),
        shoulders=dice.between(0.92, 1.10),
        head=dice.between(0.95, 1.10),
        stride=dice.between(0.8, 1.15),
        skin=_shade_of(dice, SKIN[skin]),
        hair_style=hair_style,
        hair=_shade_of(dice, HAIR[hair_name]),
        upper=upper,
        lower=lower,
        shoes=_shade_of(dice, CLOTH[shoe_name]),
        bag=bag,
        bag_colour=_shade_of(dice, CLOTH[bag_name]),
        hat=hat,
        hat_colour=_shade_of(dice, CLOTH[hat_name]),
        traits=(
            upper_cut,
            upper.colour_name,
            upper.pattern,
            "" if upper.pattern == "plain" else upper.second_name,
            lower_cut,
            "" if lower_cut == "bare" else lower.colour_name,
            f"{hair_style} {hair_name}" if hat == "none" else hat + hat_name,
            bag if bag == "none" else bag + bag_name,
            shoe_name,
            str(skin),
        ),
    )


def draw_identities(seed: int, domain: int, count: int) -> tuple[Identity, ...]:
    """`count` people, any two of whom differ in at least `LEAST_DIFFERENCE` visible traits.

    A person too like one before is drawn again from the next stream of the same index, so the first n
    people are the same however many follow.
    """
    people: list[Identity] = []
    for index in range(count):
        attempt = 0
        person = draw_identity(Dice(seed, domain, IDENTITY, index, attempt))
        while any(person.differs_from(other) < LEAST_DIFFERENCE for other in people):
            attempt += 1
            person = draw_identity(Dice(seed, domain, IDENTITY, index, attempt))
        people.append(person)
    return tuple(people)


def _garment(dice: Dice, cut: str, pattern: str, names: tuple[str, ...]) -> Garment:
    name = dice.pick(names)
    second = dice.pick([n for n in CLOTH if _contrast(n, name) > 0.35])
    return Garment(cut, pattern, _shade_of(dice, CLOTH[name]), _shade_of(dice, CLOTH[second]), name, second)


def _contrast(a: str, b: str) -> float:
    return max(abs(x - y) for x, y in zip(CLOTH[a], CLOTH[b], strict=True))


def _shade_of(dice: Dice, colour: Colour) -> Colour:
    """The person's own shade of a named colour."""
    light = dice.between(0.88, 1.12)
    r, g, b = (min(0.95, channel * light * dice.between(0.95, 1.05)) for channel in colour)
    return r, g, b
