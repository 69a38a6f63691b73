"""A training's settings and fingerprint, known before it starts."""

from dataclasses import replace

import pytest
from safetensors.torch import save_file
from torch import zeros

from medistill.distillation.settings import Recipe, Teach
from medistill.models.settings import Network
from medistill.params import load_params
from medistill.training import spec as specs
from medistill.training.spec import OWN_VIEWS, TrainingSpec, fingerprint


@pytest.fixture
def spec(root):
    params = load_params(root / "params.yaml")
    network = Network(arch="test_resnet")
    return TrainingSpec(name="a", network=network, training=params.training, augmentation=params.augmentation)


def test_fingerprint_depends_on_settings_alone():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_all_that_decides_a_training_is_in_its_fingerprint(spec, tiny_dataset, tmp_path):
    save_file({"a": zeros(1)}, tmp_path / "w.safetensors")
    live, unlabelled = (Recipe().model_copy(update=u) for u in ({"views": "live"}, {"unlabelled": True}))
    others = [
        replace(spec, name="b"),
        replace(spec, teaches=True),
        replace(spec, network=Network(arch="test_vit")),
        replace(spec, network=Network(arch="test_resnet", weights=tmp_path / "w.safetensors")),
        replace(spec, training=spec.training.model_copy(update={"ema": 0.5})),
        replace(spec, augmentation=spec.augmentation.model_copy(update={"rotation": 1.5})),
        replace(spec, recipe=Recipe(terms=[{"loss": "focal_bce"}])),
        replace(spec, recipe=live),
        replace(spec, recipe=unlabelled),
        replace(spec, seed=1),
        replace(spec, view_seed=1),
        replace(spec, views=1),
        replace(spec, student="s"),
        replace(spec, recipe_name="r"),
    ]
    found = [each.fingerprint(tiny_dataset) for each in (spec, *others)]
    found += [spec.fingerprint(tiny_dataset, ["x"]), spec.fingerprint(replace(tiny_dataset, fingerprint="y"))]
    save_file({"a": zeros(2)}, tmp_path / "w.safetensors")
    found.append(others[3].fingerprint(tiny_dataset))  # other weights under the same name
    assert len(set(found)) == len(found)
    assert spec.fingerprint(tiny_dataset) == found[0]


def test_code_of_the_rooms_is_in_it_and_other_code_is_not(spec, tiny_dataset, tmp_path, monkeypatch):
    for room in specs.ROOMS_THAT_DECIDE_A_TRAINING:
        assert (specs.PACKAGE / room).exists(), room
    files = ["models/deep/a.py", "training/b.py", "distillation/c.py", "metrics/d.py"]
    files += [room for room in specs.ROOMS_THAT_DECIDE_A_TRAINING if room.endswith(".py")]
    assert {"views.py", "augmentation.py", "data/dataset.py", "data/provenance.py"} <= set(files)
    for name in (*files, "data/ingest.py", "report/page.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(specs, "PACKAGE", tmp_path)
    last = spec.fingerprint(tiny_dataset)
    for name in ("data/ingest.py", "report/page.py"):
        (tmp_path / name).write_text("after")
    assert spec.fingerprint(tiny_dataset) == last
    for name in files:
        (tmp_path / name).write_text("after")
        now = spec.fingerprint(tiny_dataset)
        assert now != last, name
        last = now


def test_students_see_what_teachers_answer_and_teachers_see_other_views(spec):
    asked = Teach(views=3, view_seed=7)
    kd = Recipe(teachers=["t"], terms=[{"loss": "sigmoid_kd"}])
    live = kd.model_copy(update={"views": "live"})

    def seen(recipe, teaches=False):
        shown = replace(spec, teaches=teaches, recipe=recipe, seed=2).with_views(asked)
        return shown.view_seed, shown.views

    assert seen(Recipe()) == (7, 3)
    assert seen(Recipe(views="fresh")) == (7, None)
    assert seen(kd) == seen(kd, teaches=True) == (7, 3)  # an assistant is taught like a student
    assert seen(live) == (7, None)
    assert seen(Recipe(views="fresh"), teaches=True) == (2 + OWN_VIEWS, None)
