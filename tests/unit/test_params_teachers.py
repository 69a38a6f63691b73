"""Teachers in params.yaml: their mistakes are named, and several seeds are several models."""

import re

import pytest

from medistill.errors import UserError
from medistill.params import StudentModel
from tests.params import with_several, written


@pytest.fixture
def params():
    return with_several()


ASSISTANT = {"arch": "efficientnet_b0", "recipe": "kd"}
FROZEN = {"arch": "resnet18", "weights": "w.safetensors", "frozen": True}


@pytest.mark.parametrize(
    ("section", "network", "message"),
    [
        ("assistants", {"arch": "resnet18"}, "teachers.new is in run.assistants and so needs a recipe"),
        (
            "teachers",
            ASSISTANT,
            "run.teachers names 'new', which has a recipe and so is an assistant; name it in run.assistants",
        ),
        (
            "assistants",
            ASSISTANT | {"recipe": "no"},
            "teachers.new.recipe names 'no', but recipes has only base",
        ),
        ("assistants", ASSISTANT | {"recipe": "baseline"}, "teachers.new: its recipe baseline has no teachers"),
        (
            "assistants",
            ASSISTANT | {"recipe": "own"},
            "teachers.new: its recipe's teacher 'new' is an assistant itself",
        ),
        ("teachers", {"arch": "resnet18", "seed": 1, "seeds": [0, 1]}, "teachers.new: set seed or seeds, not both"),
        ("teachers", {"arch": "resnet18", "seeds": [1, 1]}, "teachers.new: seeds names 1 more than once"),
        ("teachers", {"arch": "resnet18", "seeds": [1]}, "teachers.new.seeds: list should have at least 2 items"),
        ("teachers", FROZEN | {"seeds": [0, 1]}, "teachers.new: a frozen teacher is not trained; leave seeds out"),
        (
            "teachers",
            {"arch": "resnet18", "init_from": {"arch": "resnet34", "pretraned": True}},
            "key teachers.new.init_from.pretraned is unknown; did you mean pretrained?",
        ),
        ("teachers", FROZEN | {"weights": None}, "teachers.new: frozen: true needs weights: FILE"),
        ("teachers", FROZEN | {"recipe": "kd"}, "teachers.new: a frozen teacher is not trained; leave recipe out"),
        ("teachers", FROZEN | {"training": {"epochs": 3}}, "a frozen teacher is not trained; leave training out"),
        ("teachers", {"arch": "resnet18", "labels": ["a"]}, "teachers.new: labels is for frozen: true"),
        ("teachers", FROZEN | {"labels": ["a", "a"]}, "teachers.new: labels names 'a' more than once"),
        (
            "teachers",
            {"arch": "resnet18", "mean": [0.5]},
            "teachers.new: mean must have a number for each of 3",
        ),
        ("teachers", {"arch": "resnet18", "mean": [123, 116, 103]}, "teachers.new.mean.0: input should be less than"),
        ("teachers", {"arch": "resnet18", "mean": []}, "teachers.new.mean: list should have at least 1 item"),
        ("teachers", {"arch": "resnet18", "channels": 1, "std": [0]}, "teachers.new.std.0: input should be greater"),
    ],
)
def test_mistakes_of_teachers_are_named(params, tmp_path, section, network, message):
    params["teachers"]["new"] = network
    params["recipes"]["own"] = {"teachers": ["new"], "terms": [{"loss": "sigmoid_kd"}]}
    params["run"][section].append("new")
    with pytest.raises(UserError, match=re.escape(message)):
        written(params, tmp_path)


def test_a_teacher_of_several_seeds_is_as_many_models(params, tmp_path):
    params["teachers"]["densenet"]["seeds"] = [4, 0]
    params["recipes"]["kd"] |= {"teachers": ["densenet"], "combine": "entropy"}  # needs several teachers
    read = written(params, tmp_path)
    assert list(read.teacher_models()) == ["densenet.4", "densenet.0", "efficientnet_lite2"]
    assert [(one.seed, one.seeds) for one in read.teacher_models().values()] == [(4, None), (0, None), (0, None)]
    assert read.recipe_of("kd").teachers == ["densenet.4", "densenet.0"]
    folders = {name: folder.folder.as_posix() for name, folder in read.model_folders().items()}
    assert folders["densenet.4"] == "models/teachers/densenet/4"  # within what the stage of all seeds writes
    assert folders["efficientnet_lite2"] == "models/teachers/efficientnet_lite2"
    assert read.knowledge_folder("densenet.0").as_posix() == "data/knowledge/densenet/0"
    assert list(read.roles().items())[:2] == [("densenet.4", "teacher"), ("densenet.0", "teacher")]
    distilled, baseline = (StudentModel(student="eeea_net_c2", recipe=name, seed=0) for name in ("kd", "baseline"))
    assert read.references(distilled) == read.references(baseline) == ["densenet.4", "densenet.0"]


def test_assistants_answer_into_a_folder_of_their_own(params, tmp_path):
    params["teachers"]["new"] = ASSISTANT
    params["run"]["assistants"] = ["new"]
    params["recipes"]["by"] = {"teachers": ["new"], "terms": [{"loss": "sigmoid_kd"}]}
    params["run"]["recipes"].append("by")
    read = written(params, tmp_path)
    assert [str(read.knowledge_folder(name)) for name in read.run.all_teachers] == [
        "data/knowledge/densenet",
        "data/knowledge/efficientnet_lite2",
        "data/assistants/new",
    ]
    assert str(read.model_folders()["new"].folder) == "models/teachers/new"
