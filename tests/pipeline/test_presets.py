"""Presets are the papers' systems, and writing one loses nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medistill.distillation.objective import traits_of
from medistill.distillation.terms import HardTerm
from medistill.params import Params, load_params
from pipeline.presets import PRESETS, preset_text

PAPERS = [name for name in PRESETS if name != "phantom"]


def params_of(name: str, tmp_path: Path) -> Params:
    (tmp_path / "params.yaml").write_text(preset_text(name, None if name == "phantom" else Path("/data/set")))
    return load_params(tmp_path / "params.yaml")


def preset(folder: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "preset", *arguments]
    environment = {"PYTHONPATH": f"{root}:{root / 'src'}", "PATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_the_phantoms_preset_is_the_repositorys_params(root):
    assert preset_text("phantom", None) == (root / "params.yaml").read_text()


@pytest.mark.parametrize("name", [name for name in PAPERS if name.startswith("paper-a")])
def test_system_a_is_the_papers(name, tmp_path):
    params = params_of(name, tmp_path)
    archs = {teacher.arch for teacher in params.teachers.values()}
    assert archs == {"densenet161", "ofa_595", "eeea_net_c2", "visformer_small", "swin_s3_tiny_224"}
    assert [student.arch for student in params.students.values()] == ["eeea_net_c2"]
    assert params.data.image_size == 224
    starting = [*params.students.values(), params.teachers["ofa_595"], params.teachers["eeea_net_c2"]]
    assert {network.init_from.arch for network in starting} == {"mobilenetv3_large_100"}
    for recipe in params.recipes.values():
        hard = [term for term in recipe.terms if isinstance(term, HardTerm)]
        assert [term.loss for term in hard] == ["focal_bce"]  # baseline and distilled students share the hard loss
        soft = [term for term in recipe.terms if term not in hard]
        assert [(term.loss, term.space) for term in soft] == ([("mse_kd", "sigmoid")] if recipe.teachers else [])


@pytest.mark.parametrize("name", [name for name in PAPERS if name.startswith("paper-b")])
def test_system_b_is_the_papers(name, tmp_path):
    params = params_of(name, tmp_path)
    assert {teacher.arch for teacher in params.teachers.values()} == {"vgg19_bn", "visformer_small", "swin_s3_tiny_224"}
    assert [(student.arch, student.init_from.arch) for student in params.students.values()] == [
        ("ofa_595", "mobilenetv3_large_100")
    ]
    assert params.recipes["kd_all"].teachers == list(params.teachers)
    assert all(traits_of(term).exclusive for recipe in params.recipes.values() for term in recipe.terms)


@pytest.mark.parametrize("name", PAPERS)
def test_every_recipe_and_teacher_is_run_and_baselines_stand_beside(name, tmp_path):
    params = params_of(name, tmp_path)
    assert params.run.teachers == list(params.teachers)
    assert params.run.recipes == list(params.recipes)
    assert params.recipes["baseline_fresh"].views == "fresh"
    assert params.data.root == Path("/data/set")


def test_a_root_is_written_as_it_is(tmp_path):
    text = preset_text("paper-b-lc25000", Path('my "set": é #1'))
    assert yaml.safe_load(text)["data"]["root"] == 'my "set": é #1'


def test_what_was_there_is_kept(root, tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes(b"mine: M\xfcller\n")  # Latin-1: the file may have any encoding
    done = preset(tmp_path, root, "paper-a-padchest", "--root", "set")
    assert (done.returncode, done.stdout) == (0, "wrote params.yaml; the old file is now params.yaml.before\n")
    assert (tmp_path / "params.yaml.before").read_bytes() == b"mine: M\xfcller\n"
    assert load_params(tmp_path / "params.yaml").data.format == "padchest"
    again = preset(tmp_path, root, "paper-a-padchest", "--root", "set")  # the same again: no backup is needed
    assert (again.returncode, again.stdout) == (0, "wrote params.yaml\n")
    written = (tmp_path / "params.yaml").read_text()
    refused = preset(tmp_path, root, "phantom")
    assert refused.returncode == 2
    assert "params.yaml.before exists already" in refused.stderr
    assert (tmp_path / "params.yaml").read_text() == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper-c", "--root", "."], "preset 'paper-c' is unknown; known are paper-a-chestxray14"),
        (["paper-a-chexpert"], "preset paper-a-chexpert: --root is missing"),
        (["phantom", "--root", "."], "preset phantom: the phantom takes no --root"),
        (["paper-a-chexpert", "--root", "nowhere"], "--root nowhere: no such folder"),
        (["paper-a-chexpert", "--root", b"M\xfcller"], "--root b'M\\xfcller': the name is not valid UTF-8; rename"),
        (["paper-a-chexpert", "--root", ""], "--root .: stages write into data/processed; put the data set into a"),
        (["paper-a-chexpert", "--root", ".."], "--root ..: stages write into data/processed; put the data set into a"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(root, tmp_path, arguments, message):
    done = preset(tmp_path, root, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "root_folder", "message"),
    [
        (
            "data/raw",
            "data",
            "--root data: stages write into data/processed; put the data set into another folder",
        ),
        ("models/mine/a", "models/mine", "--root models/mine: stages write into models; put the data set into a"),
        ("set", "set", "--root set: the folder is empty"),
        ("params.yaml/a", "params.yaml", "params.yaml: not a file; move it away"),
    ],
)
def test_a_folder_that_cannot_be_the_data_sets_is_refused(root, tmp_path, folder, root_folder, message):
    (tmp_path / folder).mkdir(parents=True)
    done = preset(tmp_path, root, "paper-b-lc25000", "--root", root_folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "params.yaml").is_file()


def test_a_link_that_leads_nowhere_is_kept_too(root, tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("mine: 1\n")
    (tmp_path / "params.yaml.before").symlink_to("gone")
    assert preset(tmp_path, root, "paper-b-lc25000", "--root", "set").returncode == 2
    assert (tmp_path / "params.yaml").read_text() == "mine: 1\n"
    assert (tmp_path / "params.yaml.before").is_symlink()


@pytest.mark.parametrize(
    "root", ["/data/Röntgen 😀", "/data/\x1b[2J\x7f\x85\u2028\u202e", "/data/caf\udce9", '/data/"a" #b: c']
)
def test_a_folder_of_any_name_is_read_back_as_it_was(root):
    text = preset_text("paper-a-chestxray14", Path(root))
    assert text.replace("\n", "").isprintable()
    assert yaml.safe_load(text)["data"]["root"] == root
