"""The loop learns, and an interrupted training ends as if it had not been interrupted."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from sklearn.metrics import roc_auc_score
from torch.optim.optimizer import register_optimizer_step_pre_hook

from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Recipe
from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.training.checkpoint import Checkpoint
from medistill.training.settings import Training
from medistill.training.spec import TrainingSpec
from medistill.training.trainer import Trainer, learning_rate_factor
from medistill.training.validation import predict
from medistill.views import render_plain, render_views, view_parameters

TRAINING = Training(
    epochs=4,
    batch_size=8,
    learning_rate=0.002,
    weight_decay=0.01,
    warmup=0.1,
    clip_norm=1.0,
    precision="no",
)
STILL = Augmentation(rotation=5, translation=0.02, scale=0.05, brightness=0.05, contrast=0.1, flip=False)
NETWORK = Network(arch="resnet10t", args={"drop_rate": 0.1})
SPEC = TrainingSpec(name="a", network=NETWORK, training=TRAINING, augmentation=STILL, views=2)


def train(dataset, folder, *, training=TRAINING, objective=None, on_step=lambda report: None, network=NETWORK):
    torch.manual_seed(0)
    model = create_classifier(network, labels=dataset.labels)
    objective = objective or RecipeObjective(Recipe(), dataset)
    spec = replace(SPEC, training=training)
    return model, Trainer(model, objective, dataset, spec, Checkpoint(folder, "same"), on_step=on_step).fit()


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    reports = []
    model, result = train(tiny_dataset, tmp_path_factory.mktemp("checkpoints"), on_step=reports.append)
    return model, result, reports


def test_learns_two_spots_and_keeps_the_best_epoch(tiny_dataset, trained):
    model, result, _ = trained
    history = result.history
    assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]
    assert result.val_macro_auroc == history["val_macro_auroc"].max()
    assert result.best_epoch == history["epoch"][history["val_macro_auroc"].idxmax()]
    val = tiny_dataset.split("val")
    targets, logits = tiny_dataset.targets(val), predict(model, tiny_dataset, val)
    # The model that is returned is the one of the best epoch; scikit-learn is the oracle.
    assert roc_auc_score(targets, logits) == pytest.approx(result.val_macro_auroc, abs=1e-12)


def test_features_and_weights_are_channels_last(tiny_dataset, tmp_path):
    seen = {"features": set(), "weights": set()}

    def look(module, inputs):
        if isinstance(module, torch.nn.Conv2d) and module.training:
            last = torch.channels_last
            if inputs[0].shape[1] > 3 and inputs[0].shape[2] > 1:  # not the input, in any order
                seen["features"].add(inputs[0].is_contiguous(memory_format=last))
            if module.weight.shape[2] > 1:  # 1x1 kernels are the same in both orders
                seen["weights"].add(module.weight.is_contiguous(memory_format=last))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        train(tiny_dataset, tmp_path, training=TRAINING.model_copy(update={"epochs": 1}))
    finally:
        handle.remove()
    assert seen == {"features": {True}, "weights": {True}}


def test_reports_every_step(tiny_dataset, trained):
    _, _, reports = trained
    per_epoch = len(tiny_dataset.split("train")) // TRAINING.batch_size
    assert [report["step"] for report in reports] == list(range(1, 4 * per_epoch + 1))
    assert {report["steps"] for report in reports} == {4 * per_epoch}
    rates = [report["learning_rate"] for report in reports]
    assert max(rates) == pytest.approx(TRAINING.learning_rate)
    assert rates[-1] < 0.1 * TRAINING.learning_rate


@pytest.mark.parametrize("at", [3, 7, 12])
def test_resumed_training_ends_with_the_same_weights(tiny_dataset, trained, tmp_path, at):
    def interrupt(report):
        if report["step"] == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_dataset, tmp_path, on_step=interrupt)
    steps = []
    model, result = train(tiny_dataset, tmp_path, on_step=lambda report: steps.append(report["step"]))
    per_epoch = len(tiny_dataset.split("train")) // TRAINING.batch_size
    assert steps[0] == (at - 1) // per_epoch * per_epoch + 1  # finished epochs are not trained again
    reference, expected, _ = trained
    for name, value in reference.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    columns = ["epoch", "step", "learning_rate", "train_loss", "val_macro_auroc"]
    assert result.history[columns].equals(expected.history[columns])


class Constant:
    """A teacher whose features depend on the image's patient alone."""

    map_shape, unknown = (3, 2, 2), ()

    def answer(self, batch, needs):
        patients = torch.tensor([int(image_id[:5]) for image_id in batch.image_ids])
        return {"logits": torch.zeros(len(patients), 2), "features": torch.stack([patients / 30] * 3, 1)}


def test_projections_are_trained_and_resumed(tiny_dataset, tmp_path):
    recipe = Recipe(teachers=["a"], terms=[{"loss": "binary_cross_entropy"}, {"loss": "feature_mse"}])

    def objective():
        torch.manual_seed(1)
        return RecipeObjective(recipe, tiny_dataset, [Constant()], map_shape=(512, 1, 1))

    def interrupt(report):
        if report["step"] == 7:
            raise KeyboardInterrupt

    start, whole, stopped, again = (objective() for _ in range(4))
    model, result = train(tiny_dataset, tmp_path / "a", objective=whole)
    assert result.history["train_feature_mse"].iloc[-1] < 0.8 * result.history["train_feature_mse"].iloc[0]
    with pytest.raises(KeyboardInterrupt):
        train(tiny_dataset, tmp_path / "b", objective=stopped, on_step=interrupt)
    resumed, _ = train(tiny_dataset, tmp_path / "b", objective=again)
    for one, other in ((whole, again), (model, resumed)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert not any(torch.equal(value, whole.state_dict()[name]) for name, value in start.state_dict().items())


def shown(dataset, folder, network=NETWORK, **recipe):
    """Ids and sizes of the views of one epoch."""
    seen = []

    def objective(logits, batch):
        seen.append((batch.image_ids, batch.images.shape[-1]))
        return {"loss": logits.pow(2).mean()}

    training = TRAINING.model_copy(update={"epochs": 1, "batch_size": 4})
    spec = replace(SPEC, training=training, views=None, recipe=Recipe().model_copy(update=recipe))
    model = create_classifier(network, labels=dataset.labels)
    Trainer(model, objective, dataset, spec, Checkpoint(folder, "x")).fit()
    return {image_id for ids, _ in seen for image_id in ids}, {size for _, size in seen}


def test_a_network_of_its_own_size_is_trained_at_it(tiny_dataset, tmp_path):
    small = Network(arch="resnet10t", input_size=16)
    assert shown(tiny_dataset, tmp_path / "a", small)[1] == {16}
    assert shown(tiny_dataset, tmp_path / "b", small, views="live")[1] == {32}
    assert shown(tiny_dataset, tmp_path / "c")[1] == {32}


def test_images_without_labels_are_for_those_who_ask_for_them(tiny_dataset, tmp_path):
    manifest = tiny_dataset.manifest.copy()
    train_ids = manifest["image_id"][manifest["split"] == "train"]
    without = set(train_ids.iloc[::3])
    for label in tiny_dataset.labels:
        manifest[f"label:{label}"] = manifest[f"label:{label}"].mask(manifest["image_id"].isin(without))
    partly = replace(tiny_dataset, manifest=manifest)
    assert (len(train_ids) % 4, len(without) % 4) == (0, 0)  # whole batches of both
    assert shown(partly, tmp_path / "a")[0] == set(train_ids) - without
    assert shown(partly, tmp_path / "b", unlabelled=True)[0] == set(train_ids)
    for label in tiny_dataset.labels:
        manifest[f"label:{label}"] = manifest[f"label:{label}"].mask(manifest["split"] == "train")
    with pytest.raises(UserError, match=r"manifest.parquet: no image of the train split has a label"):
        shown(replace(tiny_dataset, manifest=manifest), tmp_path / "c")


def test_a_loss_that_is_not_finite_stops_with_the_images(tiny_dataset, tmp_path):
    def broken(logits, batch):
        return {"loss": logits.sum() * float("nan")}

    with pytest.raises(UserError, match=r"not finite in epoch 1, step 1, for the sum .*lower learning_rate.*\.png"):
        train(tiny_dataset, tmp_path, objective=broken)


def test_the_images_whose_logits_are_not_finite_are_named(tiny_dataset, tmp_path):
    shown = []

    def broken(logits, batch):
        shown.extend(batch.image_ids)
        logits.data[3, 1] = float("inf")
        return {"loss": logits.sum(), "kind": logits.mean(), "other": logits[0].mean()}

    with pytest.raises(UserError, match=r"for kind \(loss inf, kind inf, other .*look at images") as error:
        train(tiny_dataset, tmp_path, objective=broken)
    assert str(error.value).endswith(f"look at images {shown[3]}")


def test_a_gradient_that_is_not_finite_stops_with_its_step_and_images(tiny_dataset, tmp_path):
    shown = []

    def broken(logits, batch):
        shown.append(list(batch.image_ids))
        hidden = torch.where(logits < 1e9, logits, (0 * logits).sqrt())  # the loss is finite, its gradient is NaN
        return {"loss": (logits if len(shown) < 3 else hidden).mean()}

    with pytest.raises(
        UserError, match=r"loss is finite in epoch 1, step 3 \(loss .*, but its gradient is not"
    ) as error:
        train(tiny_dataset, tmp_path, objective=broken)
    assert str(error.value).endswith(f"look at images {', '.join(shown[2])}")


def test_a_batch_that_is_too_small_for_batch_norm_says_what_to_raise(tiny_dataset, tmp_path):
    manifest = tiny_dataset.manifest
    last = manifest.index[manifest["split"] == "train"][1:]
    with pytest.raises(UserError, match=r"batch norm needs at least two images per batch; raise training\.batch_size"):
        train(replace(tiny_dataset, manifest=manifest.drop(last)), tmp_path)


def test_a_network_that_breaks_in_the_last_step_is_refused(tiny_dataset, tmp_path):
    def breaking(report):
        if report["step"] == report["steps"]:
            model.backbone.fc.bias.data[0] = float("nan")

    model = create_classifier(NETWORK, labels=tiny_dataset.labels)
    training = TRAINING.model_copy(update={"epochs": 1})
    objective, spec = RecipeObjective(Recipe(), tiny_dataset), replace(SPEC, training=training)
    trainer = Trainer(model, objective, tiny_dataset, spec, Checkpoint(tmp_path, "x"), on_step=breaking)
    with pytest.raises(UserError, match=r"logits of 12 validation images are not finite, first 00001_0"):
        trainer.fit()


def test_running_out_of_memory_says_what_to_lower(tiny_dataset, tmp_path):
    def huge(logits, batch):
        return {"loss": (logits.sum() * torch.empty(2**46)).sum()}  # 256 TiB

    lower = r"training\.batch_size lower than 8 or"
    with pytest.raises(UserError, match=rf"out of memory; set {lower} data\.image_size lower than 32$"):
        train(tiny_dataset, tmp_path, objective=huge)
    small = NETWORK.model_copy(update={"input_size": 16})
    with pytest.raises(UserError, match=rf"out of memory; set {lower} input_size lower than 16$"):
        train(tiny_dataset, tmp_path, objective=huge, network=small)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", UserError, "out of memory; set"),
        ("unspecified launch failure", RuntimeError, "unspecified launch failure"),
    ],
)
def test_a_library_that_finds_no_memory_says_so_in_its_own_words(tiny_dataset, tmp_path, what, error, message):
    def failing(logits, batch):
        raise RuntimeError(f"CUDA error: {what}")

    with pytest.raises(error, match=message):
        train(tiny_dataset, tmp_path, objective=failing)


def test_images_that_do_not_fit_into_memory_say_what_to_lower(tiny_dataset, tmp_path):
    class Endless(Dataset):
        def images(self, rows):
            return np.empty(2**55, np.uint8)  # 32 PiB

    with pytest.raises(UserError, match=r"out of memory; set input_size lower than 16$"):
        train(Endless(**vars(tiny_dataset)), tmp_path, network=NETWORK.model_copy(update={"input_size": 16}))


@pytest.fixture
def another_precision():
    """Accelerate allows one precision per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("another_precision")
@pytest.mark.parametrize(
    "precision",
    [
        "bf16",
        pytest.param("fp16", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 needs a GPU")),
    ],
)
def test_half_precision_learns_and_is_resumed(tiny_dataset, tmp_path, precision):
    training = TRAINING.model_copy(update={"precision": precision, "epochs": 3})

    def interrupt(report):
        if report["step"] == 6:
            raise KeyboardInterrupt

    model, result = train(tiny_dataset, tmp_path / "a", training=training)
    assert result.history["train_loss"].iloc[-1] < 0.8 * result.history["train_loss"].iloc[0]
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    with pytest.raises(KeyboardInterrupt):
        train(tiny_dataset, tmp_path / "b", training=training, on_step=interrupt)
    again, _ = train(tiny_dataset, tmp_path / "b", training=training)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.usefixtures("another_precision")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_that_would_be_single_precision_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(UserError, match=r"training\.precision: fp16 needs a GPU; set bf16 or \"no\""):
        train(tiny_dataset, tmp_path, training=TRAINING.model_copy(update={"precision": "fp16"}))


def test_what_a_network_exempts_from_weight_decay_does_not_decay(tiny_dataset, tmp_path):
    args = {"depths": [1, 1], "embed_dim": 16, "num_heads": [2, 2], "window_size": 4}
    network = Network(arch="swin_tiny_patch4_window7_224", args=args, input_size=32)
    torch.manual_seed(0)
    start = create_classifier(network, labels=tiny_dataset.labels).backbone.state_dict()
    still = TRAINING.model_copy(update={"epochs": 1, "weight_decay": 1.0})
    objective = lambda logits, batch: {"loss": 0 * logits.sum()}  # noqa: E731  (nothing but the decay moves a weight)
    model, _ = train(tiny_dataset, tmp_path, objective=objective, training=still, network=network)
    attention = "layers.0.blocks.0.attn"
    end = model.backbone.state_dict()
    shrunk = [name for name, value in start.items() if not torch.equal(end[name], value)]
    assert f"{attention}.qkv.weight" in shrunk
    assert f"{attention}.relative_position_bias_table" not in shrunk
    assert f"{attention}.qkv.bias" not in shrunk


def test_the_moving_average_is_kept_and_resumed(tiny_dataset, tmp_path):
    averaged = TRAINING.model_copy(update={"ema": 0.9, "epochs": 2})
    model = create_classifier(NETWORK, labels=tiny_dataset.labels)
    seen: list[dict] = []

    def follow(report):
        seen.append({name: value.clone() for name, value in model.backbone.state_dict().items()})

    def fit_it(folder, on_step):
        torch.manual_seed(0)
        model.backbone.load_state_dict(create_classifier(NETWORK, labels=tiny_dataset.labels).backbone.state_dict())
        seen.append({name: value.clone() for name, value in model.backbone.state_dict().items()})
        objective = RecipeObjective(Recipe(), tiny_dataset)
        spec = replace(SPEC, training=averaged)
        return Trainer(model, objective, tiny_dataset, spec, Checkpoint(folder, "x"), on_step=on_step).fit()

    result = fit_it(tmp_path / "a", follow)
    per_epoch = len(tiny_dataset.split("train")) // averaged.batch_size
    name = "conv1.0.weight"
    average = seen[0][name].double()
    for step, state in enumerate(seen[1 : 1 + result.best_epoch * per_epoch]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * state[name].double()
    whole = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    assert torch.allclose(whole[name].double(), average, atol=1e-6)
    assert not torch.equal(whole[name], seen[result.best_epoch * per_epoch][name])

    def interrupt(report):
        if report["step"] == per_epoch + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_it(tmp_path / "b", interrupt)
    again = fit_it(tmp_path / "b", lambda report: None)
    assert again.val_macro_auroc == result.val_macro_auroc
    assert all(torch.equal(value, model.backbone.state_dict()[key]) for key, value in whole.items())


def test_training_ends_when_it_gets_no_better(tiny_dataset, tmp_path):
    still = TRAINING.model_copy(update={"learning_rate": 1e-12, "patience": 2, "epochs": 9})
    network = Network(arch="test_convnext")  # no batch norm, whose statistics change even if nothing is learnt
    _, result = train(tiny_dataset, tmp_path, training=still, network=network)
    assert (result.best_epoch, len(result.history)) == (1, 3)
    _, again = train(tiny_dataset, tmp_path, training=still, network=network)
    assert len(again.history) == 3


def test_predict_follows_the_order_of_rows_and_leaves_the_mode(tiny_dataset, trained):
    model = trained[0].train()
    rows = tiny_dataset.split("test")
    shuffled = rows.sample(frac=1, random_state=1)
    forward = predict(model, tiny_dataset, rows, batch_size=5)
    backward = predict(model, tiny_dataset, shuffled, batch_size=3)
    assert model.training
    np.testing.assert_allclose(forward[shuffled.index], backward, atol=1e-5)
    with torch.inference_mode():
        direct = model.eval()(render_plain(torch.from_numpy(tiny_dataset.images(rows))))
    np.testing.assert_allclose(forward, direct.numpy(), atol=1e-5)


def test_learning_rate_rises_then_falls_to_nothing():
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert factors[10] == 1
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[-1] < 0.001
    assert learning_rate_factor(0, 10, 0.0) == 1


class Seen:
    """An objective that keeps its inputs and returns `loss` of the logits."""

    def __init__(self, loss=lambda logits: logits.pow(2).mean()):
        self.batches, self.loss, self.seeds = [], loss, []

    def __call__(self, logits, batch):
        self.batches.append(batch)
        self.seeds.append(torch.initial_seed())
        return {"loss": self.loss(logits)}


def test_what_is_shown_is_the_view_that_teachers_answer(tiny_dataset, tmp_path):
    seen = Seen()
    training = TRAINING.model_copy(update={"epochs": 5})
    spec = replace(SPEC, training=training, seed=3, view_seed=8, views=3)
    model = create_classifier(NETWORK, labels=tiny_dataset.labels)
    Trainer(model, seen, tiny_dataset, spec, Checkpoint(tmp_path, "x")).fit()
    rows = tiny_dataset.split("train").set_index("image_id", drop=False)
    per_epoch = len(rows) // TRAINING.batch_size
    assert [batch.view for batch in seen.batches] == [e % 3 for e in range(5) for _ in range(per_epoch)]
    for batch in seen.batches:
        frames = torch.from_numpy(tiny_dataset.images(rows.loc[batch.image_ids]))
        drawn = torch.from_numpy(view_parameters(batch.image_ids, batch.view, 8, STILL))
        assert torch.equal(batch.images, render_views(frames, drawn))
        assert torch.equal(batch.targets, torch.from_numpy(tiny_dataset.targets(rows.loc[batch.image_ids])))
    assert len(set(seen.seeds)) == 5  # each epoch has its own dropout


def test_weights_decay_by_the_learning_rate_of_each_step(tiny_dataset, tmp_path):
    torch.manual_seed(0)
    start = create_classifier(NETWORK, labels=tiny_dataset.labels).backbone.fc.weight.detach()
    training = TRAINING.model_copy(update={"learning_rate": 0.1, "weight_decay": 0.5})
    model, result = train(tiny_dataset, tmp_path, objective=Seen(lambda logits: 0 * logits.sum()), training=training)
    steps = 4 * (len(tiny_dataset.split("train")) // training.batch_size)
    rates = [0.1 * learning_rate_factor(step, steps, 0.1) for step in range(result.best_epoch * steps // 4)]
    expected = start * np.prod([1 - rate * 0.5 for rate in rates])  # AdamW, eq. 12 of Loshchilov and Hutter
    assert torch.allclose(model.backbone.fc.weight, expected, rtol=1e-4)


def test_gradients_are_clipped_to_their_norm(tiny_dataset, tmp_path):
    norms = []

    def measure(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

    handle = register_optimizer_step_pre_hook(measure)
    try:
        training = TRAINING.model_copy(update={"epochs": 1, "clip_norm": 0.25})
        train(tiny_dataset, tmp_path, objective=Seen(lambda logits: 1e3 * logits.pow(2).mean()), training=training)
    finally:
        handle.remove()
    assert norms == pytest.approx([0.25] * len(norms), rel=1e-3)
    assert norms


@pytest.mark.usefixtures("another_precision")
def test_half_precision_computes_the_network_and_not_the_loss(tiny_dataset, tmp_path):
    seen, dtypes = Seen(), set()
    seen.loss = lambda logits: (dtypes.add(logits.dtype), logits.pow(2).mean())[1]
    training = TRAINING.model_copy(update={"precision": "bf16", "epochs": 1})
    train(tiny_dataset, tmp_path, objective=seen, training=training)
    assert {batch.features.dtype for batch in seen.batches} == {torch.bfloat16}
    assert dtypes == {torch.float32}
