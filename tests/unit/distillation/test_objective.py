"""A recipe's loss is the weighted sum of its terms; terms that do not fit the task are refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medistill.distillation.combine import combine_answers
from medistill.distillation.functional import dkd, rkd, sigmoid_kd, softmax_kd
from medistill.distillation.objective import RecipeObjective, _explained
from medistill.distillation.settings import Recipe
from medistill.errors import UserError
from medistill.models.heads import class_maps_by_autograd
from medistill.training.batches import Batch
from tests.answers import Answers, batch, recipe


def test_a_recipe_without_terms_is_the_tasks_loss(tiny_dataset, classes):
    logits = torch.randn(6, 2)
    targets = torch.tensor([[1.0, 0.0]] * 6)
    values = RecipeObjective(Recipe(), tiny_dataset)(logits, batch(targets))
    assert values["loss"].item() == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets).item())
    assert set(values) == {"loss", "binary_cross_entropy"}
    logits, number = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    values = RecipeObjective(Recipe(), classes)(logits, batch(F.one_hot(number, 3).float()))
    assert values["loss"].item() == pytest.approx(F.cross_entropy(logits, number).item(), rel=1e-6)


def test_the_loss_of_exclusive_classes_is_the_sum_of_its_terms(classes):
    logits, teacher = torch.randn(6, 3), np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    number = torch.tensor([0, 1, 2, 0, 1, 2])
    targets = F.one_hot(number, 3).float()
    terms = [
        {"loss": "cross_entropy", "weight": 0.1},
        {"loss": "softmax_kd", "weight": 0.5, "temperature": 2},
        {"loss": "dkd", "weight": 2.0, "beta": 4},
        {"loss": "softmax_kd"},
    ]
    values = RecipeObjective(recipe(*terms), classes, [Answers(teacher)])(logits, batch(targets))
    answer = torch.from_numpy(teacher)
    parts = [
        0.1 * F.cross_entropy(logits, number),
        0.5 * softmax_kd(logits, answer, temperature=2),
        2 * dkd(logits, answer, target=targets, beta=4),
        softmax_kd(logits, answer),
    ]
    assert values["loss"].item() == pytest.approx(sum(parts).item(), rel=1e-6)
    assert list(values) == ["loss", "cross_entropy", "softmax_kd", "dkd", "softmax_kd_2"]
    assert values["softmax_kd_2"].item() == pytest.approx(parts[3].item(), rel=1e-6)


def test_balanced_terms_count_the_training_labels(tiny_dataset, classes):
    train = tiny_dataset.targets(tiny_dataset.split("train"))
    ratio = torch.from_numpy((train == 0).sum(0) / (train == 1).sum(0)).float()
    logits, targets = torch.randn(6, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 3)
    objective = RecipeObjective(recipe({"loss": "binary_cross_entropy", "balanced": True}, teachers=0), tiny_dataset)
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=ratio)
    assert objective(logits, batch(targets))["loss"].item() == pytest.approx(expected.item(), rel=1e-5)

    counts = torch.from_numpy(classes.targets(classes.split("train")).sum(0))
    logits, number = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    objective = RecipeObjective(recipe({"loss": "cross_entropy", "balanced": True}, teachers=0), classes)
    expected = F.cross_entropy(logits, number, weight=counts.sum() / counts)
    value = objective(logits, batch(F.one_hot(number, 3).float()))["loss"]
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_label_that_is_the_same_in_all_of_training_weighs_one(tiny_dataset, constant):
    first = f"label:{tiny_dataset.labels[0]}"
    dataset = replace(tiny_dataset, manifest=tiny_dataset.manifest.assign(**{first: np.float32(constant)}))
    train = dataset.targets(dataset.split("train"))[:, 1]
    ratio = torch.tensor([1.0, (train == 0).sum() / (train == 1).sum()])
    logits, targets = torch.randn(6, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 3)
    objective = RecipeObjective(recipe({"loss": "binary_cross_entropy", "balanced": True}, teachers=0), dataset)
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=ratio)
    assert objective(logits, batch(targets))["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_class_that_training_does_not_have_weighs_one(classes):
    here = (classes.manifest["split"] != "train") | (classes.manifest["label:c"] == 0)
    dataset = replace(classes, manifest=classes.manifest[here])
    counts = torch.from_numpy(dataset.targets(dataset.split("train")).sum(0))
    assert counts[2] == 0
    weight = torch.tensor([*(counts.sum() / counts[:2] / 3), 1.0])
    logits, number = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    objective = RecipeObjective(recipe({"loss": "cross_entropy", "balanced": True}, teachers=0), dataset)
    expected = F.cross_entropy(logits, number, weight=weight)
    value = objective(logits, batch(F.one_hot(number, 3).float()))["loss"]
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            {"loss": "dkd"},
            "dkd is for exclusive classes, but the labels of this data set are not exclusive; use sigmoid_kd",
        ),
        ({"loss": "logit_standardized_kd"}, "logit_standardized_kd is for exclusive classes"),
        ({"loss": "softmax_kd"}, "softmax_kd is for exclusive classes.*or set allow_offset_blind: true"),
        ({"loss": "mse_kd", "space": "softmax"}, "mse_kd is for exclusive classes.*use space: sigmoid, or set"),
        ({"loss": "dist"}, "dist is for exclusive classes"),
    ],
)
def test_what_cannot_see_an_offset_is_refused_where_labels_are_not_exclusive(tiny_dataset, term, message):
    with pytest.raises(UserError, match=message):
        RecipeObjective(recipe(term), tiny_dataset, [Answers(np.zeros((6, 2)))])


def test_instead_of_a_hard_loss_a_hard_loss_is_named(tiny_dataset):
    message = "cross_entropy is for exclusive classes, .* are not exclusive; use binary_cross_entropy$"
    with pytest.raises(UserError, match=message):
        RecipeObjective(recipe({"loss": "cross_entropy"}, teachers=0), tiny_dataset)


@pytest.mark.parametrize(
    "term",
    [
        {"loss": "mse_kd", "space": "softmax", "allow_offset_blind": True},
        {"loss": "mse_kd"},
        {"loss": "dist", "activation": "sigmoid", "inter": 0},
        {"loss": "bckd"},
    ],
)
def test_losses_that_see_an_offset_or_are_enabled_by_name_are_accepted(tiny_dataset, term):
    teacher = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    objective = RecipeObjective(recipe(term), tiny_dataset, [Answers(teacher)])
    assert objective(torch.zeros(6, 2), batch(torch.zeros(6, 2)))["loss"] > 0


def test_a_hard_loss_of_the_other_task_is_refused(tiny_dataset, classes):
    with pytest.raises(UserError, match="cross_entropy is for exclusive classes"):
        RecipeObjective(recipe({"loss": "cross_entropy"}, teachers=0), tiny_dataset)
    with pytest.raises(UserError, match="focal_bce is for labels that are not exclusive; take cross_entropy"):
        RecipeObjective(recipe({"loss": "focal_bce"}, teachers=0), classes)


def test_labels_that_no_teacher_knows_have_the_hard_loss_alone(tiny_dataset):
    teacher = np.full((6, 2), np.nan, np.float32)
    teacher[:, 0] = 1.5
    terms = [{"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}]
    logits = torch.randn(6, 2, requires_grad=True)
    targets = torch.full((6, 2), float("nan"))
    values = RecipeObjective(recipe(*terms), tiny_dataset, [Answers(teacher)])(logits, batch(targets))
    values["loss"].backward()
    assert (logits.grad[:, 0] != 0).all()
    assert (logits.grad[:, 1] == 0).all()


class Student(torch.nn.Module):
    """A feature map, and a head that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.head = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))

    def forward(self, images):
        features = self.backbone(images)
        return self.head(features.mean((2, 3))), features


def seen_by(targets, logits, features) -> Batch:
    """The batch with the student's logits and features."""
    return replace(batch(targets), features=features, class_maps=partial(class_maps_by_autograd, logits, features))


def maps_of(student, images):
    """Maps by the definition, image by image and label by label."""
    out = torch.zeros(len(images), 2, *images.shape[2:])
    for image, label in np.ndindex(len(images), 2):
        _, features = student(images[image : image + 1])
        features = features.detach().requires_grad_()
        student.head(features.mean((2, 3)))[0, label].backward()
        weight = features.grad.mean((2, 3), keepdim=True)
        out[image, label] = (weight * features.detach()).sum(1)[0]
    return out


def test_explanations_are_of_three_labels_at_most():
    targets = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 1], [0, 0, 0, 0, 0]])
    answer = torch.tensor([[0, 1, 2, 3, 9], [0, 1, 2, 3, 4], [5, 1, 2, 9, 3], [0, 0, 7, 0, 9]]).float()
    known = torch.ones(4, 5, dtype=torch.bool)
    known[2, 3] = known[3, 4] = False  # the most probable labels, but no teacher knows them
    explained = _explained(targets, answer, known, likeliest=True)
    assert [row.nonzero().flatten().tolist() for row in explained] == [[2, 3, 4], [0, 4], [0, 2, 4], [2]]
    explained = _explained(targets, answer, known, likeliest=False)
    assert explained.sum(1).tolist() == [4, 1, 4, 0]


@pytest.mark.parametrize("loss", ["cam_kd", "explanation_kd"])
def test_maps_are_compared_for_the_labels_of_an_image(tiny_dataset, loss):
    student, images = Student(), torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    teachers = [
        Answers(rng.normal(size=(6, 2)).astype(np.float32), cams=rng.normal(size=(6, 2, 5, 5)).astype(np.float32))
        for _ in range(2)
    ]
    targets = torch.tensor([[1, 0], [0, 0], [1, 1], [np.nan, 1], [0, 0], [0, 0]]).float()
    logits, features = student(images)
    seen = seen_by(targets, logits, features)
    value = RecipeObjective(recipe({"loss": loss}, teachers=2), tiny_dataset, teachers)(logits, seen)["loss"]

    explained = {(0, 0), (2, 0), (2, 1), (3, 1)}
    if loss == "explanation_kd":
        mean = (teachers[0].said["logits"] + teachers[1].said["logits"]) / 2
        explained |= {(image, int(mean[image].argmax())) for image in range(6)}
    own = maps_of(student, images).numpy().astype(float)
    expected = []
    for teacher in teachers:
        for image, label in explained:
            a, b = own[image, label].ravel(), teacher.said["cams"][image, label].ravel()
            if loss == "explanation_kd":
                a, b = a.clip(0), b.clip(0)
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            expected.append(1 - cosine if loss == "explanation_kd" else 2 - 2 * cosine)
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-4)

    value.backward()
    weight = student.backbone.weight
    index, step = (2, 0, 1, 1), 1e-3
    moved = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[index] += sign * step
        logits, features = student(images)
        seen = seen_by(targets, logits, features)
        moved.append(RecipeObjective(recipe({"loss": loss}, teachers=2), tiny_dataset, teachers)(logits, seen)["loss"])
        with torch.no_grad():
            weight[index] -= sign * step
    slope = (moved[0] - moved[1]).item() / (2 * step)
    assert weight.grad[index].item() == pytest.approx(slope, rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("loss", ["cam_kd", "explanation_kd"])
def test_teachers_with_maps_of_many_sizes_are_compared_as_they_are(tiny_dataset, loss):
    student, images = Student(), torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    targets = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 1], [1, 1], [1, 0]]).float()
    same = Answers(np.zeros((6, 2), np.float32), cams=maps_of(student, images).detach().numpy())
    fine, part = (
        Answers(np.zeros((6, 2), np.float32), cams=rng.normal(size=(6, 2, size, size)).astype(np.float32))
        for size in (9, 3)
    )
    part.said["cams"][:, 1] = np.nan  # this teacher knows the first label only

    def value(*teachers):
        logits, features = student(images)
        objective = RecipeObjective(recipe({"loss": loss}, teachers=len(teachers)), tiny_dataset, teachers)
        return objective(logits, seen_by(targets, logits, features))["loss"].item()

    # explanation_kd also compares the first label of all images, as both labels have the same logit
    explained, known = (10, 6) if loss == "explanation_kd" else (8, 4)
    assert value(same) == pytest.approx(0, abs=1e-6)
    assert value(same, fine) == pytest.approx(value(fine) / 2, rel=1e-5)
    expected = (explained * value(fine) + known * value(part)) / (explained + known)
    assert value(fine, part) == pytest.approx(expected, rel=1e-5)


def test_without_labels_to_explain_maps_cost_nothing(tiny_dataset):
    student, images = Student(), torch.randn(6, 1, 5, 5)
    teacher = Answers(np.zeros((6, 2), np.float32), cams=np.ones((6, 2, 5, 5), np.float32))
    logits, features = student(images)
    seen = seen_by(torch.zeros(6, 2), logits, features)
    value = RecipeObjective(recipe({"loss": "cam_kd"}), tiny_dataset, [teacher])(logits, seen)["loss"]
    value.backward()
    assert value == 0


def test_relations_are_of_pooled_features(tiny_dataset):
    features = torch.randn(6, 4, 3, 3)
    answers = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    teacher = Answers(np.zeros((6, 2), np.float32), features=answers)
    seen = replace(batch(torch.zeros(6, 2)), features=features)
    value = RecipeObjective(recipe({"loss": "rkd", "angle": 3}), tiny_dataset, [teacher])(torch.zeros(6, 2), seen)
    expected = rkd(features.mean((2, 3)), torch.from_numpy(answers), angle=3)
    assert value["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_attention_is_compared_with_each_teachers(tiny_dataset):
    student = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    sizes = (5, 10)
    teachers = [
        Answers(np.zeros((6, 2), np.float32), attention=rng.random((6, size, size), np.float32)) for size in sizes
    ]
    seen = replace(batch(torch.zeros(6, 2)), features=student)
    objective = RecipeObjective(recipe({"loss": "attention_transfer"}, teachers=2), tiny_dataset, teachers)
    own = student.pow(2).mean(1).flatten(1).double().numpy()
    expected = []
    for teacher, size in zip(teachers, sizes, strict=True):
        energy = teacher.said["attention"].astype(float) ** 2
        theirs = energy.reshape(6, 5, size // 5, 5, size // 5).mean((2, 4)).reshape(6, 25)
        a, b = (maps / np.linalg.norm(maps, axis=1, keepdims=True) for maps in (own, theirs))
        expected.append(np.mean((a - b) ** 2))
    value = objective(torch.zeros(6, 2), seen)["loss"].item()
    assert value == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("loss", ["feature_mse", "cosine_similarity"])
def test_features_are_projected_into_each_teachers_width(tiny_dataset, loss):
    features = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    teachers = [
        Answers(np.zeros((6, 2), np.float32), features=rng.normal(size=(6, width)).astype(np.float32))
        for width in (3, 7)
    ]
    objective = RecipeObjective(recipe({"loss": loss}, teachers=2), tiny_dataset, teachers, map_shape=(4, 3, 3))
    pooled = features.mean((2, 3)).numpy()
    expected = []
    for teacher, project in zip(teachers, objective.projections[loss], strict=True):
        own = pooled @ project.weight.detach().numpy().T + project.bias.detach().numpy()
        theirs = teacher.said["features"]
        if loss == "feature_mse":
            expected.append(np.mean((own - theirs) ** 2))
        else:
            norms = np.linalg.norm(own, axis=1) * np.linalg.norm(theirs, axis=1)
            expected.append(np.mean(1 - (own * theirs).sum(1) / norms))
    value = objective(torch.zeros(6, 2), replace(batch(torch.zeros(6, 2)), features=features))["loss"]
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-5)
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())
    assert len(list(objective.parameters())) == 4


@pytest.mark.parametrize("loss", ["attention_transfer", "cam_kd", "explanation_kd"])
def test_maps_of_one_cell_cannot_be_compared(tiny_dataset, loss):
    with pytest.raises(UserError, match=f"{loss} compares maps, but that of the student is 1x1 at this size"):
        RecipeObjective(recipe({"loss": loss}), tiny_dataset, [Answers(np.zeros((6, 2)))], map_shape=(8, 1, 1))
    RecipeObjective(recipe({"loss": loss}), tiny_dataset, [Answers(np.zeros((6, 2)))], map_shape=(8, 1, 2))


def test_a_teacher_that_does_not_know_a_label_leaves_its_maps_to_the_others(tiny_dataset):
    student, images = Student(), torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    knows = Answers(np.zeros((6, 2), np.float32), cams=rng.normal(size=(6, 2, 5, 5)).astype(np.float32))
    half = np.array([[0.0, np.nan]] * 6, np.float32)
    lacks = Answers(
        half, cams=np.where(np.isnan(half)[:, :, None, None], np.nan, 1).astype(np.float32).repeat(3, 2).repeat(3, 3)
    )
    targets = torch.tensor([[0.0, 1.0]] * 6)  # it knows none of the labels that are explained
    values, gradients = [], []
    for teachers in ([knows], [knows, lacks]):
        logits, features = student(images)
        objective = RecipeObjective(recipe({"loss": "cam_kd"}, teachers=len(teachers)), tiny_dataset, teachers)
        value = objective(logits, seen_by(targets, logits, features))["loss"]
        gradients.append(torch.autograd.grad(value, student.backbone.weight)[0])
        values.append(value.item())
    assert values[0] > 0
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    assert torch.allclose(gradients[1], gradients[0], atol=1e-6)


def test_where_classes_are_exclusive_a_teacher_must_know_them_all(classes):
    half = np.array([[0.0, np.nan, 1.0]] * 6, np.float32)
    with pytest.raises(UserError, match="teacher a does not know the class 1; where classes are exclusive"):
        RecipeObjective(recipe({"loss": "softmax_kd"}), classes, [Answers(half)])


@pytest.mark.parametrize("how", ["mean", "entropy", "confidence"])
def test_answers_are_combined_as_the_recipe_says(tiny_dataset, classes, how):
    rng = np.random.default_rng(0)
    for dataset, loss, term in ((tiny_dataset, sigmoid_kd, "sigmoid_kd"), (classes, softmax_kd, "softmax_kd")):
        count, exclusive = len(dataset.labels), dataset.task.exclusive
        said = [(3 * rng.normal(size=(6, count))).astype(np.float32) for _ in range(2)]
        targets = torch.eye(count)[torch.arange(6) % count]
        logits = torch.randn(6, count, generator=torch.Generator().manual_seed(0))
        recipe = Recipe(teachers=["a", "b"], combine=how, terms=[{"loss": term}])
        value = RecipeObjective(recipe, dataset, [Answers(each) for each in said])(logits, batch(targets))["loss"]
        answers = torch.from_numpy(np.stack(said))
        expected = {
            (way, one_weight): loss(logits, combine_answers(answers, targets, how=way, exclusive=one_weight)[0]).item()
            for way in ("mean", "entropy", "confidence")
            for one_weight in (False, True)
        }
        own = expected.pop((how, exclusive))
        assert value.item() == pytest.approx(own, rel=1e-6)
        others = [other for (way, _), other in expected.items() if not way == how == "mean"]
        assert all(abs(other - own) > 1e-3 for other in others)  # not equal by chance


STAGES = [{"terms": [{"loss": "feature_mse"}], "epochs": 1}, {"terms": [{"loss": "sigmoid_kd"}]}]


def test_each_stage_has_its_own_terms_projections_and_questions(tiny_dataset):
    asked = []

    class Asked(Answers):
        def answer(self, batch, needs):
            asked.append(set(needs))
            return super().answer(batch, needs)

    teacher = Asked(np.ones((6, 2), np.float32), features=np.ones((6, 3), np.float32))
    staged = Recipe(teachers=["a"], stages=[*STAGES[:1], {"terms": [{"loss": "focal_bce"}], "epochs": 1}, STAGES[1]])
    stages = [RecipeObjective(staged, tiny_dataset, [teacher], stage=k, map_shape=(4, 3, 3)) for k in range(3)]
    assert [len(list(stage.parameters())) for stage in stages] == [2, 0, 0]
    seen = replace(batch(torch.ones(6, 2)), features=torch.ones(6, 4, 3, 3))
    values = [stage(torch.zeros(6, 2), seen) for stage in stages]
    assert [list(value)[1:] for value in values] == [["feature_mse"], ["focal_bce"], ["sigmoid_kd"]]
    assert asked == [{"features"}, set()]  # nobody is asked in the stage of labels alone


def test_what_does_not_fit_is_named_with_its_stage(tiny_dataset):
    half = np.array([[1.0, np.nan]] * 6, np.float32)
    teacher = Answers(half, features=np.ones((6, 3), np.float32))
    with pytest.raises(UserError, match=r"^recipes\.stages\.1: no term trains the label 1: no teacher knows it"):
        RecipeObjective(Recipe(teachers=["a"], stages=STAGES), tiny_dataset, [teacher], map_shape=(4, 3, 3))
    labels = {"terms": [{"loss": "binary_cross_entropy"}]}
    RecipeObjective(Recipe(teachers=["a"], stages=[STAGES[0], labels]), tiny_dataset, [teacher], map_shape=(4, 3, 3))
    maps, wrong = {"terms": [{"loss": "attention_transfer"}], "epochs": 1}, {"terms": [{"loss": "softmax_kd"}]}
    with pytest.raises(UserError, match=r"^recipes\.stages\.0: attention_transfer compares maps, but that of the st"):
        RecipeObjective(Recipe(teachers=["a"], stages=[maps, labels]), tiny_dataset, [teacher], map_shape=(4, 1, 1))
    with pytest.raises(UserError, match=r"^recipes\.stages\.1: softmax_kd is for exclusive classes"):
        RecipeObjective(Recipe(teachers=["a"], stages=[maps, wrong]), tiny_dataset, [teacher], map_shape=(4, 3, 3))
