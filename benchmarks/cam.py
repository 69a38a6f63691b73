"""How long a map takes: `python -m benchmarks.cam`, in a checkout after `make repro`.

Writes its tables into docs/explanations.md.

`cam times`: milliseconds of one label's map, of all labels of eight test images: Grad-CAM in closed form, which needs
one pass forward for all labels, and pytorch-grad-cam's, which needs a pass forward and back for each; then each method
by the engine of the stage `explain`, label by label, Score-CAM of one label. All are measured in turn, so that other
load of the machine falls on all of them; a ratio is of times of one round.

`score cam`: what Score-CAM on 64 channels, those that vary most, leaves out: its maps beside those of all channels, on
four images.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from benchmarks.page import spread, write_between
from medistill.data.dataset import Dataset
from medistill.explain.cam import SCORED_CHANNELS, explain_by, has_layer, score_cam, upsample
from medistill.explain.scores import peak
from medistill.explain.ways import Layer, Method, Way
from medistill.models.classifier import Classifier
from medistill.models.stages import stage_at
from medistill.models.weights import load_model
from medistill.views import render_plain

ROUNDS = 5
IMAGES = 8
SCORED_IMAGES = 4
METHODS: tuple[Method, ...] = ("grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "eigen_cam", "score_cam")
MODELS = ["models/teachers/efficientnet_lite2", "models/students/eeea_net_c2-kd-0"]
PAGE = "docs/explanations.md"
LIBRARY = "Grad-CAM on the last map, pytorch-grad-cam"


class Tapped(nn.Module):
    """A classifier whose last map passes a module, on which the library can hang its hooks."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model, self.last = model, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.model.backbone.forward_head(self.last(self.model.features_of(self.model.inputs(images))))


def closed(model: Classifier, images: Tensor, count: int) -> np.ndarray:
    with torch.no_grad():
        _, features = model(images, with_map=True)
        return model.class_maps(features).clamp(min=0).numpy()


def library(model: Classifier, images: Tensor, count: int) -> np.ndarray:
    tapped = Tapped(model)
    with GradCAM(tapped, [tapped.last]) as cam:
        return np.stack([cam(images, [ClassifierOutputTarget(label)] * len(images)) for label in range(count)], axis=1)


def engine(way: Way) -> Callable[[Classifier, Tensor, int], np.ndarray]:
    def maps(model: Classifier, images: Tensor, count: int) -> np.ndarray:
        answers = (explain_by(model, images, np.full(len(images), label), [way])[0][way] for label in range(count))
        return np.stack(list(answers), axis=1)

    return maps


def times(models: dict[str, Classifier], images: Tensor) -> None:
    """Print and write milliseconds of a label's map, and the ratio to the library's."""
    rows = []
    for name, model in models.items():
        count = len(model.config["labels"])
        layer: Layer = "stride_16" if has_layer(model, "stride_16") else "last"
        tasks = {"Grad-CAM on the last map, in closed form": closed, LIBRARY: library}
        tasks |= {str(Way(method, layer)): engine(Way(method, layer)) for method in METHODS}
        spent: dict[str, list[float]] = {task: [] for task in tasks}
        for measured in range(ROUNDS + 1):  # the first is not counted
            for task, make in tasks.items():
                start = time.perf_counter()
                labels = 1 if task.startswith("Score-CAM") else count
                make(model, images, labels)
                if measured:
                    spent[task].append(1000 * (time.perf_counter() - start) / labels / len(images))
        theirs = spent[LIBRARY]
        for task, own in spent.items():
            ratios = [other / mine for other, mine in zip(theirs, own, strict=True)]
            rows.append([name, task, spread(own), "" if own is theirs else spread(ratios, 1)])
    show("cam times", ["model", "map", "ms a label's map", "times as fast as pytorch-grad-cam's Grad-CAM"], rows)


def scored(models: dict[str, Classifier], images: Tensor) -> None:
    """Print and write how the maps of 64 channels differ from those of all."""
    rows = []
    for name, model in models.items():
        layers = {"last": None} | ({"stride-16": stage_at(model, 16)} if has_layer(model, "stride_16") else {})
        for layer, stage in layers.items():
            activations, inputs, labels = tap(model, images, stage)
            channels = activations.shape[1]
            with torch.no_grad():
                some, every = (
                    score_cam(model, inputs, activations, labels, of).numpy() for of in (SCORED_CHANNELS, channels)
                )
            cells = [
                float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
                for one, other in zip(some, every, strict=True)
                if one.std() and other.std()
            ]
            apart = [
                np.hypot(*np.subtract(one, other)) / images.shape[-1]
                for one, other in zip(*(map(peak, upsample(of, images.shape[-1])) for of in (some, every)), strict=True)
                if one and other
            ]
            rows.append([name, layer, f"{channels}", spread(cells), spread(apart) if apart else ""])
    head = [
        "model",
        "map",
        "channels",
        "correlation with the map of all channels",
        "distance of the peaks, in sides of the frame",
    ]
    show("score cam", head, rows)


def tap(model: Classifier, images: Tensor, stage: nn.Module | None) -> tuple[Tensor, Tensor, np.ndarray]:
    """The map of a stage, or the last one, (N, K, h, w); prepared images; and the most probable label of each."""
    found: list[Tensor] = []
    hook = stage.register_forward_hook(lambda module, args, output: found.append(output)) if stage else None
    with torch.no_grad():
        inputs = model.eval().inputs(images)
        features = model.features_of(inputs)
        logits = model.classify(features)
    if hook:
        hook.remove()
    return model.channels_first(found[0] if stage else features).float(), inputs, logits.argmax(1).numpy()


def show(name: str, head: list[str], rows: Iterable[list[str]]) -> None:
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    print(table)
    write_between(PAGE, name, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[Path(model) for model in MODELS], help="their folders")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset.open()
    images = render_plain(torch.from_numpy(dataset.images(dataset.split("test").iloc[:IMAGES])))
    models = {folder.name: load_model(folder).eval() for folder in arguments.models}
    times(models, images)
    scored(models, images[:SCORED_IMAGES])


if __name__ == "__main__":
    main()
