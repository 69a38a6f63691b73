"""What an epoch of distillation costs: `python -m benchmarks.distillation`.

One run on the same images, with the same student and batch: the student alone, with three teachers whose answers
are cached, with timm's distillation task and DenseNet161 live, and with all three teachers live. Conditions take turns
in each round; each ratio is of times of one round. Writes its tables into docs/distillation.md.

On a CUDA device everything computes in bf16, and a last epoch of each condition is profiled for the share of its time
in which the device was busy.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from timm.task import LogitDistillationTask
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from benchmarks.page import spread, write_between
from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.distillation.functional import binary_cross_entropy, sigmoid_kd
from medistill.distillation.knowledge import Knowledge, write_knowledge
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Recipe, Teach
from medistill.files import atomic
from medistill.models.build import create_classifier
from medistill.models.classifier import Classifier, map_shape
from medistill.models.settings import Network
from medistill.phantom.write import write_phantom
from medistill.training.checkpoint import Checkpoint
from medistill.training.settings import Training
from medistill.training.spec import TrainingSpec
from medistill.training.trainer import Trainer
from medistill.views import open_frames, render_plain
from pipeline.stage import keep_freed_memory

SIZE, BATCH, ROUNDS = 224, 16, 5
TEACHERS = ["densenet161", "visformer_small", "swin_s3_tiny_224"]
VIEWS, EPOCHS = 8, 30  # as in the presets: teachers answer 8 views once, for 30 epochs of training
AUGMENTATION = Augmentation(rotation=7, translation=0.05, scale=0.1, brightness=0.05, contrast=0.1, flip=False)
TERMS = [{"loss": "binary_cross_entropy", "weight": 0.5}, {"loss": "sigmoid_kd", "weight": 0.5}]
WITH_MAPS = [*TERMS, {"loss": "cam_kd", "weight": 0.1}]


def prepare(folder: Path, images: int) -> Dataset:
    """The phantom at 224 px; seven tenths of it are the training split."""
    write_phantom(folder / "phantom", images=images, size=SIZE, seed=0, prevalence="balanced")
    data = Data(
        format="chestxray14",
        root=folder / "phantom",
        split="patient",
        splits=folder / "none",
        val_fraction=0.15,
        test_fraction=0.15,
        seed=0,
        image_size=SIZE,
        channels=1,
        fit="pad",
        max_quarantined=0,
        workers=2,
    )
    ingest(data, folder / "processed", folder / "cache")
    return Dataset.open(folder / "processed")


def build(arch: str, dataset: Dataset, device: torch.device) -> Classifier:
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=dataset.labels, image_size=SIZE)
    model.config |= {"name": arch, "model_sha256": ""}
    return model.to(device, memory_format=torch.channels_last)


def seconds(task: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call, until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Busy:
    """The share of time between `start` and `stop` in which kernels ran on the device: one stream, so none overlap."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CUDA])

    def start(self) -> None:
        torch.cuda.synchronize()
        self._profile.start()
        self._begun = time.perf_counter()

    def stop(self) -> None:
        torch.cuda.synchronize()
        took = time.perf_counter() - self._begun
        self._profile.stop()
        self.share = sum(event.self_device_time_total for event in self._profile.key_averages()) / 1e6 / took

    def step(self, report: dict) -> None:
        """Count from the first step of a training to its last: neither its opening of files nor its validation."""
        if report["step"] == 1:
            self.start()
        if report["step"] == report["steps"]:
            self.stop()


def measure(folder: Path, images: int, rounds: int) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Seconds per image of each condition in each round, and the share of time in which a CUDA device was busy.

    Teaching takes long and is timed once; its figure is the same in all rounds.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "bf16" if device.type == "cuda" else "no"
    training = Training(
        epochs=1, batch_size=BATCH, learning_rate=1e-3, weight_decay=0.05, warmup=0, clip_norm=1, precision=precision
    )
    network = Network(arch="eeea_net_c2")
    spec = TrainingSpec(name="a", network=network, training=training, augmentation=AUGMENTATION, views=1)
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    dataset = prepare(folder, images)
    student = build("eeea_net_c2", dataset, device)
    teachers = [build(arch, dataset, device).eval() for arch in TEACHERS]
    train = dataset.split("train")

    def teach(asked: Teach) -> None:
        for teacher in teachers:
            with atomic(folder / teacher.config["name"]) as temporary:
                temporary.mkdir()
                write_knowledge(temporary, teacher, dataset, AUGMENTATION, asked)

    asked = Teach(views=1, view_seed=0, answers=["cams"])
    teaching = seconds(lambda: teach(Teach(views=1, view_seed=0)), device) / len(train)
    teach(asked)
    knowledge = [Knowledge.open(folder / arch, dataset, AUGMENTATION, asked) for arch in TEACHERS]
    alone = RecipeObjective(Recipe(), dataset)
    distilled, with_maps = (
        RecipeObjective(
            Recipe(teachers=["a", "b", "c"], terms=terms), dataset, knowledge, map_shape=map_shape(student, SIZE)
        )
        for terms in (TERMS, WITH_MAPS)
    )

    rows = train.iloc[:BATCH]
    batch = render_plain(torch.from_numpy(dataset.images(rows))).repeat(1, 3, 1, 1)
    batch = batch.to(device).contiguous(memory_format=torch.channels_last)
    targets = torch.from_numpy(dataset.targets(rows)).to(device)
    steps = len(train) // BATCH

    def loop(objective: Callable) -> Callable[..., None]:
        """An epoch of the real loop, without its validation."""

        def task(on_step: Callable[[dict], None] = lambda report: None) -> None:
            checkpoint = Checkpoint(folder / "checkpoints", str(time.time()))
            trainer = Trainer(copy.deepcopy(student), objective, dataset, spec, checkpoint, on_step=on_step)
            result = trainer.fit()
            rates.append(float(result.history["images_per_second"].iloc[0]))

        return task

    def bare(loss: Callable[[torch.nn.Module], torch.Tensor], model: torch.nn.Module) -> Callable[[], None]:
        """As many steps on one batch in memory."""
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

        def task() -> None:
            for _ in range(steps):
                with half:
                    value = loss(model)
                value.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        return task

    def live(model: torch.nn.Module) -> torch.Tensor:
        logits = model(batch)
        with torch.no_grad():
            answer = torch.stack([teacher(batch) for teacher in teachers]).mean(0)
        return 0.5 * binary_cross_entropy(logits, targets) + 0.5 * sigmoid_kd(logits, answer)

    def answers(models: list[Classifier]) -> Callable[[], None]:
        @torch.no_grad()
        def task() -> None:
            for _, model in product(range(steps), models):
                with half:
                    model(batch)

        return task

    def opening() -> None:
        """What a training does once, before its first step."""
        open_frames(dataset, train, SIZE)
        for arch in TEACHERS:
            Knowledge.open(folder / arch, dataset, AUGMENTATION, asked)

    own = copy.deepcopy(student)
    task = LogitDistillationTask(
        own.backbone,
        teachers[0].backbone,
        torch.nn.BCEWithLogitsLoss(),
        task_loss_weight=0.5,
        device=device,
        verbose=False,
    )
    timm_step = bare(lambda model: task(batch, targets)["loss"], own.backbone)
    rates: list[float] = []
    conditions = {
        "loop, student alone": loop(alone),
        "loop, three cached teachers": loop(distilled),
        "loop, three cached teachers and their maps": loop(with_maps),
        "step, student alone": bare(lambda model: binary_cross_entropy(model(batch), targets), copy.deepcopy(student)),
        "step, timm's task, DenseNet161 live": timm_step,
        "step, three live teachers": bare(live, copy.deepcopy(student)),
        "answers of DenseNet161": answers(teachers[:1]),
        "answers of all three": answers(teachers),
        "frames and answers opened, once": opening,
    }
    results = []
    for number in tqdm(range(rounds + 1), desc="rounds"):  # the first warms up
        row = {"teaching of all three": teaching}
        for name, condition in conditions.items():
            rates.clear()
            took = seconds(condition, device) / (len(train) if condition is opening else steps * BATCH)
            row[name] = 1 / rates[0] if rates else took
        if number:
            results.append(row)
    shares = {}
    for name, condition in conditions.items() if device.type == "cuda" else ():
        measured = Busy()
        if name.startswith("loop"):
            condition(measured.step)
        else:
            measured.start()
            condition()
            measured.stop()
        shares[name] = measured.share
    return results, shares


def report(results: list[dict[str, float]], shares: dict[str, float]) -> list[str]:
    """Three tables: images per second of each condition, their ratios, and how long a whole training takes."""
    head = ["| condition | images/s |", "|---|---|"]
    rows = {name: f"| {name} | {spread([1 / row[name] for row in results], 1)} |" for name in results[0]}
    if shares:
        head = ["| condition | images/s | device busy |", "|---|---|---|"]
        rows = {name: f"{row} {f'{shares[name]:.0%}' if name in shares else ''} |" for name, row in rows.items()}

    def over_rounds(of: Callable[[dict[str, float]], float]) -> str:
        return spread([of(row) for row in results])

    one, three, alone = "answers of DenseNet161", "answers of all three", "step, student alone"
    teaching = "teaching of all three"
    cached, maps = "loop, three cached teachers", "loop, three cached teachers and their maps"
    timm, live = "step, timm's task, DenseNet161 live", "step, three live teachers"
    bound1, bound3 = (lambda row, key=key: 1 + row[key] / row[alone] for key in (one, three))
    wanted = [
        ("epoch with three cached teachers / epoch without", lambda row: row[cached] / row["loop, student alone"]),
        ("the same with their maps (cam_kd) / epoch without", lambda row: row[maps] / row["loop, student alone"]),
        ("timm's task with DenseNet161 live / three cached teachers", lambda row: row[timm] / row[cached]),
        ("its bound, 1 + teacher / student", bound1),
        ("share of the bound", lambda row: row[timm] / row[cached] / bound1(row)),
        ("three live teachers / three cached", lambda row: row[live] / row[cached]),
        ("its bound, 1 + teachers / student", bound3),
        ("share of the bound", lambda row: row[live] / row[cached] / bound3(row)),
        ("loop / step on a batch in memory, images/s", lambda row: row[alone] / row["loop, student alone"]),
        (
            f"{EPOCHS} epochs with three live teachers / cached, {VIEWS} views taught",
            lambda row: EPOCHS * row[live] / (EPOCHS * row[cached] + VIEWS * row[teaching]),
        ),
        (
            f"break-even, in epochs ({VIEWS} views)",
            lambda row: VIEWS * row[teaching] / (row[live] - row[cached]),
        ),
    ]
    walls = [
        ("teaching, three teachers", lambda row: VIEWS * row[teaching]),
        ("training, three cached teachers", lambda row: EPOCHS * row[cached]),
        ("training, three live teachers", lambda row: EPOCHS * row[live]),
        ("training, no teacher", lambda row: EPOCHS * row["loop, student alone"]),
    ]
    return [
        *head,
        *rows.values(),
        "",
        "| ratio within a round | |",
        "|---|---|",
        *(f"| {n} | {over_rounds(of)} |" for n, of in wanted),
        "",
        f"| 1,000 images, {EPOCHS} epochs, {VIEWS} views | minutes |",
        "|---|---|",
        *(f"| {n} | {over_rounds(lambda row, of=of: 1000 / 60 * of(row))} |" for n, of in walls),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    images = 2300 if torch.cuda.is_available() else 230
    parser.add_argument("--images", type=int, default=images, help="of the phantom; seven tenths train")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    keep_freed_memory()  # as every stage of the pipeline does
    with tempfile.TemporaryDirectory() as folder:
        table = "\n".join(report(*measure(Path(folder), arguments.images, arguments.rounds)))
    print(table)
    write_between("docs/distillation.md", f"speed {'cuda' if torch.cuda.is_available() else 'cpu'}", table)


if __name__ == "__main__":
    main()
