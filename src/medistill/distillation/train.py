"""From a recipe of params.yaml to a trained network, for students, assistants and teachers alike."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from medistill.checksums import read_record
from medistill.data import provenance
from medistill.data.dataset import Dataset, label_columns
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.objective import (
    RecipeObjective,
    require_all_classes,
    require_all_labels,
    require_own_maps,
    require_places,
    require_task,
    traits_of,
)
from medistill.distillation.settings import Recipe
from medistill.distillation.teachers import LiveTeacher, unknown_labels
from medistill.errors import UserError, at_key
from medistill.files import sha256
from medistill.models.build import create_classifier
from medistill.models.classifier import has_batch_norm_behind_map, map_shape
from medistill.models.settings import Network
from medistill.models.weights import load_model, require_pretrained
from medistill.params import Params
from medistill.report.live import LiveCurves
from medistill.text import counted, printable
from medistill.training.processes import this_process
from medistill.training.run import as_it_is, labels_of, train
from medistill.training.settings import TrainedNetwork, Training
from medistill.training.trainer import steps_per_epoch, training_rows

OWN_VIEWS = 1_000_003
"""Apart from any `teach.view_seed`: a teacher never trains on the views that it will answer."""


EXPORTED = Path(".cache/export")
"""What students are known to be exportable, so that not every stage tries."""


def require_networks(params: Params) -> None:
    """Refuse networks that could not be trained on any data, before data are read.

    Raises:
        UserError: a network cannot be built, does not take the size or has no weights to start from, or a student
            cannot be exported.
    """
    labels, size = ["a label", "another"], params.data.image_size
    for (section, name), network in _networks(params).items():
        with at_key(f"{section}.{name}"):
            _require_built(network, labels, size, network.training_on(params.training))
            if network.weights and not network.weights.is_file():
                raise UserError(f"{network.weights}: no such file")
    _require_exportable(params, size, params.data.channels)
    _download(params, labels, size)


def require_run(params: Params, dataset: Dataset) -> None:
    """Refuse a run whose later stages would fail, before a network is trained for hours.

    Networks are built without numbers, users' own weights are read, losses are held against the data set's task, and
    students are exported untrained.
    What is odd and no mistake is said on stderr.

    Raises:
        UserError: a network cannot be built, does not take the size or its weights, a loss or teacher does not fit, or
            a student cannot be exported.
    """
    shapes, mixing = {}, set()
    for (section, name), network in _networks(params).items():
        with at_key(f"{section}.{name}"):
            shapes[section, name], mixes = _require_network(network, dataset, network.training_on(params.training))
            if mixes:
                mixing.add((section, name))
    unknown = {}
    for name in params.run.all_teachers:
        theirs = labels_of(params.teachers[name], dataset)
        unknown[name] = unknown_labels(
            dataset, label_columns(theirs, dataset.labels, f"params.yaml: teachers.{name}.labels")
        )
    for name in params.run.teachers:
        for term in params.teachers[name].terms:
            require_task(term, dataset.task, f"params.yaml: teachers.{name}")
    learners = [(name, ("students", student)) for name in params.run.recipes for student in params.run.students]
    learners += [(params.teachers[name].recipe, ("teachers", name)) for name in params.run.assistants]
    for name, learner in learners:
        recipe, at = params.recipes[name], f"params.yaml: recipes.{name}"
        seen = {learner[1]: shapes[learner]} | {teacher: shapes["teachers", teacher] for teacher in recipe.teachers}
        for term in recipe.terms:
            require_task(term, dataset.task, at)
            require_places(term, seen, at)
            if learner in mixing:
                require_own_maps(term, learner[1], at)
        require_all_labels(recipe, [unknown[teacher] for teacher in recipe.teachers], at)
        if dataset.task.exclusive:
            for teacher in recipe.teachers:
                require_all_classes(teacher, unknown[teacher], at)
    _require_exportable(params, dataset.image_size, dataset.channels)
    _download(params, dataset.labels, dataset.image_size)
    for note in _oddities(params, dataset, learners, shapes, unknown):
        print(printable(note), file=sys.stderr)


def _require_network(network: Network, dataset: Dataset, training: Training) -> tuple[list[int], bool]:
    """K, h, w of its feature map, and whether batch norm follows it."""
    built = _require_built(network, dataset.labels, dataset.image_size, training)
    if getattr(network, "frozen", False):
        as_it_is(network, dataset)
    elif network.weights:
        create_classifier(network, labels=dataset.labels, image_size=dataset.image_size)
    return built


def _require_built(network: Network, labels: list[str], size: int, training: Training) -> tuple[list[int], bool]:
    """Without numbers: K, h, w of its feature map, and whether batch norm follows it."""
    if training.precision == "fp16" and this_process().device.type != "cuda":
        raise UserError('training.precision: fp16 needs a GPU; set bf16 or "no"')
    plain = network.model_copy(update={"pretrained": False, "weights": None})
    with torch.device("meta"):
        model = create_classifier(plain, labels=labels, image_size=size)
        if network.pretrained:
            require_pretrained(network)
        return map_shape(model, size), has_batch_norm_behind_map(model, size)


def _require_exportable(params: Params, image_size: int, channels: int) -> None:
    """Refuse students that no device could run; teachers are not exported."""
    from medistill.export.trial import require_exportable

    for name in params.run.students:
        with at_key(f"students.{name}"):
            batch_size = require_exportable(
                params.students[name],
                image_size=image_size,
                channels=channels,
                opset=params.export.opset,
                known=EXPORTED,
            )
        if batch_size == 1:
            print(f"students.{name}: its exported file takes one image at a time, not several", file=sys.stderr)


def _download(params: Params, labels: list[str], image_size: int) -> None:
    """Get pretrained weights now and not after the first network's hours; last, for it takes gigabytes."""
    for (section, name), network in _networks(params).items():
        if network.pretrained:
            with at_key(f"{section}.{name}"):
                create_classifier(network, labels=labels, image_size=image_size)


def _networks(params: Params) -> dict[tuple[str, str], TrainedNetwork]:
    """Each network of the run by section and name."""
    teachers, students = params.run.all_teachers, params.run.students
    return {("teachers", name): params.teachers[name] for name in teachers} | {
        ("students", name): params.students[name] for name in students
    }


def _oddities(
    params: Params,
    dataset: Dataset,
    learners: list[tuple[str, tuple[str, str]]],
    shapes: dict[tuple[str, str], list[int]],
    unknown: dict[str, list[str]],
) -> Iterator[str]:
    """What a run does that its user may not know, a line each.

    Args:
        params: what is run.
        dataset: on what.
        learners: each recipe's name with the section and name of each network that learns by it.
        shapes: K, h, w of each network's feature map.
        unknown: labels that each teacher lacks.
    """
    for name, lacking in unknown.items():
        if lacking:
            taught = [label for label in dataset.labels if label not in lacking]
            own = [label for label in labels_of(params.teachers[name], dataset) if label not in taught]
            yield (
                f"teachers.{name}: it teaches {', '.join(taught)} alone"
                + (f"; its own {', '.join(own)} are no labels of the data set" if own else "")
            )
    images, labelled = (len(training_rows(dataset, unlabelled)) for unlabelled in (True, False))
    trainings = {key: network.training_on(params.training) for key, network in _networks(params).items()}
    batches: dict[str, int] = {}  # the smallest that learns by a recipe
    for name, learner in learners:
        size = trainings[learner].batch_size
        batches[name] = min(size, batches.get(name, size))
    for name, batch_size in batches.items():
        recipe = params.recipes[name]
        if recipe.unlabelled and images == labelled:
            yield f"recipes.{name}: unlabelled changes nothing, as every training image has a label"
        elif recipe.unlabelled:
            steps, baselines = (steps_per_epoch(count, batch_size) for count in (images, labelled))
            yield (
                f"recipes.{name}: unlabelled: an epoch has {counted(steps, 'step')}, a baseline's {baselines}; what "
                "more steps give is a part of its gain"
            )
        for term in recipe.terms:
            if not dataset.task.exclusive and traits_of(term).exclusive:
                yield (
                    f"recipes.{name}: {term.loss} with allow_offset_blind cannot see a constant added to all logits of "
                    "an image: rankings by label, and AUROC, may fall unseen"
                )
            if term.loss == "dist" and not dataset.task.exclusive and term.inter:
                yield (
                    f"recipes.{name}: dist compares the labels of an image with each other, which are not exclusive; "
                    "inter: 0 leaves the images by each label"
                )
            if term.loss in ("dist", "rkd") and batch_size < 16:
                yield f"recipes.{name}: {term.loss} compares the images of a batch, and has only {batch_size} at once"
    blind = [f"{section}.{name}" for (section, name), (_, *places) in shapes.items() if places == [1, 1]]
    if blind:
        yield f"{', '.join(blind)}: feature map of 1x1, heat maps show nothing; raise input_size, or data.image_size"
    if this_process().device.type == "cpu" and any(each.precision == "bf16" for each in trainings.values()):
        yield 'training.precision: bf16 is slower than "no" on most CPUs, and there is no GPU'
    if max(each.batch_size for each in trainings.values()) > labelled:
        yield f"training.batch_size: there are only {labelled} training images, an epoch is one step"


def require_trained(params: Params, name: str, dataset: Dataset) -> dict[str, Any]:
    """config.json of a teacher that is trained, which must be the one that params.yaml and the data set now ask for.

    DVC sees to it; who runs stages by hand may forget one.

    Raises:
        UserError: it is not there or damaged, or is of other data, labels, weights or settings.
    """
    folder, network = Path("models/teachers") / name, params.teachers[name]
    config = read_record(folder / "config.json")  # of its files those are held against it that are read
    now = {
        "dataset_fingerprint": (dataset.fingerprint, "data"),
        "labels": (labels_of(network, dataset), "labels"),
        "weights_sha256": (sha256(network.weights), "weights"),
        "network": (network.model_dump(mode="json"), f"settings in teachers.{name}"),
    }
    if not network.frozen:
        now["training"] = (network.training_on(params.training).model_dump(), "settings in training")
        now["augmentation"] = (params.augmentation.model_dump(), "settings in augmentation")
    for key, (value, what) in now.items():
        if config.get(key) != value:
            raise UserError(f"{folder}: is of other {what} than now; run the train_teacher stage again")
    return config


def train_by_recipe(
    folder: Path,
    network: TrainedNetwork,
    recipe: Recipe,
    dataset: Dataset,
    params: Params,
    *,
    facts: dict[str, Any],
    seed: int,
) -> None:
    """Train `network` as `recipe` says and write its folder.

    Args:
        folder: the model's folder.
        network: what is trained.
        recipe: its teachers have answered, or are asked live.
        facts: what config.json says besides the recipe: role, name, seed…
        seed: initialisation, order of images, dropout.

    Raises:
        UserError: as `train`; or a teacher or its answers are missing, damaged or do not fit.
    """
    live = recipe.views == "live"
    states = [require_trained(params, name, dataset)["model_sha256"] for name in recipe.teachers]
    if live:
        folders, answered = [Path("models/teachers") / name for name in recipe.teachers], states
        teachers = [LiveTeacher(load_model(source), dataset) for source in folders]
    else:
        folders = [params.knowledge_folder(name) for name in recipe.teachers]
        asked = params.teach.model_dump(exclude={"batch_size"})
        teachers = [Knowledge.open(source, dataset, params.augmentation, **asked) for source in folders]
        for name, source, teacher, state in zip(recipe.teachers, folders, teachers, states, strict=True):
            if teacher.teacher_sha256 != state:
                raise UserError(f"{source}: teacher {name} has changed since it answered; run the teach stage again")
        answered = [teacher.checksum for teacher in teachers]
    own = facts["role"] == "teacher" and not recipe.teachers
    first = this_process().is_main_process
    with LiveCurves(facts["name"]) as curves:
        result = train(
            folder,
            network,
            dataset,
            lambda model: RecipeObjective(recipe, dataset, teachers, map_shape=map_shape(model, dataset.image_size)),
            params,
            facts=facts | recipe.model_dump(mode="json"),
            seed=seed,
            view_seed=seed + OWN_VIEWS if own else params.teach.view_seed,
            views=params.teach.views if recipe.views == "cached" else None,
            unlabelled=recipe.unlabelled,
            whole_frames=live,
            knowledge=answered,
            on_step=curves.step,
            inherited=[provenance.read_ids(source / provenance.FILE) for source in folders],
            code=[Path(__file__)],
        )
        curves.end(result.history)
    if first:
        epochs = f"epoch {result.best_epoch} of {len(result.history)}"
        print(f"{facts['name']}: best after {epochs}, validation macro AUROC {result.val_macro_auroc:.3f}")
