"""The model card of a checkpoint: what it is, how good it is, and what it must not be used for, in Markdown.

It is made of what the checkpoint says of itself (`checkpoint_meta`), and holds no crop, no crop's name and
no folder. So it may go wherever the model goes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reid.config.identity import LATER
from reid.engine.checkpoint_meta import ADAPTATION
from reid.normalisation import IMAGENET, Normalisation
from reid.words import as_markdown

_OWN_DATA = "own data: the terms are those of their owner, and of the people in them"
#: The terms of each set that the suite reads by name. Weights inherit them.
_TERMS = {
    "market": "Market-1501: academic use only, by permission of its authors",
    "duke": (
        "DukeMTMC-reID: **withdrawn by its authors in 2019**, since the people in it had not agreed. Do not "
        "publish or deploy what was trained on it"
    ),
    "occluded_duke": (
        "Occluded-DukeMTMC: **withdrawn with DukeMTMC in 2019**, since the people in it had not agreed. Do "
        "not publish or deploy what was trained on it"
    ),
    "msmt17": "MSMT17: research under the agreement that its holder has signed; it may not be passed on",
    "cuhk01": "CUHK01: academic use only, by permission of its authors",
    "cuhk03": "CUHK03: academic use only, by permission of its authors",
    "veri776": "VeRi-776 (vehicles): research only, by permission of its authors",
    "synthetic": "pedestrians drawn by this project: no terms, since nobody is in them",
    "synthetic_night": "pedestrians drawn by this project: no terms, since nobody is in them",
    "unknown": "unknown: the file came from another project. Ask whoever trained it for the terms",
    **dict.fromkeys(("folder", "folders", "table"), _OWN_DATA),
}
_USE = """\
## Use

Meant for finding a person again among crops of people from several cameras, in research and in places
where the people seen know of it and have agreed. A match is a suggestion for a human to check.

Not meant for, and not to be used for:

- watching people without their knowledge, or singling out anybody by ethnicity, belief, health or politics;
- decisions about a person (police, access, work, insurance) without a human who looks at the pictures;
- telling who somebody is: it compares clothes and shape, and knows no names;
- cameras, seasons or people unlike those above: measure the scores and the threshold there first.
"""
#: Of what `begun` says: the readers of the data that the model of `init_from` was trained on.
TRAINED_ON = "reid.init_from.trained_on"
#: What the card tells of a threshold.
_MEASURED = {
    "value", "metric", "dataset", "split", "far", "far_interval", "tar", "tar_interval", "identities",
    "genuine_pairs", "impostor_pairs",
}  # fmt: skip
#: Scores of a row, and what stands above them.
_COLUMNS = {"mAP": "mAP (%)", "rank-1": "rank-1 (%)", "mINP": "mINP (%)"}


def card_path(checkpoint: Path) -> Path:
    """Where the card of a checkpoint lies: `model_card.md` beside `model.pt`."""
    return checkpoint.with_name(f"{checkpoint.stem}_card.md")


def model_card(meta: Mapping[str, Any]) -> str:
    """The Markdown card of a checkpoint.

    meta: what `load_checkpoint` has read, of any version; what an older one does not say is "not stored".
    """
    network = as_markdown(meta["model"]["backbone"]["name"])
    data = ", ".join(as_markdown(_public(name)) for name in trained_on(meta))
    adapted = meta.get(ADAPTATION)
    title = f"# {network}, trained on {data}"
    if adapted is not None:
        title = f"# {network}, adapted without labels to {as_markdown(_public(adapted['target']))}"
    sections = [
        title,
        *([] if adapted is None else [_adaptation(adapted)]),
        _scores(meta),
        _threshold(meta),
        _data(meta),
        _recipe(meta),
        _USE,
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def trained_on(meta: Mapping[str, Any]) -> list[str]:
    """The readers of the data that the model was trained on; of joint data those of the parts."""
    dataset = meta["dataset"]
    return [str(part["name"]) for part in dataset.get("parts") or [dataset]]


def seen_data(meta: Mapping[str, Any]) -> list[str]:
    """The readers of all data that its weights have seen: its own, and those of the models that it began with
    and learnt from."""
    before = str(meta.get("begun", {}).get(TRAINED_ON, "")).split(", ")
    taught = meta.get("teacher", {}).get("trained_on", [])
    return list(filter(None, dict.fromkeys([*trained_on(meta), *before, *taught])))


def _scores(meta: Mapping[str, Any]) -> str:
    rows = meta.get("scores")
    if not rows:
        return "## Scores\n\nNot stored."
    lines = [f"| judged on | {' | '.join(_COLUMNS.values())} | queries |", "|---" * (len(_COLUMNS) + 2) + "|"]
    for row in rows:
        where = f"{as_markdown(_public(row['dataset']))}, {row['split']} split"
        where += "" if row["own"] else ", **never trained on**"
        where += ", re-ranked" if row["reranked"] else ""
        where += ", cameras ignored" if row["protocol"] == "ignore_camera" else ""
        cells = [_rate(row["values"].get(name), row["intervals"].get(name)) for name in _COLUMNS]
        queries = f"{row['queries']:,} of {row['people']:,} people"
        lines.append(f"| {' | '.join([where, *cells, queries])} |")
    notes = ["In brackets: 95 % intervals, people resampled."]
    if meta["config"]:
        notes.append("The model is that of the last epoch: nothing was chosen by these scores.")
    if all(row["own"] for row in rows):
        notes.append("Scores on other data are not stored.")
    return "## Scores\n\n" + "\n".join(lines) + f"\n\n{' '.join(notes)}"


def _threshold(meta: Mapping[str, Any]) -> str:
    stored = meta.get("threshold") or {}
    if not stored.keys() >= _MEASURED:
        return "## Same person or not\n\nNo threshold is stored: `python -m reid.threshold` measures one."
    false = _rate(stored["far"], stored["far_interval"], digits=3)
    missed = _rate(1 - stored["tar"], [1 - end for end in reversed(stored["tar_interval"])])
    people = f"{stored['identities']:,} people of {_public(stored['dataset'])}, {stored['split']} split"
    return (
        "## Same person or not\n\n"
        f"A pair with a {stored['metric']} distance of at most {stored['value']:.4f} counts as the same "
        f"person. At this threshold {false} % of the pairs of two people were called the same, and {missed} "
        f"% of the pairs of one person were missed ({stored['impostor_pairs']:,} and "
        f"{stored['genuine_pairs']:,} pairs of {people}). Expect other rates elsewhere."
    )


def _adaptation(adapted: Mapping[str, Any]) -> str:
    """What was adapted, to what, by which clusters, and what labels were used for."""
    crops = f"{adapted['images']:,} crops of {_public(adapted['target'])}"
    if adapted["batch_norm_only"]:
        how = (
            f"The statistics of its batch norms are those of {crops}; its weights are those of the model "
            "before."
        )
    else:
        clusters = f"{adapted.get('clusters', 0):,} clusters"
        how = (
            f"It was trained on {crops} in {adapted['rounds']} rounds. Its identities are pseudo-labels, not "
            f"people: {clusters} in the last round, with {_rate(adapted.get('outliers'))} % of the crops in "
            "none."
        )
    judged = (
        "The labels of the target were used for judging alone: nothing was trained, stopped or chosen by "
        "them."
        if adapted["labels"] != "none"
        else "The target has no labels, so nothing was judged."
    )
    ended = f" It ended so: {as_markdown(adapted['stopped'])}." if "stopped" in adapted else ""
    return (
        f"## Adaptation\n\n{how}{ended} {judged} The model before has the sha256 "
        f"{adapted['parent_sha256'][:16]}; its threshold and its scores do not hold here."
    )


def _data(meta: Mapping[str, Any]) -> str:
    lines = [f"- {_terms(name)}." for name in dict.fromkeys(trained_on(meta))]
    before = str(meta.get("begun", {}).get(TRAINED_ON, ""))
    lines += [
        f"- It began with a model trained on {_public(name)}, whose terms hold too: {_terms(name)}."
        for name in filter(None, before.split(", "))
    ]
    lines += [
        f"- It learnt from a model trained on {_public(name)}, whose terms hold too: {_terms(name)}."
        for name in meta.get("teacher", {}).get("trained_on", [])
    ]
    pseudo = meta.get(ADAPTATION, {}).get("pids") == "pseudo-labels"
    people = f"{len(meta['pids']):,} people were trained on. " if meta["pids"] and not pseudo else ""
    if ADAPTATION in meta and not pseudo:
        target = meta[ADAPTATION]["target"]
        lines.append(f"- It has seen crops of {_public(target)} without labels: {_terms(target)}.")
    return f"## Data and their terms\n\n{people}The weights inherit the terms of the data:\n\n" + "\n".join(
        lines
    )


def _recipe(meta: Mapping[str, Any]) -> str:
    config, size = meta["config"], meta["preprocessing"]
    image = f"crops of {size['height']} x {size['width']} pixels (height x width), RGB{_normalised(size)}"
    if not config:
        file = meta.get("converted", {}).get("file")
        source = "converted from a file of another project" if file else "not stored"
        return f"## Training\n\nThe recipe is {source}. Input: {image}."
    epoch, epochs = meta.get("progress", {}).get("epoch"), config.get("epochs")
    length = f"{epochs} epochs" if epoch in (None, epochs) else f"{epoch} of {epochs} epochs"
    batch = f"{config.get('batch.identities')} people x {config.get('batch.instances')}"
    if ADAPTATION in meta and not meta[ADAPTATION]["batch_norm_only"]:
        length = f"{meta[ADAPTATION]['rounds']} rounds of {epochs} epochs or more"
    facts = {
        "input": image,
        "loss": _call(config, "loss"),
        "optimizer": _call(config, "optimizer"),
        "head": _call(config, "head"),
        "length": f"{length}, batches of {batch}",
        "began with": _origin(meta),
        **({"teacher": _teacher(meta)} if "teacher" in meta else {}),
        "seed": config.get("seed"),
        "config": f"hash {meta['config_hash']}",
    }
    if config.get("ema.decay") is not None:
        facts["weights"] = f"a moving average over the training, with a decay of {config['ema.decay']:g}"
    return "## Training\n\n" + "\n".join(f"- {name}: {as_markdown(value)}" for name, value in facts.items())


def _normalised(preprocessing: Mapping[str, Any]) -> str:
    """How pixels are normalised, where it is not by ImageNet's numbers."""
    mean, std = (preprocessing.get(key) for key in Normalisation._fields)
    if not mean or not std or (tuple(mean), tuple(std)) == IMAGENET:
        return ""
    return f", normalised by {Normalisation(tuple(mean), tuple(std)).describe()}"


def _origin(meta: Mapping[str, Any]) -> str:
    begun = meta.get("begun", {})
    if "reid.init_from.sha256" in begun:
        return f"a trained model, sha256 {str(begun['reid.init_from.sha256'])[:16]}"
    source = begun.get("reid.weights.source")
    if source is None:
        return "not stored"
    return "random weights" if source == "none" else f"the weights file {source}"


def _teacher(meta: Mapping[str, Any]) -> str:
    teacher, config = meta["teacher"], meta["config"]
    learnt, weight = config.get("teacher.kind"), config.get("teacher.weight")
    return f"{teacher['backbone']}, sha256 {teacher['sha256'][:16]}; its {learnt}, weight {weight}"


def _call(config: Mapping[str, Any], group: str) -> str:
    """A choice as its class with its numbers and switches, and the classes of the losses of a mix.

    Other texts may be paths; those of the suite's own later keys are words of a list, such as a classifier.
    """
    name = str(config.get(f"{group}._target_", "not stored")).rpartition(".")[2]
    keys = {
        key.removeprefix(f"{group}."): value for key, value in config.items() if key.startswith(f"{group}.")
    }
    shown = [f"{key}={value:g}" for key, value in keys.items() if type(value) in (int, float)]
    shown += [f"{key}={str(value).lower()}" for key, value in keys.items() if isinstance(value, bool)]
    for key, value in keys.items():
        part, _, last = key.rpartition(".")
        if part and last == "_target_":
            shown.append(f"{part}={str(value).rpartition('.')[2]}")
        elif isinstance(value, str) and key != "_target_" and LATER.get(f"{group}.{key}", value) != value:
            shown.append(f"{key}={value}")
    return f"{name}({', '.join(shown)})" if shown else name


def _public(data: str) -> str:
    """What data are called: a reader's name. A threshold also names the folder or table, which stays here."""
    name = data.partition(" ")[0]
    return name if name in {*_TERMS, "joint"} else "own data"


def _terms(name: str) -> str:
    return _TERMS.get(name.partition(" ")[0], _OWN_DATA)


def _rate(value: float | None, interval: list[float] | None = None, digits: int = 0) -> str:
    """Percent with one digit, or with so many that count; its interval in brackets."""
    if value is None:
        return "-"
    shown = [
        f"{100 * one:.{digits}g}" if digits else f"{100 * one:.1f}" for one in (value, *(interval or ()))
    ]
    return shown[0] + (f" [{shown[1]}, {shown[2]}]" if interval else "")
