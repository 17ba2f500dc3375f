"""What a teacher's features ask of a student's, computed again pair by pair."""

import pytest
import torch
from torch import Tensor

from reid.losses import FeatureDistillation, RelationalDistillation


def drawn(rows: int, size: int, seed: int) -> Tensor:
    return torch.randn(rows, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER = drawn(6, 5, 0), drawn(6, 3, 1)


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def relations(features: Tensor) -> list[float]:
    unit = [row / row.norm() for row in features]
    pairs = [(i, j) for i in range(len(unit)) for j in range(len(unit)) if i != j]
    distances = [(unit[i] - unit[j]).norm().item() for i, j in pairs]
    mean = sum(distances) / len(distances)
    return [distance / mean for distance in distances]


def test_relations_are_those_of_the_paper() -> None:
    # One image far from five that are alike: a difference above 1, where the loss is linear.
    alone = torch.ones(6, 3, dtype=torch.float64) + 0.01 * TEACHER
    alone[0] = -1
    for teacher in (TEACHER, alone):
        pairs = list(zip(relations(STUDENT), relations(teacher), strict=True))
        assert (max(abs(s - t) for s, t in pairs) > 1) == (teacher is alone)
        wanted = sum(huber(s - t) for s, t in pairs) / len(pairs)
        assert RelationalDistillation()(STUDENT, teacher).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("rows", "teacher"), [(2, 5), (6, 5), (6, 3)])
def test_features_are_compared_at_length_one_and_through_a_projection(rows: int, teacher: int) -> None:
    torch.manual_seed(0)
    criterion = FeatureDistillation(5, teacher).double()
    student, theirs = STUDENT[:rows], drawn(rows, teacher, 2)
    weight = dict(criterion.named_parameters()).get("projection.weight", torch.eye(5, dtype=torch.float64))
    assert (len(list(criterion.parameters())) == 0) == (teacher == 5)
    wanted = 0.0
    for s, t in zip(student, theirs, strict=True):
        seen = weight @ s
        wanted += (seen / seen.norm() - t / t.norm()).square().sum().item() / rows
    assert criterion(student, theirs).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("criterion", [FeatureDistillation(5, 3).double(), RelationalDistillation()])
def test_the_gradient_is_that_of_the_formula(criterion: torch.nn.Module) -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda features: criterion(features, TEACHER), (student,))


def test_a_student_that_knows_it_all_has_nothing_to_learn() -> None:
    for criterion in (FeatureDistillation(3, 3), RelationalDistillation()):
        student = (2.5 * TEACHER).requires_grad_()  # only the length differs
        loss = criterion(student, TEACHER)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-20)
        assert student.grad is not None
        assert student.grad.abs().max() < 1e-9
    order = torch.tensor([3, 1, 0, 2, 5, 4])
    relational = RelationalDistillation()
    shuffled = relational(STUDENT[order], TEACHER[order]).item()
    assert shuffled == pytest.approx(relational(STUDENT, TEACHER).item())


def test_equal_and_single_images_give_finite_numbers() -> None:
    for rows in (1, 4):
        student = torch.ones(rows, 5, requires_grad=True)
        loss = RelationalDistillation()(student, TEACHER[:rows].float())
        loss.backward()
        assert loss.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()
