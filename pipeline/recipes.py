"""From a recipe of params.yaml to a trained network, for students, assistants and teachers alike."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from medistill.config import Network, Params, Recipe
from medistill.data import provenance
from medistill.data.dataset import Dataset, label_columns
from medistill.distillation.answers import LiveTeacher, unknown_labels
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
from medistill.errors import UserError, at_key
from medistill.files import read_json, sha256
from medistill.models.zoo import create_classifier, has_batch_norm_behind_map, load_model, map_shape
from medistill.text import counted
from medistill.training.loop import steps_per_epoch, training_rows
from medistill.training.processes import this_process
from medistill.training.run import as_it_is, labels_of, train
from pipeline.live import FOLDER, LiveCurves

OWN_VIEWS = 1_000_003
"""Apart from any `teach.view_seed`: a teacher never trains on the views that it will answer."""


def require_run(params: Params, dataset: Dataset) -> None:
    """Refuse a run whose later stages would fail, before a network is trained for hours.

    Networks are built without numbers, users' own weights are read, and losses are held against the data set's task.
    What is odd and no mistake is said on stderr.

    Raises:
        UserError: a network cannot be built, does not take the size or its weights, or a loss or teacher does not fit.
    """
    shapes, mixing = {}, set()
    for section, names in (("teachers", params.run.all_teachers), ("students", params.run.students)):
        for name in names:
            with at_key(f"{section}.{name}"):
                network = getattr(params, section)[name]
                shapes[section, name], mixes = _require_network(network, dataset)
                if mixes:
                    mixing.add((section, name))
    unknown = {}
    for name in params.run.all_teachers:
        theirs = labels_of(params.teachers[name], dataset)
        unknown[name] = unknown_labels(dataset, label_columns(theirs, dataset.labels, f"teachers.{name}.labels"))
    for name in params.run.teachers:
        for term in params.teachers[name].terms:
            require_task(term, dataset.task, f"teachers.{name}")
    learners = [(name, ("students", student)) for name in params.run.recipes for student in params.run.students]
    learners += [(params.teachers[name].recipe, ("teachers", name)) for name in params.run.assistants]
    for name, learner in learners:
        recipe = params.recipes[name]
        seen = {learner[1]: shapes[learner]} | {teacher: shapes["teachers", teacher] for teacher in recipe.teachers}
        for term in recipe.terms:
            require_task(term, dataset.task, f"recipes.{name}")
            require_places(term, seen, f"recipes.{name}")
            if learner in mixing:
                require_own_maps(term, learner[1], f"recipes.{name}")
        require_all_labels(recipe, [unknown[teacher] for teacher in recipe.teachers], f"recipes.{name}")
        if dataset.task == "multiclass":
            for teacher in recipe.teachers:
                require_all_classes(teacher, unknown[teacher], f"recipes.{name}")
    for note in _oddities(params, dataset, {name: params.recipes[name] for name, _ in learners}, unknown):
        print(note, file=sys.stderr)


def _require_network(network: Network, dataset: Dataset) -> tuple[list[int], bool]:
    """K, h, w of its feature map, and whether batch norm follows it."""
    plain = network.model_copy(update={"pretrained": False, "weights": None})
    with torch.device("meta"):
        model = create_classifier(plain, labels=dataset.labels, image_size=dataset.image_size)
        shape = map_shape(model, dataset.image_size)
        mixes = has_batch_norm_behind_map(model, dataset.image_size)
    if getattr(network, "frozen", False):
        as_it_is(network, dataset)
    elif network.weights or network.pretrained:  # downloaded now and not after the first network's hours
        create_classifier(network, labels=dataset.labels, image_size=dataset.image_size)
    return shape, mixes


def _oddities(
    params: Params, dataset: Dataset, recipes: dict[str, Recipe], unknown: dict[str, list[str]]
) -> Iterator[str]:
    """What a run does that its user may not know, a line each; `unknown` has the labels that each teacher lacks."""
    for name, lacking in unknown.items():
        if lacking:
            taught = [label for label in dataset.labels if label not in lacking]
            own = [label for label in labels_of(params.teachers[name], dataset) if label not in taught]
            yield (
                f"teachers.{name}: it teaches {', '.join(taught)} alone"
                + (f"; its own {', '.join(own)} are no labels of the data set" if own else "")
            )
    images, labelled = (len(training_rows(dataset, unlabelled)) for unlabelled in (True, False))
    for name, recipe in recipes.items():
        if recipe.unlabelled and images == labelled:
            yield f"recipes.{name}: unlabelled changes nothing, as every training image has a label"
        elif recipe.unlabelled:
            steps, baselines = (steps_per_epoch(count, params.training.batch_size) for count in (images, labelled))
            yield (
                f"recipes.{name}: unlabelled: an epoch has {counted(steps, 'step')}, a baseline's {baselines}; what "
                "more steps give is a part of its gain"
            )
        for term in recipe.terms:
            if dataset.task == "multilabel" and traits_of(term).exclusive:
                yield (
                    f"recipes.{name}: {term.loss} with allow_offset_blind cannot see a constant added to all logits of "
                    "an image: rankings by label, and AUROC, may fall unseen"
                )
    networks = [params.teachers[name] for name in params.run.all_teachers]
    networks += [params.students[name] for name in params.run.students]
    if this_process().device.type == "cpu" and any(params.training_of(each).precision == "bf16" for each in networks):
        yield 'training.precision: bf16 is slower than "no" on most CPUs, and there is no GPU'
    if params.training.batch_size > labelled:
        yield f"training.batch_size: there are only {labelled} training images, an epoch is one step"


def require_trained(params: Params, name: str, dataset: Dataset) -> dict[str, Any]:
    """config.json of a teacher that is trained, which must be the one that params.yaml and the data set now ask for.

    DVC sees to it; who runs stages by hand may forget one.

    Raises:
        UserError: it is not there, or is of other data, labels, weights or settings.
    """
    folder, network = Path("models/teachers") / name, params.teachers[name]
    config = read_json(folder / "config.json")
    now = {
        "dataset_fingerprint": (dataset.fingerprint, "data"),
        "labels": (labels_of(network, dataset), "labels"),
        "weights_sha256": (sha256(network.weights), "weights"),
        "network": (network.model_dump(mode="json"), f"settings in teachers.{name}"),
    }
    if not network.frozen:
        now["training"] = (params.training_of(network).model_dump(), "settings in training")
        now["augmentation"] = (params.augmentation.model_dump(), "settings in augmentation")
    for key, (value, what) in now.items():
        if config.get(key) != value:
            raise UserError(f"{folder}: is of other {what} than now; run the train_teacher stage again")
    return config


def train_by_recipe(
    folder: Path,
    network: Network,
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
    if first:
        print(f"{facts['name']}: training; its curves are in {FOLDER / 'index.html'}", flush=True)
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
        )
        curves.end(result.history)
    if first:
        epochs = f"epoch {result.best_epoch} of {len(result.history)}"
        print(f"{facts['name']}: best after {epochs}, validation macro AUROC {result.val_macro_auroc:.3f}")
