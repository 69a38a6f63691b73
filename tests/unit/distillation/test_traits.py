"""Every loss has exactly the properties that its row in `TRAITS` says."""

import inspect
from typing import get_args

import pytest
import torch
from sklearn.metrics import roc_auc_score

from medistill.distillation import functional
from medistill.distillation.functional import TRAITS, Traits
from medistill.distillation.terms import AnyTerm

N, L, K, SIZE = 12, 5, 7, 6
SHAPES = {
    "targets": (N, L),
    "logits": (N, L),
    "features": (N, K),
    "maps": (N, K, SIZE, SIZE),
    "label_maps": (N, L, SIZE, SIZE),
}


def draw(traits: Traits, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Outputs of a student and a teacher (or labels) for one batch, in float64, and other inputs of the loss."""
    generator = torch.Generator().manual_seed(seed)
    shape = SHAPES[traits.inputs]
    student, teacher = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    one_hot = torch.eye(L, dtype=torch.float64)[torch.randint(L, (N,), generator=generator)]
    if traits.inputs == "targets":
        teacher = one_hot if traits.exclusive else (teacher > 0).double()
    return student, teacher, {"target": one_hot}


@pytest.fixture(params=TRAITS, ids=lambda row: "-".join([row[0], *map(str, row[1].values())]))
def case(request):
    name, options, traits = request.param
    function = getattr(functional, name)

    def loss(student, teacher, rows=slice(None), **more):
        if "target" in inspect.signature(function).parameters and name == "dkd":
            more = {"target": extra["target"][rows]} | more
        return function(student, teacher, **options, **more)

    student, teacher, extra = draw(traits)
    return name, traits, loss, student, teacher, extra


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return abs(a.item() - b.item()) < 1e-4 * max(1e-2, abs(a.item()))


def test_every_public_loss_has_its_traits():
    losses = {
        name
        for name, value in vars(functional).items()
        if inspect.isfunction(value) and value.__module__ == functional.__name__ and not name.startswith("_")
    }
    assert losses - {"masked_mean", "sum_over_processes"} == {name for name, _, _ in TRAITS}
    assert len(TRAITS) == len({(name, *map(str, options.values())) for name, options, _ in TRAITS})


def test_zero_at_equality(case):
    _, traits, loss, student, teacher, _ = case
    assert (loss(teacher, teacher).abs() < 1e-6) == traits.zero_at_equality
    assert loss(student, teacher) > 1e-3  # not zero for different inputs


def shifted_by_image(student):
    return student + torch.linspace(-2, 2, N).view(-1, *[1] * (student.ndim - 1)).double()


def shifted_by_label(student):
    return student + torch.linspace(-2, 2, student.shape[1]).view(1, -1, *[1] * (student.ndim - 2)).double()


@pytest.mark.parametrize(
    ("trait", "change"),
    [
        ("image_offset", shifted_by_image),
        ("label_offset", shifted_by_label),
        ("scale", lambda student: 1.7 * student),
    ],
)
def test_every_trait_holds_or_is_refuted(case, trait, change):
    _, traits, loss, student, teacher, _ = case
    before, after = loss(student, teacher), loss(change(student), teacher)
    assert same(before, after) == getattr(traits, trait)


def test_batch_size(case):
    _, traits, loss, student, teacher, _ = case
    whole = loss(student, teacher)
    halves = [loss(student[rows], teacher[rows], rows=rows) for rows in (slice(0, N, 2), slice(1, N, 2))]
    assert same(whole, (halves[0] + halves[1]) / 2) == traits.batch_size


def test_a_batch_twice_is_the_batch(case):
    name, _, loss, student, teacher, extra = case
    twice = {"target": extra["target"].repeat(2, 1)} if name == "dkd" else {}
    after = loss(student.repeat(2, *[1] * (student.ndim - 1)), teacher.repeat(2, *[1] * (teacher.ndim - 1)), **twice)
    assert same(loss(student, teacher), after)


def test_the_gradient_reaches_the_student_alone(case):
    _, traits, loss, student, teacher, _ = case
    student.requires_grad_()
    if traits.inputs != "targets":
        teacher.requires_grad_()
    loss(student, teacher).backward()
    assert (teacher.grad is not None) == traits.to_teacher
    assert torch.isfinite(student.grad).all()
    assert (student.grad != 0).any()


def test_the_gradient_is_that_of_finite_differences(case):
    _, _, loss, student, teacher, _ = case
    student = student.float().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher), student)
    generator = torch.Generator().manual_seed(7)
    direction = torch.randn(student.shape, generator=generator)
    direction /= direction.norm()
    step = 1e-2
    ahead, behind = (loss(student.detach() + sign * step * direction, teacher) for sign in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx(
        (ahead - behind).item() / (2 * step), rel=3e-2, abs=1e-4
    )


def masks(traits: Traits) -> torch.Tensor:
    """By image, or by image and label."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand((N,) if traits.mask == "image" else (N, L), generator=generator) < 0.6
    assert mask.any()
    assert not mask.all()
    return mask


def test_what_is_masked_changes_nothing(case):
    _, traits, loss, student, teacher, _ = case
    mask = masks(traits)
    wide = mask.view(*mask.shape, *[1] * (student.ndim - mask.ndim))
    other_student = torch.where(wide, student, student + 3 * torch.randn_like(student))
    before = loss(student, teacher, mask=mask)
    assert before > 0
    assert same(before, loss(other_student, teacher, mask=mask))
    assert not same(before, loss(student, teacher))
    unknown = torch.where(wide, teacher, float("nan")) if traits.inputs != "targets" else teacher
    student = torch.where(wide, student, float("nan")).requires_grad_()
    after = loss(student, unknown, mask=mask)
    after.backward()
    assert same(before, after)
    assert torch.isfinite(student.grad).all()
    assert (student.grad[~mask] == 0).all()


def test_a_masked_loss_is_the_mean_over_kept_entries(case):
    """A mask by image gives the loss of the kept images as a batch, one by label the mean over all kept entries."""
    name, traits, loss, student, teacher, extra = case
    mask = masks(traits)
    if traits.mask == "image":
        more = {"target": extra["target"][mask]} if name == "dkd" else {}
        assert same(loss(student, teacher, mask=mask), loss(student[mask], teacher[mask], **more))
        return
    if name == "dist":  # its correlations are over several images or labels: test_functional has their oracle
        return
    values, counts = [], []
    for i in range(N):
        kept = mask[i]
        if not traits.exclusive:
            alone = [
                loss(student[i : i + 1, j : j + 1], teacher[i : i + 1, j : j + 1]) for j in kept.nonzero().flatten()
            ]
            values.append(sum(value.item() for value in alone))
            counts.append(len(alone))
        elif kept.sum() > 1 or name == "mse_kd":  # a softmax over one kept class is constant
            count = kept.sum().item() if name == "mse_kd" else 1  # mse_kd is a mean over entries, others over images
            values.append(count * loss(student[i : i + 1, kept], teacher[i : i + 1, kept]).item() if count else 0)
            counts.append(count)
    assert loss(student, teacher, mask=mask).item() == pytest.approx(sum(values) / sum(counts), rel=1e-4)


def test_shapes_that_torch_would_broadcast_are_refused(case):
    _, traits, loss, student, teacher, _ = case
    good = masks(traits)
    bad = [good[:1], good[:-1], good[..., None], good[0]]
    bad += [torch.ones(N, L, dtype=torch.bool)] if traits.mask == "image" else [good[:, 0], good[:, :1]]
    for mask in bad:
        with pytest.raises(ValueError, match=r"mask must have the shape \(12"):
            loss(student, teacher, mask=mask)
    others = [teacher[:1], teacher[:-1]]
    if traits.any_width:
        assert loss(student, teacher[:, :1]).isfinite()
    else:
        others.append(teacher[:, :1])
    for other in others:
        with pytest.raises(ValueError, match=r"must have the shape|have different shapes"):
            loss(student, other)


def test_equal_features_have_a_finite_gradient(case):
    _, _, loss, student, teacher, _ = case
    usual, alike = student.float(), student.float().clone()
    alike[1] = alike[0]
    norms = [
        torch.autograd.grad(loss(said.requires_grad_(), teacher), said)[0].norm().item() for said in (usual, alike)
    ]
    assert norms[1] < 10 * norms[0]


def test_a_loss_with_everything_masked_is_zero(case):
    _, traits, loss, student, teacher, _ = case
    student.requires_grad_()
    value = loss(student, teacher, mask=torch.zeros_like(masks(traits)))
    value.backward()
    assert value == 0
    assert (student.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(case, dtype):
    _, _, loss, student, teacher, _ = case
    student, teacher = 10 * student.to(dtype), teacher.to(dtype)  # logits to ±50
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert same(loss(student.float(), teacher.float()), value)


def test_sure_answers_stay_finite(case):
    _, traits, loss, student, teacher, _ = case
    student = (40 * student.sign()).requires_grad_()
    value = loss(student, teacher if traits.inputs == "targets" else -40 * teacher.sign())
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_a_batch_of_one_is_defined(case):
    _, _, loss, student, teacher, _ = case
    student = student[:1].requires_grad_()
    value = loss(student, teacher[:1], rows=slice(1))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("constant", [0.0, -2.3])
def test_a_constant_student_has_a_finite_gradient(case, constant):
    _, _, loss, student, teacher, _ = case
    student = torch.full_like(student, constant).requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert student.grad.norm() < 10


def test_a_softmax_over_labels_misses_a_loss_of_macro_auroc():
    """A constant per image destroys the ranking of images by each label, but no loss with a softmax changes."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2000, 14, generator=generator)
    ruined = teacher + 3 * torch.randn(2000, 1, generator=generator)
    targets = torch.rand(teacher.shape, generator=generator) < torch.sigmoid(3 * teacher)
    before, after = (roc_auc_score(targets, said) for said in (teacher, ruined))
    assert before > 0.9
    assert after < 0.7
    for name, options, traits in TRAITS:
        if traits.inputs != "logits" or name == "dkd":
            continue
        value = getattr(functional, name)(ruined, teacher, **options).item()
        assert (value < 1e-6) == traits.exclusive, name


def defaults_of(name: str, given: dict) -> dict:
    """Options of a loss in params.yaml, with their defaults, except for its weight and the row's own options."""
    models = {get_args(term.model_fields["loss"].annotation)[0]: term for term in get_args(get_args(AnyTerm)[0])}
    fields = {
        key: field.default for key, field in models[name].model_fields.items() if key not in ("loss", "weight", *given)
    }
    return {
        key: "false" if default is False else "null" if default is None else default for key, default in fields.items()
    }


def test_the_table_in_the_documentation_is_this_one(root):
    text = (root / "docs" / "distillation.md").read_text()
    table = text.partition("<!-- traits: begin -->\n")[2].partition("\n<!-- traits: end -->")[0]
    rows = []
    for name, options, traits in TRAITS:
        shown = f"`{name}`" + (
            f" ({', '.join(f'{key}: {value}' for key, value in options.items())})" if options else ""
        )
        cells = [
            shown,
            traits.inputs.replace("_", " "),
            *("yes" if value else "" for value in traits[1:-1]),
            traits.mask,
            ", ".join(f"{option} {default}" for option, default in defaults_of(name, options).items()),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    assert table.splitlines()[2:] == rows


def test_within_autocast_all_is_computed_in_single(case):
    _, _, loss, student, teacher, _ = case
    with torch.autocast("cpu", torch.bfloat16):
        within = loss(student, teacher)
    assert within.item() == pytest.approx(loss(student, teacher).item(), rel=1e-6)
