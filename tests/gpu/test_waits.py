"""A lint over the code of a training step: what would make the host wait for a GPU, and where it may."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import reid

ROOT = Path(reid.__file__).parent
#: What runs within a step, in the host's main thread or in that of the batches.
STEP = sorted(
    {
        "distance.py",
        "engine/compute.py",
        "engine/distributed.py",
        "engine/finite.py",
        "engine/loop.py",
        "engine/objective.py",
        "engine/optimizers.py",
        "data/augment.py",
        "data/batches.py",
        "data/blur.py",
        "data/colour.py",
        "data/draws.py",
        "data/policies.py",
        "data/random_patch.py",
        "data/resize.py",
        "engine/average.py",
        "engine/teacher.py",
        "models/classifiers.py",
        "models/non_local.py",
        "models/people_vit.py",
        "models/solider.py",
        "models/stochastic_depth.py",
        "models/backbones.py",
        "models/ibn.py",
        "models/layout.py",
        "models/heads.py",
        "models/model.py",
        "models/spatial.py",
        *(file.relative_to(ROOT).as_posix() for file in (ROOT / "losses").glob("*.py")),
    }
)
#: What these import and no step computes with: it works on the host's memory alone, or before the first step.
HOST = {
    "config/checks.py", "config/schema.py", "data/image_store.py", "data/sampler.py",
    "engine/runtime.py", "engine/stop.py", "models/__init__.py", "models/build.py", "models/sizes.py",
    "models/trunk.py", "trust.py", "errors.py", "lazy.py", "normalisation.py",
    "config/mix.py", "data/__init__.py", "data/sizes.py", "engine/card.py", "engine/checkpoint.py",
    "engine/checkpoint_source.py", "engine/describe.py", "losses/__init__.py", "losses/kmeans.py",
    "models/matching.py", "models/timm_nets.py", "models/weight_file.py", "models/weights.py",
}  # fmt: skip

#: "file:function: what" -> why it may stand there.
ALLOWED = {
    "engine/loop.py:EpochTotals.means: .tolist()": "once, at the end of an epoch",
    "engine/loop.py:EpochTotals.from_state: .to(device)": "once, where a run is resumed",
    "models/heads.py:GeM.__init__: torch.tensor()": "before the first step, in the host's memory",
    "models/heads.py:GeM.__init__: float()": "of a number of the config",
    "engine/finite.py:check_finite: .tolist()": "once, at the end of an epoch",
    "engine/finite.py:FiniteGuard._check: .tolist()": "of the host: the flag has arrived there",
    "engine/finite.py:FiniteGuard._due: .synchronize()": "for several processes, LAG steps late",
    "engine/finite.py:FiniteGuard.flush: .synchronize()": "once, at the end of an epoch",
    "engine/distributed.py:Processes.largest: int()": "of the host: it goes by gloo",
    "engine/distributed.py:Processes.largest: torch.tensor()": "of the host: it goes by gloo",
    "engine/distributed.py:join: int()": "of the environment",
    "engine/distributed.py:Processes.collect: .to(device)": "in an evaluation",
    "engine/compute.py:Compute.place: .to(device)": "once, before the first step",
    "engine/compute.py:free_bytes: int()": "of the driver, before the first step and in an evaluation",
    "engine/compute.py:work_bytes: truth of a tensor": "of a switch of torch's, in an evaluation",
    "data/augment.py:RandomFlip.one_by_one: .tolist()": "on a CPU alone",
    "data/augment.py:RandomCrop.one_by_one: .tolist()": "on a CPU alone",
    "data/augment.py:RandomErasing.one_by_one: .tolist()": "on a CPU alone",
    "data/augment.py:per_column: torch.tensor()": "once for each width: it is kept",
    "data/blur.py:RandomBlur.one_by_one: .tolist()": "on a CPU alone",
    "data/blur.py:mirrored: .to(device)": "once for each size: it is kept",
    "data/blur.py:mirrored_columns: .to(device)": "once for each size: it is kept",
    "data/colour.py:RandomColour.one_by_one: .tolist()": "on a CPU alone",
    "data/colour.py:luma_weights: torch.tensor()": "once for each device: it is kept",
    "data/colour.py:yiq_matrices: torch.tensor()": "in the host's memory",
    "data/colour.py:yiq_matrices: .to(device)": "once for each device: they are kept",
    "data/policies.py:RandomPolicy.draw: .tolist()": "once a batch, in its thread: the host picks kernels",
    "data/policies.py:RandomPolicy.at_once: torch.tensor()": "in the same thread, once for images alike",
    "data/policies.py:RandomPolicy._autoaugment: int()": "of the host: what draw() has read",
    "data/policies.py:RandomPolicy._randaugment: int()": "of the host: what draw() has read",
    "data/policies.py:strength: float()": "of the host: what draw() has read",
    "data/policies.py:strength: int()": "of the host: what draw() has read",
    "data/policies.py:_affine: int()": "of the host: what draw() has read",
    "data/policies.py:: int()": "of the host: what draw() has read",
    "data/random_patch.py:RandomPatch.one_by_one: .tolist()": "on a CPU alone",
    "data/random_patch.py:RandomPatch.one_by_one: truth of a tensor": "on a CPU alone",
    "data/batches.py:TrainingBatches.__init__: .tolist()": "once, before the first step",
    "data/batches.py:TrainingBatches.__init__: truth of a tensor": "of a setting: whether there are camids",
    "data/batches.py:_mix: int()": "of numpy",
    "data/resize.py:_weights: .to(device)": "once for each pair of sizes: they are kept",
    "engine/average.py:WeightAverage.restore: int()": "once, where a run is resumed",
    "engine/teacher.py:Teacher.place: torch.tensor()": "once, before the first step",
    "engine/teacher.py:Teacher.place: .to(device)": "once, before the first step",
    "models/classifiers.py:build_margin: float()": "of a number of the config",
    "data/batches.py:to_device: .to(device)": "where the device is the CPU",
    "data/batches.py:MappedImages.read: .numpy()": "of the host",
    "data/batches.py:MappedImages.read: .tolist()": "of the host",
    "data/batches.py:ResidentImages.__init__: .to(device)": "once, before the first step",
    "data/batches.py:ResidentImages.__init__: .synchronize()": "once, before the first step",
    "losses/clustered_ranked.py:ClusteredRankedListLoss._pairs: .to(device)": "a buffer, there already",
    "models/backbones.py:_ResNet.__init__: bool()": "of a setting",
    "models/people_vit.py:PeopleViT.__init__: int()": "of a setting",
    "models/people_vit.py:check_size: int()": "of a setting",
    "models/solider.py:SoliderSwin.__init__: .tolist()": "before the first step, in the host's memory",
    "models/spatial.py:add_spatial_transformer: torch.tensor()": "once, as the network is built",
}  # fmt: skip

#: Methods and functions of torch whose result, or its shape, the host has to know.
READ = {
    "item", "tolist", "cpu", "numpy", "nonzero", "unique", "unique_consecutive", "masked_select", "argwhere",
    "is_nonzero", "equal", "allclose", "synchronize",
}  # fmt: skip
#: Attributes and methods of a tensor that the host knows without asking.
KNOWN = {
    "shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout", "itemsize", "names", "size",
    "dim", "numel", "element_size", "stride", "is_contiguous", "is_floating_point", "data_ptr", "is_pinned",
    "type",
}  # fmt: skip
#: Functions that answer from what the host knows.
HOSTS_OWN = {
    "len",
    "isinstance",
    "getattr",
    "hasattr",
    "type",
    "id",
    "range",
    "zip",
    "enumerate",
    "print",
    "repr",
}


class Waits(ast.NodeVisitor):
    """The places of one module, as (function, what, line)."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, int]] = []
        self._place: list[str] = []
        self._tensors: set[str] = set()
        self._masks: set[str] = set()

    # ---- where we are

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._place.append(node.name)
        self.generic_visit(node)
        self._place.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = set(self._tensors), set(self._masks)
        for argument in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs):
            if argument.annotation is not None and _names_tensor(argument.annotation):
                self._tensors.add(argument.arg)
        self._place.append(node.name)
        self.generic_visit(node)
        self._place.pop()
        self._tensors, self._masks = before

    def _note(self, node: ast.AST, what: str) -> None:
        self.found.append((".".join(self._place), what, getattr(node, "lineno", 0)))

    # ---- what is a tensor, and what a mask

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            for part in parts:
                if isinstance(part, ast.Name):
                    self._learn(part.id, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name) and (
            _names_tensor(node.annotation) or (node.value is not None and self._tensor(node.value))
        ):
            self._tensors.add(node.target.id)

    def _learn(self, name: str, value: ast.expr) -> None:
        (self._tensors.add if self._tensor(value) else self._tensors.discard)(name)
        (self._masks.add if self._mask(value) else self._masks.discard)(name)

    def _tensor(self, node: ast.AST) -> bool:
        """Whether an expression is a tensor as far as can be told from here."""
        match node:
            case ast.Name():
                return node.id in self._tensors
            case ast.Attribute():
                return node.attr not in KNOWN and self._tensor(node.value)
            case ast.Subscript():
                return self._tensor(node.value)
            case ast.BinOp():
                return self._tensor(node.left) or self._tensor(node.right)
            case ast.UnaryOp():
                return not isinstance(node.op, ast.Not) and self._tensor(node.operand)
            case ast.Compare():
                identity = any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops)
                return not identity and any(map(self._tensor, (node.left, *node.comparators)))
            case ast.IfExp():
                return self._tensor(node.body) or self._tensor(node.orelse)
            case ast.Call(func=ast.Attribute() as function):
                made = isinstance(function.value, ast.Name) and function.value.id in ("torch", "functional")
                return function.attr not in KNOWN | READ and (made or self._tensor(function.value))
            case ast.Call(func=ast.Name() as function):
                return function.id not in HOSTS_OWN and any(map(self._tensor, node.args))
        return False

    def _mask(self, node: ast.AST) -> bool:
        """Whether an expression is a boolean tensor."""
        match node:
            case ast.Name():
                return node.id in self._masks
            case ast.Compare():
                return self._tensor(node)
            case ast.UnaryOp(op=ast.Invert()):
                return self._mask(node.operand)
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr() | ast.BitXor()):
                return self._mask(node.left) or self._mask(node.right)
        return False

    # ---- what waits

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Attribute):
            of_torch = isinstance(function.value, ast.Name) and function.value.id == "torch"
            if function.attr in READ:
                self._note(node, f"{'torch' if of_torch else ''}.{function.attr}()")
            elif of_torch and function.attr in ("tensor", "as_tensor"):
                self._note(node, f"torch.{function.attr}()")
            elif function.attr in ("to", "cuda") and not _is_asynchronous(node) and _names_device(node):
                self._note(node, ".to(device)")
        elif isinstance(function, ast.Name) and function.id in ("float", "int", "bool"):
            plain = all(isinstance(one, ast.Constant) or _is_len(one) for one in node.args)
            if node.args and not plain:
                self._note(node, f"{function.id}()")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if any(map(self._mask, parts)):
            self._note(node, "indexing by a mask")
        self.generic_visit(node)

    def _truth(self, test: ast.expr) -> None:
        parts = test.values if isinstance(test, ast.BoolOp) else [test]
        for part in parts:
            part = part.operand if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not) else part
            if isinstance(part, ast.BoolOp):
                self._truth(part)
            elif self._tensor(part):
                self._note(part, "truth of a tensor")

    def visit_If(self, node: ast.If) -> None:
        self._truth(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._truth(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._truth(node.test)
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        self._truth(node.test)
        self.generic_visit(node)


def _names_tensor(annotation: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Name) and node.id == "Tensor")
        or (isinstance(node, ast.Attribute) and node.attr == "Tensor")
        for node in ast.walk(annotation)
    ) and not isinstance(annotation, ast.Subscript)


def _is_asynchronous(call: ast.Call) -> bool:
    return any(word.arg == "non_blocking" for word in call.keywords)


def _names_device(call: ast.Call) -> bool:
    """Whether a `.to(…)` goes to another device: its first argument is called so, or a text."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "cuda":
        return True
    return any(
        (isinstance(word, ast.Name | ast.Attribute) and ast.unparse(word).endswith("device"))
        or (isinstance(word, ast.Constant) and isinstance(word.value, str))
        or (isinstance(word, ast.Call) and ast.unparse(word.func) == "torch.device")
        for word in (*call.args, *(word.value for word in call.keywords if word.arg == "device"))
    )


def _is_len(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len"


def waits(source: str) -> list[tuple[str, str, int]]:
    """Every place of a module's source that would make the host wait: (function, what, line)."""
    visitor = Waits()
    visitor.visit(ast.parse(source))
    return visitor.found


def found() -> Iterator[tuple[str, str]]:
    """("file:function: what", with its line) of all files of the step."""
    for name in STEP:
        for function, what, line in waits((ROOT / name).read_text()):
            yield f"{name}:{function}: {what}", f"reid/{name}:{line} in {function}: {what}"


def test_nothing_within_a_step_makes_the_host_wait() -> None:
    unknown = [shown for key, shown in found() if key not in ALLOWED]
    assert not unknown, (
        "may make the host wait for the GPU; if it does not, say why in ALLOWED: " + "; ".join(unknown)
    )


def test_what_is_allowed_is_still_there() -> None:
    assert not ALLOWED.keys() - {key for key, _ in found()}


def test_all_that_a_step_imports_is_looked_at() -> None:
    for name in STEP:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("reid."):
                file = str(node.module).removeprefix("reid.").replace(".", "/") + ".py"
                if not (ROOT / file).exists():
                    file = file.removesuffix(".py") + "/__init__.py"
                assert file in STEP or file in HOST, f"{name} imports {file}: list it in STEP or HOST"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("return features.mean().item()", ".item()"),
        ("return features.cpu()", ".cpu()"),
        ("return (features > 0).tolist()", ".tolist()"),
        ("return features.nonzero()", ".nonzero()"),
        ("return torch.nonzero(features)", "torch.nonzero()"),
        ("return labels.unique()", ".unique()"),
        ("return float(features.max())", "float()"),
        ("return bool(features.isfinite().all())", "bool()"),
        ("count = (labels == 0).sum()\n    return 0 if count > 3 else 1", "truth of a tensor"),
        ("if features.isnan().any():\n        return 0", "truth of a tensor"),
        ("if scale is not None and not features.isfinite().all():\n        return 0", "truth of a tensor"),
        ("while features.norm() > 1:\n        features = features / 2", "truth of a tensor"),
        ("assert (features >= 0).all()", "truth of a tensor"),
        ("return features[labels > 0]", "indexing by a mask"),
        ("chosen = ~(labels == 0)\n    return features[chosen, :2]", "indexing by a mask"),
        ("return features * torch.tensor([0.1], device=features.device)", "torch.tensor()"),
        ("return images.to(features.device)", ".to(device)"),
        ('return features.to("cpu")', ".to(device)"),
        ("torch.cuda.synchronize()", ".synchronize()"),
    ],
)
def test_a_planted_wait_is_found(line: str, what: str) -> None:
    source = f"def step(features: Tensor, labels: torch.Tensor, images, scale):\n    {line}\n"
    assert [(function, reason) for function, reason, _ in waits(source)] == [("step", what)]


def test_what_waits_for_nothing_is_left_alone() -> None:
    assert not waits(
        """
def step(features: Tensor, labels: Tensor, weight: Tensor | None = None):
    if features.ndim != 2 or len(features) == 0 or features.shape[1] < int("3"):
        raise ValueError
    if weight is not None and features.device.type == "cpu":
        features = features * weight
    same = labels[:, None] == labels[None, :]
    features = features.masked_fill(~same.any(dim=1), 0)[:, None]
    there = features.to(features.device, non_blocking=True).to(torch.float32)
    return torch.where(same, there, 0.0) if len(labels) > 3 else features.float()
"""
    )
