"""The recipes of docs/teachers.md, as far as networks with random weights take them."""

import re

import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression

from medistill.distillation.onnx_teacher import load_onnx
from medistill.distillation.settings import OnnxTeacher
from medistill.views import render_plain

pytestmark = pytest.mark.slow  # each exports a network by torch


class Pooled(torch.nn.Module):
    """A small vision transformer that gives pooled features, as RAD-DINO does."""

    def __init__(self):
        super().__init__()
        self.inner = timm.create_model("test_vit", num_classes=0, img_size=32)

    def forward(self, images):
        return self.inner(images)


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "teachers.md").read_text(encoding="utf-8")


def test_the_probe_of_the_page_answers_as_scikit_learn_does(tiny_dataset, page, tmp_path):
    code = page.partition("<!-- probe: begin -->\n```python\n")[2].partition("```\n<!-- probe: end -->")[0]
    scope = {}
    exec(compile(code, "docs/teachers.md", "exec"), scope)
    torch.manual_seed(0)
    network, mean, std = Pooled().eval(), [0.4] * 3, [0.3] * 3
    scope["export_probe"](network, tiny_dataset, tmp_path / "probe.onnx", 32, mean, std)
    settings = OnnxTeacher(
        onnx=tmp_path / "probe.onnx",
        labels=tiny_dataset.labels,
        input_size=32,
        mean=mean,
        std=std,
        outputs={"logits": "logits", "features": "features"},
    )
    teacher = load_onnx(settings, tiny_dataset)
    assert teacher.map_shape == [64]
    train, test = tiny_dataset.split("train"), tiny_dataset.split("test")
    seen, targets = features(network, tiny_dataset, train), tiny_dataset.targets(train)
    asked = features(network, tiny_dataset, test)
    images = render_plain(torch.from_numpy(tiny_dataset.images(test)))
    found = teacher.ask(images, {"features"})
    np.testing.assert_allclose(found["features"], asked, rtol=1e-3, atol=1e-4)
    centre, scale = seen.mean(0), seen.std(0) + 1e-6
    for label in range(2):
        probe = LogisticRegression(C=0.1, max_iter=1000).fit((seen - centre) / scale, targets[:, label])
        expected = probe.decision_function((asked - centre) / scale)
        np.testing.assert_allclose(found["logits"][:, label], expected, rtol=1e-3, atol=1e-3)


def features(network, dataset, rows):
    images = render_plain(torch.from_numpy(dataset.images(rows))).expand(-1, 3, -1, -1)
    with torch.no_grad():
        return network((images - 0.4) / 0.3).numpy()


def test_intensities_of_torchxrayvision_are_a_mean_and_a_deviation(tiny_dataset, page, tmp_path):
    """Its own `normalize` takes 0..255 to -1024..1024: (2 v / 255 - 1) 1024."""
    mean, std = (
        float(re.search(rf"channels: 1\n(?:.*\n)?    {key}: \[([\d.]+)\]", page)[1]) for key in ("mean", "std")
    )
    torch.manual_seed(0)
    network = timm.create_model("densenet121", in_chans=1, num_classes=18, growth_rate=4, block_config=[1, 1, 1, 1])
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": [{0: torch.export.Dim("n")}]}
    torch.onnx.export(network.eval(), (torch.zeros(2, 1, 32, 32),), tmp_path / "xrv.onnx", **names, dynamo=True)
    labels = ["Left", *[None] * 16, "Right"]
    settings = {"labels": labels, "input_size": 32, "channels": 1, "mean": [mean], "std": [std]}
    teacher = load_onnx(OnnxTeacher(onnx=tmp_path / "xrv.onnx", outputs={"logits": "logits"}, **settings), tiny_dataset)
    pixels = tiny_dataset.images(tiny_dataset.split("test"))
    theirs = torch.from_numpy((2 * pixels.astype(np.float32) / 255 - 1) * 1024)
    with torch.no_grad():
        expected = network(theirs)[:, [0, 17]].numpy()
    found = teacher.ask(render_plain(torch.from_numpy(pixels)), set())["logits"].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
