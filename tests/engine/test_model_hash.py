"""The hash of a model changes with every name, shape, dtype and bit, and with nothing else."""

import re

import torch

from reid.engine.model_hash import model_hash

STATE = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a.seen": torch.tensor(7),
    "b": torch.zeros(0),
    "c": torch.ones(4, dtype=torch.bfloat16),
}


def test_the_same_tensors_have_one_hash_in_any_order_and_layout() -> None:
    found = model_hash(STATE)
    assert re.fullmatch(r"[0-9a-f]{64}", found)
    assert model_hash(dict(reversed(STATE.items()))) == found
    columns = STATE["a.weight"].t().contiguous().t()
    assert not columns.is_contiguous()
    assert model_hash({**STATE, "a.weight": columns.requires_grad_()}) == found


def test_a_name_a_shape_a_dtype_and_a_bit_count() -> None:
    weight = STATE["a.weight"]
    bit = weight.clone()
    bit[1, 2] = torch.nextafter(bit[1, 2], torch.tensor(9.0))
    others = [
        {("d" if name == "b" else name): tensor for name, tensor in STATE.items()},
        {name: tensor for name, tensor in STATE.items() if name != "b"},
        {**STATE, "a.weight": weight.reshape(3, 2)},
        {**STATE, "a.weight": weight.double()},
        {**STATE, "a.weight": weight.view(torch.int32)},
        {**STATE, "a.weight": bit},
        {**STATE, "a.weight": weight * -1 * -1 + torch.tensor(-0.0), "b": torch.zeros(1)},
    ]
    assert len({model_hash(state) for state in [STATE, *others]}) == 1 + len(others)


def test_names_and_tensors_cannot_run_into_each_other() -> None:
    two = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    one = {"a": torch.tensor([1.0, 2.0])}
    assert model_hash(two) != model_hash(one)
