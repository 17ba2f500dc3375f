"""`loss=mix`: several metric losses in one group, each under a name of its own that holds a choice of `loss`.

Beside the parts stand the weights of the whole, and `neck_feature: both`, since each part says what it sees:

    loss.first.{_target_: reid.losses.RankedListLoss, alpha: 2.0, …, metric_weight: 0.4, neck_feature: after}
    loss.second.{_target_: reid.losses.TripletLoss, margin: 0.3, …, metric_weight: 1.0, neck_feature: before}
"""

import warnings
from collections.abc import Mapping
from typing import Any

from reid.config.checks import ConfigError, check_fields, check_present, construct, refuse_untrusted
from reid.config.schema import OWN_KEYS, LossKeys

MIX = "reid.losses.Mix"
_PART_KEYS = ("_target_", "metric_weight", "neck_feature")
#: Losses that are a classifier with a margin themselves.
_MARGINS = ("ArcFaceLoss", "CosFaceLoss", "CircleLoss")
#: Of those, the ones whose choices have loss.id_weight=0, as they stand for the cross entropy.
_ALONE = ("ArcFaceLoss", "CosFaceLoss")


def losses_of(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metric losses of a config's loss group, by their dotted place: `loss`, or of a mix `loss.first`, …

    Raises:
        ConfigError: a key of a mix that is no loss.
    """
    if options["_target_"] is None:
        return {}
    if options["_target_"] != MIX:
        return {"loss": dict(options)}
    parts = {}
    for name, part in options.items():
        if name in OWN_KEYS["loss"]:
            continue
        if not isinstance(part, Mapping):
            raise ConfigError(
                f"loss.{name}={part} is no loss of a mix: it takes choices, as in +loss@loss.{name}=triplet, "
                f"whose keys are then loss.{name}.…"
            )
        parts[f"loss.{name}"] = dict(part)
    return parts


def check_mix(options: dict[str, Any]) -> None:
    """Check what a mix is made of, without torch; drop the weight of the cross entropy from its parts.

    One that does nothing is warned of, unless it is that of the part's choice: a config file may hold it. On
    a command line it is refused.

    Raises:
        ConfigError: a part that cannot be one, or a feature chosen for the whole.
    """
    if options["neck_feature"] != "both":
        raise ConfigError(
            f"loss.neck_feature={options['neck_feature']} is not for a mix, of which each loss has a key of "
            "its own: set loss.first.neck_feature and the like"
        )
    parts = losses_of(options)
    for place, part in parts.items():
        check_present(place, part, _PART_KEYS)
        # That of a choice says how it goes with the cross entropy when it stands alone.
        weight = options[place.removeprefix("loss.")].pop("id_weight", None)
        of_choice = 0 if str(part["_target_"]).endswith(_ALONE) else 1
        if weight not in (None, of_choice, options["id_weight"]):
            warnings.warn(
                f"{place}.id_weight={weight} does nothing: a loss of a mix has no weight of the cross "
                f"entropy. That of the whole is loss.id_weight={options['id_weight']}",
                stacklevel=4,
            )
        if part["_target_"] in (None, MIX):
            raise ConfigError(
                f"{place} is {'a mix' if part['_target_'] else 'cross entropy alone'}: expected a metric "
                "loss, such as triplet"
            )
        refuse_untrusted(place, part["_target_"])
        check_fields(LossKeys(metric_weight=part["metric_weight"], neck_feature=part["neck_feature"]), place)
    if options["id_weight"] == 0 and not any(part["metric_weight"] for part in parts.values()):
        raise ConfigError("loss.id_weight and all weights of the mix are 0: there is nothing to train for")


def check_margins(head: Mapping[str, Any], loss: Mapping[str, Any]) -> None:
    """Refuse a classifier with a margin that nothing trains, or beside a loss that is one itself.

    Raises:
        ConfigError: naming both.
    """
    classifier = head.get("classifier", "linear")
    if classifier == "linear":
        return
    for place, part in losses_of(loss).items():
        name = str(part["_target_"]).rpartition(".")[2]
        if name in _MARGINS:
            raise ConfigError(
                f"head.classifier={classifier} and {place}._target_={part['_target_']} are both a margin on "
                "the identities: choose one of them. With loss=softmax or loss=triplet the head has it"
            )
    if loss["id_weight"] == 0:
        raise ConfigError(
            f"head.classifier={classifier} is trained by the cross entropy alone, and loss.id_weight=0 "
            "leaves that out: set loss.id_weight=1, or head.classifier=linear"
        )


def construct_loss(options: dict[str, Any], sizes: Mapping[str, int]) -> Any:
    """The metric loss of a config's loss group, a mix with all its parts; None for cross entropy alone.

    The parts are made in the order of their names, as some draw weights, and the order of a config's keys is
    no part of the experiment.

    Raises:
        ConfigError: one that is not trusted, or refuses a value.
    """
    own = OWN_KEYS["loss"]
    if options["_target_"] != MIX:
        return construct("loss", options, own, sizes)
    places = losses_of(options)
    parts = {place.removeprefix("loss."): (place, places[place]) for place in sorted(places)}
    arguments = {
        "_target_": MIX,
        "losses": {name: construct(place, part, own, sizes) for name, (place, part) in parts.items()},
        "weights": {name: part["metric_weight"] for name, (_, part) in parts.items()},
        "features": {name: part["neck_feature"] for name, (_, part) in parts.items()},
    }
    return construct("loss", arguments, own)
