"""What a heat map costs on a device: `python -m benchmarks.explain_onnx`. Writes its table into docs/explanations.md.

ONNX Runtime on one thread, one image of 224 px: `model.onnx` without its maps, and `model.explain.onnx`, which
gives them with HiResCAM at stride 16 of one label and of three. All are measured in turn, so that other load of the
machine falls on all of them; a ratio is of times of one round. Weights are random, which costs the same.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.page import spread, write_between
from medistill.export.finer import export_explained
from medistill.export.latency import without_maps
from medistill.export.onnx import export_onnx
from medistill.models.build import create_classifier
from medistill.models.classifier import Classifier
from medistill.models.settings import Network
from medistill.runtime.explainer import Explainer
from medistill.runtime.session import open_session, run

ARCHS = ("eeea_net_c2", "ofa_595", "tf_efficientnet_lite0")
SIZE, LABELS, OPSET = 224, 14, 18
ROUNDS, RUNS, ASKED = 30, 5, (1, 3)
PAGE = "docs/explanations.md"


def network(arch: str) -> Classifier:
    model = create_classifier(Network(arch=arch), labels=[f"label {i}" for i in range(LABELS)], image_size=SIZE).eval()
    about = {"name": arch, "task": "multilabel", "fit": "pad", "fingerprint": "", "image_size": SIZE, "channels": 1}
    model.config |= about  # type: ignore[typeddict-item]  # its values are those of a config
    return model


def row(arch: str, folder: Path) -> list[str]:
    model, plain, finer = network(arch), folder / "model.onnx", folder / "model.explain.onnx"
    export_onnx(model, plain, opset=OPSET)
    export_explained(model, finer, opset=OPSET)
    session = open_session(without_maps(plain.read_bytes()), name=str(plain), threads=1)
    explainer = Explainer(finer.read_bytes(), name=str(finer), threads=1)
    image = np.random.default_rng(0).integers(0, 256, (1, 1, SIZE, SIZE), np.uint8)
    tasks = {0: lambda: run(session, image)}
    tasks |= {asked: lambda asked=asked: explainer.explain(image, np.arange(asked)[None]) for asked in ASKED}
    spent: dict[int, list[float]] = {asked: [] for asked in tasks}
    for measured in range(ROUNDS + 1):  # the first is not counted
        for asked, task in tasks.items():
            start = time.perf_counter()
            for _ in range(RUNS):
                task()
            if measured:
                spent[asked].append(1000 * (time.perf_counter() - start) / RUNS)
    ratios = {asked: [own / bare for own, bare in zip(spent[asked], spent[0], strict=True)] for asked in ASKED}
    sizes = [f"{file.stat().st_size / 1e6:.1f}" for file in (plain, finer)]
    return [arch, spread(spent[0], 1), *(spread(ratios[asked]) for asked in ASKED), *sizes]


def main() -> None:
    torch.manual_seed(0)
    head = [
        "model",
        "ms, logits alone",
        "times that, with a map",
        "with three maps",
        "MB, model.onnx",
        "model.explain.onnx",
    ]
    rows = []
    for arch in ARCHS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(arch, Path(folder)))
        print(rows[-1], flush=True)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
    write_between(PAGE, "explain onnx", table)


if __name__ == "__main__":
    main()
