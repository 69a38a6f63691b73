"""Networks without a feature map, such as vision transformers, teach logits and pooled features."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from medistill.augmentation import Augmentation
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.objective import NetworkFacts, require_fit
from medistill.distillation.settings import Recipe, Teach
from medistill.distillation.teachers import LiveTeacher
from medistill.distillation.train import teach, train_by_recipe
from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.classifier import feature_shape
from medistill.models.settings import Network
from medistill.models.weights import load_model
from medistill.task import Task
from medistill.training.batches import Batch
from medistill.training.settings import Training
from medistill.training.spec import TrainingSpec
from medistill.views import render_views, view_parameters

AUGMENTATION = Augmentation(rotation=5, translation=0.05, scale=0.05, brightness=0.1, contrast=0.1, flip=False)
ASKED = Teach(views=2, answers=["attention", "features"], batch_size=16)
RELATIONS = [{"loss": "sigmoid_kd"}, {"loss": "rkd"}, {"loss": "feature_mse"}]


def features_of(arch, **args):
    """A network, its logits and features of three images, and these features pooled."""
    torch.manual_seed(0)
    network = Network(arch=arch, args=args, input_size=args.get("img_size", 32))
    model = create_classifier(network, labels=["a", "b"]).eval()
    with torch.no_grad():
        logits, features = model(torch.rand(3, 1, 40, 40), with_map=True)
        pooled = model.pooled(features)
    assert feature_shape(model, 40) == list(pooled.shape[1:])
    return model, logits, features, pooled


@pytest.mark.parametrize("arch", ["test_vit", "test_vit3"])  # the class token, attention
def test_the_classifier_reads_the_pooled_features(arch):
    model, logits, _, pooled = features_of(arch, img_size=32)
    torch.testing.assert_close(model.backbone.get_classifier()(pooled), logits)


def test_two_tokens_with_a_classifier_each_are_pooled_to_their_mean():
    _, _, features, pooled = features_of("deit_tiny_distilled_patch16_224", img_size=32, depth=1)
    torch.testing.assert_close(pooled, features[:, :2].mean(1))


def test_features_in_several_tensors_are_pooled_side_by_side():
    model, logits, features, pooled = features_of("crossvit_9_240", img_size=240)
    heads = model.backbone.get_classifier()
    parts = pooled.split([part.shape[2] for part in features], dim=1)
    expected = [head(part) for head, part in zip(heads, parts, strict=True)]
    torch.testing.assert_close(torch.stack(expected).mean(0), logits)


def spec(name, arch, **more):
    training = Training(epochs=1, batch_size=12, learning_rate=1e-3)
    return TrainingSpec(
        name=name, network=Network(arch=arch), training=training, augmentation=AUGMENTATION, **more
    ).with_views(ASKED)


@pytest.fixture(scope="module")
def vit(tiny_dataset, tmp_path_factory):
    """A vision transformer that was trained from labels and has answered."""
    folder = tmp_path_factory.mktemp("vit")
    checkpoints = folder / "checkpoints"
    trained = spec("vit", "test_vit", teaches=True, recipe=Recipe(views="fresh"))
    train_by_recipe(folder / "model", trained, tiny_dataset, checkpoints=checkpoints)
    teach(folder / "answers", folder / "model", tiny_dataset, AUGMENTATION, ASKED, unfinished=folder / "unfinished")
    return folder


def test_it_is_trained_and_answers_what_it_has(tiny_dataset, vit):
    config = json.loads((vit / "model/config.json").read_text())
    assert config["map_size"] is None
    assert np.isfinite(pd.read_parquet(vit / "model/predictions.parquet").filter(like="logit:")).all(axis=None)
    stored = sorted(path.stem for path in (vit / "answers").glob("*.npy"))
    assert stored == ["features", "image_ids", "logits"]  # asked for attention, too
    knowledge, model = Knowledge.open(vit / "answers", tiny_dataset, AUGMENTATION, ASKED), load_model(vit / "model")
    assert knowledge.map_shape == [64]
    rows = tiny_dataset.split("train").iloc[:5]
    ids = rows["image_id"].tolist()
    parameters = torch.from_numpy(view_parameters(ids, 1, ASKED.view_seed, AUGMENTATION))
    images = render_views(torch.from_numpy(tiny_dataset.images(rows)), parameters)
    with torch.no_grad():
        tokens = model.backbone.forward_features((images - model.mean) / model.std)
        expected = model.backbone.forward_head(tokens, pre_logits=True)
    np.testing.assert_allclose(knowledge.read("features", ids, 1), expected, rtol=2e-3, atol=2e-3)
    live = LiveTeacher.open(vit / "model", tiny_dataset).answer(Batch(ids, 1, torch.zeros(5, 2), images), {"features"})
    np.testing.assert_allclose(live["features"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("arch", "teaches"), [("test_resnet", False), ("test_vit", True)])
def test_students_and_assistants_learn_its_logits_and_features(tiny_dataset, vit, tmp_path, arch, teaches):
    knowledge = Knowledge.open(vit / "answers", tiny_dataset, AUGMENTATION, ASKED)
    lesson = spec("small", arch, teaches=teaches, recipe=Recipe(teachers=["vit"], terms=RELATIONS))
    result = train_by_recipe(tmp_path / "small", lesson, tiny_dataset, [knowledge], checkpoints=tmp_path / "c")
    assert (result.history[["train_sigmoid_kd", "train_rkd", "train_feature_mse"]] > 0).all(axis=None)


def test_a_student_without_a_map_is_refused_as_it_could_not_be_explained(tiny_dataset, tmp_path):
    with pytest.raises(UserError, match=r"test_vit: its features have the shape .*; use another arch, or let it teach"):
        train_by_recipe(tmp_path / "s", spec("s", "test_vit"), tiny_dataset, checkpoints=tmp_path / "c")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("loss", "shape", "message"),
    [
        ("attention_transfer", (64,), "attention_transfer compares maps, but teacher vit has no feature map"),
        ("explanation_kd", (64,), "explanation_kd compares maps, but teacher vit has no feature map"),
        ("rkd", (), "rkd compares features, but teacher vit gives none; take a loss of logits"),
    ],
)
def test_a_term_of_what_it_does_not_have_is_refused_by_name(loss, shape, message):
    recipe = Recipe(teachers=["cnn", "vit"], terms=[{"loss": loss}])
    teachers = [NetworkFacts("teacher cnn", (8, 4, 4)), NetworkFacts("teacher vit", shape)]
    with pytest.raises(UserError, match=f"^recipes: {message}"):
        require_fit(recipe, Task.MULTILABEL, NetworkFacts("the student", (8, 4, 4)), teachers)
    recipe = Recipe(teachers=["vit"], terms=[{"loss": "sigmoid_kd"}])
    require_fit(recipe, Task.MULTILABEL, NetworkFacts("the student", (8, 4, 4)), teachers[1:])


def test_an_assistant_without_a_map_does_not_learn_by_maps():
    recipe = Recipe(teachers=["cnn"], terms=[{"loss": "cam_kd"}])
    with pytest.raises(UserError, match="cam_kd compares maps, but the student has no feature map"):
        require_fit(recipe, Task.MULTILABEL, NetworkFacts("the student", (64,)), [NetworkFacts("cnn", (8, 4, 4))])
