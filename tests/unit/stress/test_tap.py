"""What `unlike` measures of a network: torch's own pooling of the map that the network has at that place."""

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from medistill.models.classifier import Classifier
from medistill.stress.tap import UnlikeScore, forward_tapped, quarters
from medistill.stress.unlike import Unlike

IMAGES = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))


def classifier(arch, **kwargs):
    torch.manual_seed(0)
    return Classifier(timm.create_model(arch, num_classes=2, **kwargs), {"mean": [0.5] * 3, "std": [0.25] * 3}).eval()


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2), (1, 1)])
def test_quarters_are_those_of_adaptive_pooling(size):
    values = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(quarters(values), adaptive_avg_pool2d(values, 2).flatten(1))


@torch.no_grad()
@pytest.mark.parametrize("arch", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_features_are_those_of_the_map_of_stride_8(arch):
    model = classifier(arch)
    maps = model.backbone.forward_intermediates((IMAGES - model.mean) / model.std, intermediates_only=True)
    (expected,) = [values for values in maps if values.shape[2:] == (8, 8)]
    logits, last, features = forward_tapped(model, IMAGES)
    torch.testing.assert_close(features, quarters(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((logits, last), model(IMAGES, with_map=True))
    assert not any(module._forward_hooks for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "kwargs", "width"),
    [
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 24}, 4 * 48),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 1}, 192),  # tokens: pooled
    ],
)
def test_networks_with_channels_last_and_with_tokens_have_features(arch, kwargs, width):
    _, _, features = forward_tapped(classifier(arch, **kwargs), IMAGES)
    assert features.shape == (3, width)
    assert features.dtype == torch.float32


def test_the_score_of_a_graph_is_that_of_the_arrays(tmp_path):
    generator = np.random.default_rng(0)
    maps = generator.normal(1, 1, (90, 20, 7, 7)).astype(np.float32)

    class Graph(nn.Module):
        def __init__(self, unlike):
            super().__init__()
            self.score = UnlikeScore(unlike)

        def forward(self, maps):
            return self.score(quarters(maps))

    described = quarters(torch.from_numpy(maps)).numpy()
    unlike = Unlike.fit(described[:60], described[:60] + 0.01, described[60:], np.arange(30))
    path = tmp_path / "score.onnx"
    batch = {"maps": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(Graph(unlike).eval(), (torch.from_numpy(maps[:2]),), dynamo=True, dynamic_shapes=batch)
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    (scores,) = session.run(None, {session.get_inputs()[0].name: maps})
    np.testing.assert_allclose(scores, unlike.scores(described), rtol=1e-4)
    assert {node.op_type for node in onnx.load(path).graph.node} <= {
        *("Slice", "ReduceMean", "Concat", "Sub", "MatMul", "Mul", "ReduceSum", "Add", "Squeeze", "Unsqueeze", "Pow"),
        *("Gather", "Constant", "Reshape", "Transpose", "Gemm", "Cast", "Shape", "Max"),
    }
