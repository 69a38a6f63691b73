"""How long the papers' presets would take on the device at hand: `python -m benchmarks.presets`, on an idle machine.

Their images are not needed. How often each network sees an image follows from the preset and from the published numbers
of images; how many it trains on or answers a second is measured here, at the preset's size. The loop of the pipeline
itself is a little slower or faster than that, see `benchmarks.distillation`; ingest, evaluation, heat maps and export
are not counted, and no training is ended early. Writes its tables into docs/papers.md.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from benchmarks.distillation import seconds
from benchmarks.page import spread, write_between
from medistill.models.build import create_classifier
from medistill.models.costs import count_macs
from medistill.models.settings import Network
from medistill.params import Params, load_params
from medistill.training.settings import TrainedNetwork
from pipeline.presets import preset_text
from pipeline.stage import keep_freed_memory

IMAGES = {
    "paper-a-chestxray14": 86_524,  # the official list for training and validation; the test list has 25,596 more
    "paper-a-chexpert": 223_414,  # of train.csv
    "paper-a-padchest": 158_626,  # the paper's number
    "paper-b-covid-qu-ex": 27_132,  # Train and Val
    "paper-b-lc25000": 25_000,
}
"""Published numbers of images that a preset splits; they include the test images if no official list names these."""

COVID_QU_EX_VALIDATES = 5_417  # its folder Val

PARTS = ["teachers", "teaching", "students"]
HOUR = 60 * 60


@dataclass(frozen=True)
class Passes:
    """How often one network sees an image."""

    part: str
    """One of `PARTS`."""
    arch: str
    trained: int
    """Images that it learns from, over all epochs."""
    answered: int
    """Images on which it only predicts: validation after each epoch, and teaching."""


def splits(name: str, params: Params) -> tuple[int, int]:
    """Numbers of training and of validation images."""
    images, data = IMAGES[name], params.data
    if data.format == "covid_qu_ex":
        return images - COVID_QU_EX_VALIDATES, COVID_QU_EX_VALIDATES
    validate = round(images * data.val_fraction)
    test = round(images * data.test_fraction) if data.split == "patient" else 0
    return images - validate - test, validate


def passes(params: Params, train: int, validate: int) -> list[Passes]:
    """How often each network of the run sees an image, with `train` and `validate` images per epoch.

    Teachers must answer cached views, as in the papers' presets.
    """

    def training(part: str, network: TrainedNetwork) -> Passes:
        epochs = network.training_on(params.training).epochs
        return Passes(part, network.arch, epochs * train, epochs * validate)

    teachers = [params.teachers[name] for name in params.run.all_teachers]
    return [
        *(training("teachers", teacher) for teacher in teachers),
        *(Passes("teaching", teacher.arch, 0, params.teach.views * train) for teacher in teachers),
        *(training("students", params.students[model.student]) for model in params.student_models()),
    ]


def operations(work: list[Passes], macs: dict[str, int]) -> tuple[int, int]:
    """Floating-point operations of training (three passes) and of answering (one); a multiply-accumulate is two."""
    trained = sum(2 * macs[each.arch] * 3 * each.trained for each in work)
    return trained, sum(2 * macs[each.arch] * each.answered for each in work)


def hours(work: list[Passes], rates: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Hours of each part and of the `whole`; `rates` are images per second of training and of answering, by arch."""
    took = dict.fromkeys(PARTS, 0.0)
    for each in work:
        trains, answers = rates[each.arch]
        took[each.part] += (each.trained / trains + each.answered / answers) / HOUR
    return took | {"whole": sum(took.values())}


def measure(arch: str, size: int, batch: int, steps: int) -> tuple[float, float]:
    """Images per second of a training step and of an answer, on one batch in memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_classifier(Network(arch=arch), labels=list("abcdefghijklmn"), image_size=size)
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images = torch.rand(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    targets = torch.rand(batch, 14, device=device).round()
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def train() -> None:
        with half:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(images), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def answer() -> None:  # in float32, as the stages answer
        model(images)

    def rate(task: Callable[[], None]) -> float:
        task()
        return steps * batch / seconds(lambda: [task() for _ in range(steps)], device)

    model.train()
    trained = rate(train)
    model.eval()
    return trained, rate(answer)


def first_cells(name: str, params: Params, work: list[Passes], macs: dict[str, int]) -> list[str]:
    """The first cells of a preset's row, which do not depend on the device."""
    trained, answered = operations(work, macs)
    return [
        f"`{name}`",
        f"{splits(name, params)[0]:,}",
        f"{sum(each.trained for each in work) / 1e6:.1f} M",
        f"{trained / 1e15:.0f} · 10¹⁵",
        f"{sum(each.answered for each in work) / 1e6:.1f} M",
        f"{answered / 1e15:.0f} · 10¹⁵",
    ]


def report(
    presets: dict[str, Params], work: dict[str, list[Passes]], macs: dict[str, int], rounds: list[dict[str, tuple]]
) -> list[str]:
    """Two tables: how fast each network is, and what each preset takes."""
    lines = ["| network | MACs | trained on, images/s | answered, images/s |", "|---|---:|---|---|"]
    for arch in macs:
        trained, answered = (spread([rates[arch][which] for rates in rounds], 1) for which in (0, 1))
        lines.append(f"| {arch} | {macs[arch] / 1e9:.2f} G | {trained} | {answered} |")
    head = ["preset", "images that train", "trained on", "operations", "answered", "operations"]
    head += [f"{part}, h" for part in [*PARTS, "whole"]]
    lines += ["", f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name, params in presets.items():
        times = [hours(work[name], rates) for rates in rounds]
        cells = [
            *first_cells(name, params, work[name], macs),
            *(f"{median(took[part] for took in times):.1f}" for part in PARTS),
            spread([took["whole"] for took in times], 1),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def read_presets() -> dict[str, Params]:
    """The papers' presets, by name."""
    presets = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in IMAGES:
            file = Path(folder) / "params.yaml"
            file.write_text(preset_text(name, Path("data")), encoding="utf-8")
            presets[name] = load_params(file)
    return presets


def macs_of(archs: Iterable[str], size: int) -> dict[str, int]:
    """Multiply-accumulates of one image, by arch."""
    with torch.device("meta"):
        networks = {arch: create_classifier(Network(arch=arch), labels=["a"], image_size=size) for arch in archs}
        return {arch: count_macs(network, size) for arch, network in networks.items()}


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64 if cuda else 16)
    parser.add_argument("--steps", type=int, default=50 if cuda else 2, help="timed, of each network in each round")
    arguments = parser.parse_args()
    keep_freed_memory()  # as every stage of the pipeline does

    presets = read_presets()
    (size,) = {params.data.image_size for params in presets.values()}
    work = {name: passes(params, *splits(name, params)) for name, params in presets.items()}
    macs = macs_of(dict.fromkeys(each.arch for preset in work.values() for each in preset), size)
    rounds = [
        {arch: measure(arch, size, arguments.batch, arguments.steps) for arch in macs}
        for _ in tqdm(range(arguments.rounds), desc="rounds")
    ]
    table = "\n".join(report(presets, work, macs, rounds))
    print(table)
    write_between("docs/papers.md", f"presets {'cuda' if cuda else 'cpu'}", table)


if __name__ == "__main__":
    main()
