"""Every preset through the whole graph, on a small tree in its data set's layout.

One preset of each system runs with the papers' own networks. The others differ from it in their data alone, and run
with tiny networks.
"""

import csv
import json
from pathlib import Path

import pytest
import yaml

from medistill.phantom.write import write_phantom
from tests.e2e.conftest import Project, clone
from tests.trees_cxr import write_chexpert, write_padchest
from tests.trees_tiles import write_covid_qu_ex, write_lc25000

pytestmark = pytest.mark.slow

TREES = {
    "paper-a-chestxray14": lambda root: write_phantom(root, images=100, size=64, seed=0, prevalence="balanced"),
    "paper-a-chexpert": write_chexpert,
    "paper-a-padchest": write_padchest,
    "paper-b-covid-qu-ex": write_covid_qu_ex,
    "paper-b-lc25000": write_lc25000,
}
WHOLE = {
    "paper-a-chestxray14": ["baseline", "baseline_fresh", "kd_densenet161", "kd_autoformer_v2_t"],
    "paper-b-lc25000": ["baseline", "baseline_fresh", "kd_all"],
}
"""Presets that run with the papers' own networks, all their teachers, and these recipes; the rest differ in a name."""


def shrink(params: dict, name: str) -> dict:
    """The preset with networks and images so small that it runs in minutes."""
    whole = name in WHOLE
    size = 64 if whole else 32
    params["data"] |= {"image_size": size, "workers": 1, "val_fraction": 0.3, "max_quarantined": 0.0}
    params["training"] |= {"epochs": 1, "batch_size": 16}
    if whole:
        params["training"]["precision"] = "no"  # large networks are slower in bf16 on a CPU; small ones are not
    for number, network in enumerate([*params["teachers"].values(), *params["students"].values()]):
        if not whole:
            network |= {"arch": ("test_resnet", "test_efficientnet")[number % 2]}
        network.pop("pretrained", None)  # nothing is downloaded in a test
        if network.pop("init_from", None) and whole:
            network["init_from"] = {"arch": "tf_efficientnet_lite2", "pretrained": True}  # the choice without a network
        network.pop("training", None)
    params["teach"]["views"] = 1 if whole else 2
    params["evaluate"]["resamples"] = 100
    params["explain"] |= {"gallery": 2, "max_images": 4}
    params["stress"] = {"images": 8}
    params["export"] |= {"parity_images": 4, "latency_runs": 5}
    params["promote"] |= {"margin_teacher": 1.0, "max_ece": 1.0, "require_baseline": False}
    if not whole:
        distilled = next(name for name, recipe in params["recipes"].items() if recipe.get("teachers"))
        params["run"] |= {"recipes": ["baseline", distilled], "teachers": params["recipes"][distilled]["teachers"]}
    else:
        params["run"]["recipes"] = WHOLE[name]
    return params


@pytest.mark.parametrize("name", TREES)
def test_a_preset_goes_through_the_whole_graph(root, tmp_path, name):
    project = clone(root, tmp_path / "clone")
    TREES[name](tmp_path / "set")
    project.run("python", "-m", "pipeline", "preset", name, "--root", str(tmp_path / "set"))
    project.write_params(shrink(project.params, name))
    project.run("dvc", "repro", timeout=1500)  # with the papers' own networks minutes on an idle machine
    project.run("python", "-m", "pipeline", "track")
    promotion = project.run("python", "-m", "pipeline", "promote", "--dry-run", "--json", expect=None)
    assert promotion.returncode in (0, 3), promotion.stderr
    verdict = json.loads(promotion.stdout)
    students = models(project)
    assert {candidate["model"] for candidate in verdict["candidates"]} == set(students)
    metrics = json.loads((project.folder / "reports" / "metrics.json").read_text())
    assert set(students) <= set(metrics)
    with (project.folder / "reports" / "comparisons.csv").open(newline="") as file:
        assert {row["model"] for row in csv.DictReader(file)} <= set(students)
    image = next(path for path in sorted((tmp_path / "set").rglob("*")) if path.suffix in (".png", ".jpg", ".jpeg"))
    answer = project.run("medistill", "predict", str(image), "--model", f"exports/{students[-1]}", "--json")
    (answered,) = json.loads(answer.stdout)
    probabilities = answered["probabilities"]
    assert all(0 <= value <= 1 for value in probabilities.values())
    if name.startswith("paper-b"):
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)


def models(project: Project) -> list[str]:
    run = yaml.safe_load(Path(project.folder, "params.yaml").read_text())["run"]
    return [f"{student}-{recipe}-0" for student in run["students"] for recipe in run["recipes"]]
