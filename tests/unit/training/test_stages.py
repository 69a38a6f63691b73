"""A recipe with stages: as many steps as a baseline, each stage with its own losses, images and schedule."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from medistill.augmentation import Augmentation
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Recipe
from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.training.checkpoint import Checkpoint
from medistill.training.settings import Training
from medistill.training.spec import TrainingSpec
from medistill.training.trainer import Trainer, learning_rate_factor

STILL = Augmentation(rotation=5, translation=0.02, scale=0.05, brightness=0.05, contrast=0.1, flip=False)
NETWORK = Network(arch="test_resnet", args={"drop_rate": 0.1})
TRAINING = Training(epochs=5, batch_size=6, learning_rate=0.002, weight_decay=0.1, warmup=0.2)
FEATURES, TASK = [{"loss": "feature_mse"}], [{"loss": "binary_cross_entropy"}, {"loss": "feature_mse", "weight": 0.5}]
RECIPE = Recipe(
    teachers=["a"], stages=[{"terms": FEATURES, "epochs": 3, "unlabelled": True}, {"terms": TASK, "epochs": 2}]
)
SPEC = TrainingSpec(name="a", network=NETWORK, training=TRAINING, augmentation=STILL, recipe=RECIPE, views=2)
STEPS = 4
"""Of an epoch: 28 of 42 training images have labels."""


class Constant:
    """A teacher whose features depend on the image's patient alone."""

    map_shape, unknown = (3, 2, 2), ()

    def answer(self, batch, needs):
        patients = torch.tensor([int(image_id[:5]) for image_id in batch.image_ids])
        return {"logits": torch.zeros(len(patients), 2), "features": torch.stack([patients / 30] * 3, 1)}


@pytest.fixture(scope="module")
def sparse(tiny_dataset):
    """The tiny data set, of whose training images a third have no label."""
    manifest = tiny_dataset.manifest.copy()
    ids = manifest["image_id"][manifest["split"] == "train"]
    for label in tiny_dataset.labels:
        manifest[f"label:{label}"] = manifest[f"label:{label}"].mask(manifest["image_id"].isin(ids.iloc[::3]))
    return replace(tiny_dataset, manifest=manifest)


def built(dataset, folder, spec=SPEC, on_step=lambda report: None):
    """A network, the losses of its stages, and the trainer of both."""
    torch.manual_seed(0)
    model = create_classifier(spec.network, labels=dataset.labels)
    teachers = [Constant()] if spec.recipe.teachers else []
    shape = (model.backbone.num_features, 1, 1)
    objectives = [
        RecipeObjective(spec.recipe, dataset, teachers, stage=stage, map_shape=shape)
        for stage in range(len(spec.stages))
    ]
    return model, objectives, Trainer(model, objectives, dataset, spec, Checkpoint(folder, "x"), on_step=on_step)


def copied(model):
    return {name: value.clone() for name, value in model.backbone.state_dict().items()}


@pytest.fixture(scope="module")
def trained(sparse, tmp_path_factory):
    """A whole training: its network, losses, result and reports."""
    reports = []
    model, objectives, trainer = built(sparse, tmp_path_factory.mktemp("stages"), on_step=reports.append)
    return model, objectives, trainer.fit(), reports


def test_a_student_has_as_many_steps_as_its_baseline(sparse, trained, tmp_path):
    _, _, result, reports = trained
    steps = []
    baseline = replace(SPEC, recipe=Recipe())
    _, _, trainer = built(sparse, tmp_path, baseline, on_step=lambda report: steps.append(report["step"]))
    history = trainer.fit().history
    assert len(sparse.split("train")) // TRAINING.batch_size > STEPS  # more than a baseline's images would have
    assert [report["step"] for report in reports] == steps == list(range(1, 5 * STEPS + 1))
    assert {report["steps"] for report in reports} == {5 * STEPS}
    assert result.history["step"].tolist() == history["step"].tolist()
    assert "stage" not in history


def test_the_learning_rate_rises_and_falls_in_each_stage(trained):
    expected = [
        TRAINING.learning_rate * learning_rate_factor(step, epochs * STEPS, TRAINING.warmup)
        for epochs in (3, 2)
        for step in range(epochs * STEPS)
    ]
    assert [report["learning_rate"] for report in trained[3]] == pytest.approx(expected)


def test_only_the_last_stage_is_validated_and_chooses_the_epoch(trained):
    _, _, result, reports = trained
    history = result.history
    assert history["stage"].tolist() == [1, 1, 1, 2, 2]
    assert history["val_macro_auroc"].isna().tolist() == [True, True, True, False, False]
    assert history["train_binary_cross_entropy"].isna().tolist() == [True, True, True, False, False]
    assert history["train_feature_mse"].notna().all()
    assert result.best_epoch in (4, 5)
    assert result.val_macro_auroc == history["val_macro_auroc"].max()
    assert [epoch for epoch, _ in reports[-1]["val_macro_auroc"]] == [4]


def test_a_stage_shows_the_images_that_it_asks_for(sparse, tmp_path):
    seen = []
    _, _, trainer = built(sparse, tmp_path, replace(SPEC, training=TRAINING.model_copy(update={"epochs": 5})))
    spy = trainer._network.forward

    def look(batch):
        seen.append((batch.image_ids, batch.view))
        return spy(batch)

    trainer._learner.forward = look
    for epoch in range(3):
        trainer.epoch(epoch)
    rows = sparse.split("train")
    per_pass = len(rows) // TRAINING.batch_size
    for start in range(0, 3 * STEPS, per_pass):  # passes go on from epoch to epoch
        batches = seen[start : start + per_pass]
        counts = Counter(image for images, _ in batches for image in images)
        assert max(counts.values()) == 1
        assert {view for _, view in batches} == {start // per_pass % 2}
    assert {image for images, _ in seen for image in images} == set(rows["image_id"])

    labelled = set(rows["image_id"][~np.isnan(sparse.targets(rows)).all(axis=1)])
    trainer._begin(1)
    shown = [drawn.batch.image_ids for epoch in (3, 4) for drawn in trainer._batches.of_epoch(epoch)]
    assert [len(images) for images in shown] == [TRAINING.batch_size] * (2 * STEPS)
    assert {image for images in shown for image in images} <= labelled


def test_losses_of_features_leave_the_classifier_as_it_was(sparse, tmp_path):
    model, (features, task), trainer = built(sparse, tmp_path)
    start, others = copied(model), [value.clone() for value in task.parameters()]
    for epoch in range(3):
        trainer.epoch(epoch)
    end = copied(model)
    head = [name for name in start if name.startswith("fc.")]
    assert len(head) == 2
    assert all(torch.equal(start[name], end[name]) for name in head)  # it does not even decay
    assert not torch.equal(start["conv1.0.weight"], end["conv1.0.weight"])
    assert all(torch.equal(one, other) for one, other in zip(others, task.parameters(), strict=True))
    trainer._begin(1)
    trainer.epoch(3)
    state = trainer.state()["optimizer"]["state"]
    assert {int(value["step"]) for value in state.values()} == {STEPS}  # the moments of the first stage are gone
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in features.parameters())


@pytest.mark.parametrize("at", [2 * STEPS + 3, 3 * STEPS + 1, 4 * STEPS + 2])
def test_a_killed_training_ends_as_if_it_had_not_been(sparse, trained, tmp_path, at):
    """In the last epoch of a stage, in the first step of the next one, and in the last epoch of all."""

    def interrupt(report):
        if report["step"] == at:
            raise KeyboardInterrupt

    _, _, killed = built(sparse, tmp_path, on_step=interrupt)
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    steps = []
    model, objectives, again = built(sparse, tmp_path, on_step=lambda report: steps.append(report["step"]))
    result = again.fit()
    assert steps[0] == (at - 1) // STEPS * STEPS + 1
    whole, expected, reference, _ = trained
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())
    ended = expected[1].state_dict()
    assert all(torch.equal(value, ended[name]) for name, value in objectives[1].state_dict().items())
    columns = [name for name in reference.history if name != "images_per_second"]
    assert result.history[columns].equals(reference.history[columns])
    assert (result.best_epoch, result.val_macro_auroc) == (reference.best_epoch, reference.val_macro_auroc)


def test_the_moving_average_begins_with_the_last_stage(sparse, tmp_path):
    spec = replace(SPEC, training=TRAINING.model_copy(update={"ema": 0.9}))
    seen = []
    model, _, trainer = built(sparse, tmp_path / "a", spec, on_step=lambda report: seen.append(copied(model)))
    result, name = trainer.fit(), "conv1.0.weight"
    average = seen[3 * STEPS - 1][name].double()  # the first stage hands on its last weights
    for step, state in enumerate(seen[3 * STEPS : result.best_epoch * STEPS]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * state[name].double()
    assert torch.allclose(model.backbone.state_dict()[name].double(), average, atol=1e-6)

    def interrupt(report):
        if report["step"] == 4 * STEPS + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(sparse, tmp_path / "b", spec, on_step=interrupt)[2].fit()
    again, _, trainer = built(sparse, tmp_path / "b", spec)
    trainer.fit()
    ended = again.backbone.state_dict()
    assert all(torch.equal(value, ended[key]) for key, value in model.backbone.state_dict().items())


def test_patience_counts_the_epochs_of_the_last_stage(sparse, tmp_path):
    """Nothing is learnt by a network without batch norm: its first validated epoch, the fourth, stays the best."""
    still = TRAINING.model_copy(update={"learning_rate": 1e-12, "patience": 2, "epochs": 9})
    recipe = Recipe(teachers=["a"], stages=[{"terms": FEATURES, "epochs": 3}, {"terms": TASK}])
    spec = replace(SPEC, network=Network(arch="test_convnext"), training=still, recipe=recipe)
    result = built(sparse, tmp_path, spec)[2].fit()
    assert (result.best_epoch, len(result.history)) == (4, 6)


def test_one_stage_has_what_the_others_leave(sparse):
    stages = [{"terms": FEATURES, "epochs": 2}, {"terms": TASK}]
    spec = replace(SPEC, recipe=Recipe(teachers=["a"], stages=stages))
    assert [(stage.first, stage.epochs) for stage in spec.stages] == [(0, 2), (2, 3)]
    short = replace(spec, training=TRAINING.model_copy(update={"epochs": 2}))
    with pytest.raises(UserError, match=r"have 2 epochs, which leaves none of training\.epochs \(2\) to the stage"):
        _ = short.stages
    other = replace(SPEC, training=TRAINING.model_copy(update={"epochs": 6}))
    with pytest.raises(UserError, match=r"stages: they have 5 epochs, and training\.epochs is 6; .* leave epochs out"):
        _ = other.stages
    assert short.fingerprint(sparse) != spec.fingerprint(sparse) != SPEC.fingerprint(sparse)


def test_every_stage_needs_an_objective(sparse, tmp_path):
    model, objectives, _ = built(sparse, tmp_path)
    with pytest.raises(ValueError, match="2 stages need as many objectives, not 1"):
        Trainer(model, objectives[:1], sparse, SPEC, Checkpoint(tmp_path, "x"))
