"""Ways are ranked by the pointing game on validation images; a network that looks there wins."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medistill.data.dataset import Dataset
from medistill.explain.choice import decide
from medistill.explain.explained import explain, randomised
from medistill.explain.road import Removed
from medistill.explain.selection import Finding
from medistill.explain.ways import Way
from medistill.metrics.means import share_interval
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.task import Task

FIRST, SECOND, THIRD = Way("grad_cam", "last"), Way("hires_cam", "stride_16"), Way("layer_cam", "stride_16")
FINDINGS = [Finding(f"i{k}", "Mass", f"p{k // 2}", "val", ((0, 0, 0.5, 0.5),)) for k in range(8)]


def test_the_mean_over_models_ranks_and_of_equal_ways_the_first_wins():
    hits = {
        "a": {FIRST: np.array([1.0] * 4 + [0.0] * 4), SECOND: np.ones(8), THIRD: np.zeros(8)},
        "b": {FIRST: np.array([1.0] * 4 + [0.0] * 4), SECOND: np.zeros(8), THIRD: np.ones(8)},
    }
    way, choice = decide(FINDINGS, hits)
    assert way == FIRST
    assert (choice.method, choice.layer, choice.reason) == ("grad_cam", "last", "")
    assert (choice.findings, choice.images, choice.groups) == (8, 8, 4)
    assert [(tried.method, tried.mean) for tried in choice.tried] == [(w.method, 0.5) for w in (FIRST, SECOND, THIRD)]
    groups = np.array([finding.group_id for finding in FINDINGS])
    assert choice.tried[1].models == {"a": share_interval(np.ones(8), groups), "b": share_interval(np.zeros(8), groups)}

    hits["b"][THIRD], hits["a"][THIRD] = np.ones(8), np.array([0.0] * 7 + [1.0])
    way, choice = decide(FINDINGS, hits)
    assert way == THIRD
    assert [tried.mean for tried in choice.tried] == [pytest.approx(9 / 16), 0.5, 0.5]


def test_the_nulls_are_the_maps_of_another_label_and_of_random_weights():
    torch.manual_seed(0)
    network = Network(arch="resnet10t", args={"stem_width": 8, "channels": [8, 8, 8, 16]})
    model = create_classifier(network, labels=["Mass", "Nodule"]).eval()
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 64, 64), dtype=np.uint8)
    data = Dataset(Path(), "made up", "csv", Task.MULTILABEL, ["Mass", "Nodule"], 64, 1, "pad", "", pd.DataFrame())
    some = Removed(FINDINGS, images, [1])
    own = explain(model, data, FINDINGS, images, SECOND, ["Nodule", None], some)
    assert own.maps.shape == (8, 4, 4)
    assert own.way == SECOND
    assert own.drops.most.shape == own.drops.random.shape == (1, 4)
    assert own.random_maps.shape == own.wrong_maps.shape == (2, 4, 4)
    others = [Finding(f.image_id, "Nodule", f.group_id, "val", f.boxes) for f in FINDINGS]
    np.testing.assert_array_equal(own.wrong_maps[0], explain(model, data, others, images, SECOND, [], some).maps[0])
    assert np.isnan(own.wrong_maps[1]).all()
    untrained = explain(randomised(model), data, FINDINGS, images, SECOND, [], some)
    np.testing.assert_allclose(own.random_maps, untrained.maps[:2], rtol=1e-4, atol=1e-7)
    assert np.abs(own.random_maps - own.maps[:2]).max() > 1e-3 * own.maps.max()


def test_random_weights_are_all_new_always_the_same_and_nobody_elses():
    torch.manual_seed(0)
    model = create_classifier(Network(arch="mobilenetv3_small_050"), labels=["Mass"]).train()
    model(torch.rand(4, 1, 64, 64))  # running statistics
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = randomised(model).state_dict(), randomised(model).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    kept = [name for name, value in first.items() if value.dim() > 1 and torch.equal(value, before[name])]
    assert kept == []
    means = [value for name, value in first.items() if name.endswith("running_mean")]
    assert means
    assert not any(value.any() for value in means)
