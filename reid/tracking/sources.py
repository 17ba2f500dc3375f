"""What the code of this package computes, by a number: runs of one number and one config have the same bits.

A tree is known by a hash of what its code means, taken over the rooms that compute: the statements at the top
of their files as syntax trees, in no order.  Comments, docstrings, annotations, texts of errors, imports from
`reid` that change no name, and the file and place in which a function stands do not count.  `DECLARED` says
which number a tree computes.

Whoever changes such code declares the new tree in the end: with the same number, where the same config and
seed give the same bits on a CPU as before; else with the next one, and `DIFFERS` says which configs that
concerns.  Code that nobody has declared, such as an edit of the user's own, is known by its hash alone and
equals no other.

`python -m reid.tracking.sources` prints the hash of this tree.
"""

import ast
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from reid.trust import trusted_places

#: What this package computes.
NUMBERS = 3

#: The trees whose numbers are known.
DECLARED = {
    "b6731f319247c42b": 1,  # commit d063546, whose runs hold a hash over names and bytes
    "b368d3a247bbe3ee": 2,  # commit 1e3f991, likewise
    "9bbf23895e85a5bc": 2,
    "9111703b362fcee0": 3,
}


def _differs_from_1(config: Mapping[str, Any]) -> bool:
    # Equal bits were seen on a CPU for other networks, losses and optimizers, with float32 and bf16.
    return (
        config.get("backbone.library") == "timm"  # biases and norms of timm's networks no longer decay
        or config.get("freeze_bn") is True  # of the backbone alone, no longer of the neck too
        or config.get("precision") == "tf32"  # distances are computed from all digits
        or config.get("dataset.name")
        in ("folder", "folders", "table", "joint")  # queries of pid 0 are nobody
        or (  # its centres move by torch's fused SGD on a GPU
            config.get("loss._target_") == "reid.losses.TripletCenterLoss" and config.get("device") != "cpu"
        )
    )


def _differs_from_2(config: Mapping[str, Any]) -> bool:
    return (
        # The losses of a mix are made in the order of their names, and some draw weights.
        config.get("loss._target_") == "reid.losses.Mix"
        # The pixel numbers of a checkpoint come before those that a network has by itself.
        or (config.get("init_from") is not None and config.get("image.mean") is None)
    )


#: For each number, whether it computes a config otherwise than the number before it.
DIFFERS: dict[int, Callable[[Mapping[str, Any]], bool]] = {2: _differs_from_1, 3: _differs_from_2}

#: What of `reid/` no number depends on: folders and files.  Whatever else lies there counts, such as a module
#: that a user adds.
NO_NUMBERS = (
    "__init__.py", "api.py", "browse.py", "clean.py", "commands/", "compare.py", "convert.py",
    "data/image_inputs.py", "doctor.py", "engine/card.py", "engine/model_hash.py", "errors.py",
    "evaluate.py", "export/", "extract.py", "figures/", "formats.py", "gallery/", "home.py", "index.py",
    "inference.py", "jobs/", "judging/activation.py", "judging/review.py", "judging/stored_scores.py",
    "lazy.py", "limits.py", "locks.py", "profile.py", "report.py", "runs/", "search.py", "sweeps/",
    "sync.py", "terminal.py", "threshold.py", "tracking/", "trust.py", "ui.py", "words.py",
)  # fmt: skip
#: Of these folders, what does.
_NUMBERS_NONETHELESS = ("commands/train.py",)
_LEFT_OUT = {"annotation", "returns", "type_params", "type_comment", "ctx", "kind"}


@cache
def code() -> str:
    """What a run says of the code that made it: `numbers-2`, or the hash of a tree that is not declared.

    Where the user trusts packages of their own, a hash of these follows: `numbers-2+0123456789abcdef`.
    """
    tree = tree_hash(Path(__file__).resolve().parents[1])
    numbers = f"numbers-{DECLARED[tree]}" if tree in DECLARED else tree
    places = trusted_places()
    return f"{numbers}+{_files_hash(places)}" if places else numbers


def oldest_alike(config: Mapping[str, Any]) -> int:
    """The least number from which on the code computes a flat config as it does now."""
    return max((number for number, differs in DIFFERS.items() if differs(config)), default=1)


def codes_since(oldest: int) -> frozenset[str]:
    """All that a run may say of its code, see `code`, and have our numbers or any from `oldest` on."""
    ours = code()
    numbers, plus, trusted = ours.partition("+")
    if numbers != f"numbers-{NUMBERS}":
        return frozenset({ours})
    known = {f"numbers-{number}" for number in range(oldest, NUMBERS + 1)}
    known |= {tree for tree, number in DECLARED.items() if number >= oldest}
    return frozenset(f"{name}{plus}{trusted}" for name in known)


def tree_hash(package: Path) -> str:
    """16 hex digits over what the code of `package`, a folder such as reid/, means for the numbers."""
    statements: list[str] = []
    for path in package.rglob("*.py"):
        place = path.relative_to(package).as_posix()
        counts = place in _NUMBERS_NONETHELESS or not place.startswith(NO_NUMBERS)
        if counts and path.is_file():  # an editor's lock is a link to nowhere
            statements += _statements(path.read_bytes())
    return hashlib.sha256("\n".join(sorted(statements)).encode()).hexdigest()[:16]


def _statements(content: bytes) -> list[str]:
    """What the statements at the top of a file mean; of one that is no Python, such as half an edit, all."""
    try:
        return list(filter(None, map(_meaning, ast.parse(content).body)))
    except (SyntaxError, ValueError):
        return [repr(content)]


def _meaning(node: Any) -> str:
    """A syntax tree as text, less what computes nothing; the same by every version of Python."""
    if isinstance(node, list):
        return f"[{','.join(filter(None, map(_meaning, node)))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "reid":
        renamed = [one for one in node.names if one.asname not in (None, one.name)]
        return _meaning(renamed) if renamed else ""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
        return ""
    if isinstance(node, ast.Raise):
        return f"Raise({_meaning(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)})"
    fields = [
        f"{name}={_meaning(value)}"
        for name, value in ast.iter_fields(node)
        if name not in _LEFT_OUT and value not in (None, [])
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _files_hash(places: list[Path]) -> str:
    """16 hex digits over the Python files of packages, which may compute anything: names and bytes."""
    digest = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(place).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    print(tree_hash(Path(__file__).resolve().parents[1]))
