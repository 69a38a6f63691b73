"""Tables of answers teach the images that they have a row for, the same in every view."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit

from medistill.augmentation import Augmentation
from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.distillation.functional import binary_cross_entropy, sigmoid_kd
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Recipe, TableTeacher, Teach
from medistill.distillation.table import import_table, read_answers
from medistill.distillation.train import teach
from medistill.errors import UserError
from medistill.records.models import ModelRecord
from medistill.task import Task
from medistill.training.batches import Batch

AUGMENTATION = Augmentation(rotation=5, translation=0.05, scale=0.05, brightness=0.1, contrast=0.1, flip=False)
ASKED = Teach(views=3, answers=["features"])
COLUMNS = {"Right": "prob_right", "Else": "prob_else"}


def answers_of(dataset, images=None) -> pd.DataFrame:
    """Made-up probabilities, rows in another order than the manifest's, some of them about other images."""
    ids = dataset.manifest["image_id"].tolist() if images is None else images
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"Image Index": [*ids[::-1], "another.png"]})
    return table.assign(**{name: rng.uniform(0.01, 0.99, len(table)) for name in COLUMNS.values()})


def teacher(file, **more) -> TableTeacher:
    return TableTeacher(**({"answers": file, "id": "Image Index", "labels": COLUMNS} | more))


def written(folder, table):
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / "answers.csv", index=False)
    return folder / "answers.csv"


def taught(folder, dataset, network) -> Knowledge:
    import_table(folder / "m", "theirs", network, dataset)
    teach(folder / "k", folder / "m", dataset, AUGMENTATION, ASKED, unfinished=folder / "u")
    return Knowledge.open(folder / "k", dataset, AUGMENTATION, ASKED)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("values", ["probabilities", "logits"])
def test_it_says_the_same_in_every_view(tiny_dataset, tmp_path, form, values):
    table = answers_of(tiny_dataset)
    if values == "logits":
        table[list(COLUMNS.values())] = logit(table[list(COLUMNS.values())])
    file = tmp_path / f"answers.{form}"
    table.to_csv(file, index=False) if form == "csv" else table.to_parquet(file)
    knowledge = taught(tmp_path, tiny_dataset, teacher(file, values=values))
    file.unlink()
    assert (knowledge.map_shape, knowledge.unknown, knowledge.seen.images.size) == ([], ["Left"], 0)
    ids = tiny_dataset.split("train")["image_id"].tolist()[::2]
    expected = table.set_index("Image Index").loc[ids, "prob_right"]
    for view in (0, 2, 100):  # as many as live students see
        found = knowledge.read("logits", ids, view)
        assert np.isnan(found[:, 0]).all()
        np.testing.assert_allclose(found[:, 1], logit(expected) if values == "probabilities" else expected, atol=4e-3)
    assert np.load(tmp_path / "k" / "logits.npy").shape == (1, len(tiny_dataset.split("train")), 2)


def test_images_without_a_row_are_not_taught_by_it(tiny_dataset, tmp_path):
    """Its loss is that of the images with a row alone, beside the labels' of all of them."""
    train = tiny_dataset.split("train")["image_id"].tolist()
    table = answers_of(tiny_dataset, train[::2])
    knowledge = taught(tmp_path, tiny_dataset, teacher(written(tmp_path, table)))
    recipe = Recipe(teachers=["theirs"], terms=[{"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 2, generator=generator)
    targets = (torch.rand(8, 2, generator=generator) < 0.5).float()
    found = RecipeObjective(recipe, tiny_dataset, [knowledge])(logits, Batch(train[:8], 1, targets))
    theirs = torch.tensor(logit(table.set_index("Image Index").loc[train[:8:2], ["prob_right"]].to_numpy())).float()
    torch.testing.assert_close(found["sigmoid_kd"], sigmoid_kd(logits[::2, 1:], theirs), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found["binary_cross_entropy"], binary_cross_entropy(logits, targets))
    none = RecipeObjective(recipe, tiny_dataset, [knowledge])(logits, Batch([train[1]] * 8, 1, targets))
    assert none["sigmoid_kd"].item() == 0  # no image of the batch has a row


@pytest.mark.parametrize("loss", ["softmax_kd", "dkd", "logit_standardized_kd", "dist", "mse_kd", "bckd", "sigmoid_kd"])
def test_every_loss_of_logits_leaves_images_without_a_row_out(tiny_dataset, tmp_path, loss):
    names = ["Left", "Right", "None"]
    manifest = tiny_dataset.manifest.assign(**{f"label:{name}": np.float32(name == "Left") for name in names})
    exclusive = {"task": Task.MULTICLASS, "manifest": manifest, "labels": names}
    classes = Dataset(**(vars(tiny_dataset) | exclusive))
    train = classes.split("train")["image_id"].tolist()
    table = answers_of(classes, train[::2])
    table[["a", "b", "c"]] = np.random.default_rng(1).dirichlet([1, 1, 1], len(table))
    labels = {"Left": "a", "Right": "b", "None": "c"}
    knowledge = taught(tmp_path, classes, teacher(written(tmp_path, table), labels=labels))
    objective = RecipeObjective(Recipe(teachers=["theirs"], terms=[{"loss": loss}]), classes, [knowledge])
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.eye(3)[[0, 1, 2, 1] * 2]
    value = objective(logits, Batch(train[:8], 0, targets))["loss"]
    value.backward()
    assert value.item() > 0
    assert (logits.grad[1::2] == 0).all()
    assert (logits.grad[::2] != 0).any()
    alone = objective(logits.detach()[::2], Batch(train[:8:2], 0, targets[::2]))["loss"]
    torch.testing.assert_close(value, alone)


def test_classes_are_the_softmax_of_their_logarithms(tiny_dataset, tmp_path):
    classes = Dataset(**(vars(tiny_dataset) | {"task": Task.MULTICLASS}))
    table = answers_of(classes)
    table["prob_else"] = 1 - table["prob_right"]
    network = teacher(written(tmp_path, table), labels={"Left": "prob_else", "Right": "prob_right"})
    found = read_answers(network, classes)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-6)
    expected = table.set_index("Image Index").loc[found.index, "prob_right"]
    np.testing.assert_allclose(expit(found["Right"] - found["Left"]), expected, rtol=1e-5)


def test_names_without_their_ending_will_do(tiny_dataset, tmp_path):
    table = answers_of(tiny_dataset)
    table["Image Index"] = table["Image Index"].str.removesuffix(".png")
    found = read_answers(teacher(written(tmp_path, table)), tiny_dataset)
    assert sorted(found.index) == sorted(tiny_dataset.manifest["image_id"])


@pytest.mark.parametrize("complete", [True, False])
def test_it_has_figures_if_it_answers_all_of_val_and_test(tiny_dataset, tmp_path, complete):
    ids = tiny_dataset.manifest["image_id"].tolist()
    table = answers_of(tiny_dataset, ids if complete else ids[3:])  # images 0 and 1 are of test, 2 of val
    import_table(tmp_path / "m", "theirs", teacher(written(tmp_path, table)), tiny_dataset)
    record = ModelRecord.read_whole(tmp_path / "m" / "config.json")
    assert (record.arch, record.params, record.macs, record.map_size) == ("table of answers", None, None, None)
    assert record.measured == complete
    predictions = pd.read_parquet(tmp_path / "m" / "predictions.parquet").set_index("image_id")
    assert predictions["logit:Right"].isna().sum() == (0 if complete else 3)
    given = predictions["logit:Right"].dropna()
    expected = logit(table.set_index("Image Index").loc[given.index, "prob_right"])
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


def test_what_it_was_trained_on_is_read_beside_it(tiny_dataset, tmp_path):
    file = written(tmp_path / "t", answers_of(tiny_dataset))
    provenance.write_ids(file.parent / provenance.FILE, provenance.ids_of(tiny_dataset, "val"))
    with pytest.raises(UserError, match=r"the model was trained on .* of the val split"):
        import_table(tmp_path / "m", "theirs", teacher(file), tiny_dataset)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda t: t.assign(prob_right=t["prob_right"] + 1), {}, r"line 2: column 'prob_right': 1\.\d+ is no probabil"),
        (lambda t: t.assign(prob_right=-5.0), {}, "-5 is no probability; set values: logits if these are logits"),
        (lambda t: t.assign(prob_right=2e3), {"values": "logits"}, r"2000 is no logit that can be kept; .* ±1000"),
        (
            lambda t: t.assign(prob_right=np.nan),
            {},
            "line 2: column 'prob_right': '' is no number; leave out such rows",
        ),
        (lambda t: t.assign(prob_right="high"), {}, "line 2: column 'prob_right': 'high' is no number"),
        (lambda t: t.assign(prob_right=np.inf), {}, "line 2: column 'prob_right': 'inf' is no number"),
        (lambda t: pd.concat([t, t.iloc[:1]]), {}, r"has the id 00029_1\.png more than once"),
        (
            lambda t: pd.concat([t, t.iloc[:1].assign(**{"Image Index": "00029_1"})]),
            {},
            r"00029_1\.png and 00029_1 are the same image; keep one row",
        ),
        (
            lambda t: t.assign(**{"Image Index": "x" + t["Image Index"]}),
            {},
            r"none of its 61 rows is about an image of the data set; its ids are such as x00029_1\.png, the data set's"
            r" such as 00000_0\.png",
        ),
        (lambda t: t.drop(columns="prob_right"), {}, "column 'prob_right' is missing; it has Image Index, prob_else"),
        (lambda t: t, {"id": "image"}, "column 'image' is missing; it has Image Index, prob_right, prob_else"),
        (lambda t: t, {"id": "prob_right"}, "column 'prob_right' cannot be both the id and a label's"),
        (lambda t: t, {"labels": {"Other": "prob_else"}}, "labels: the teacher knows none of the labels Left, Right"),
    ],
)
def test_what_does_not_fit_is_one_line(tiny_dataset, tmp_path, change, settings, message):
    network = teacher(written(tmp_path, change(answers_of(tiny_dataset))), **settings)
    with pytest.raises(UserError, match=message) as refused:
        import_table(tmp_path / "m", "theirs", network, tiny_dataset)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "m").exists()


def test_a_damaged_or_missing_parquet_file_is_one_line(tiny_dataset, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    for name, message in (("a", r"a\.parquet: damaged"), ("b", r"b\.parquet: no such file")):
        with pytest.raises(UserError, match=message):
            read_answers(teacher(tmp_path / f"{name}.parquet"), tiny_dataset)
    answers_of(tiny_dataset).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"column 'image' is missing; it has Image Index, prob_right, prob_else"):
        read_answers(teacher(tmp_path / "c.parquet", id="image"), tiny_dataset)


def test_names_that_several_images_share_are_refused(tiny_dataset, tmp_path):
    manifest = tiny_dataset.manifest
    ids = [
        f"a/{name}" if place % 2 else f"b/{manifest['image_id'][place + 1]}"
        for place, name in enumerate(manifest["image_id"])
    ]
    twins = Dataset(**(vars(tiny_dataset) | {"manifest": manifest.assign(image_id=ids)}))
    table = answers_of(tiny_dataset)
    table["Image Index"] = table["Image Index"].str.removesuffix(".png")
    with pytest.raises(UserError, match=r"id 00029_1 could be b/00029_1\.png or a/00029_1\.png; use the ids"):
        read_answers(teacher(written(tmp_path, table.iloc[:1])), twins)
