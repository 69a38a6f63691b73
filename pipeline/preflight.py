"""Checks of a run of params.yaml before anything is trained, for errors that would stop it later."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from medistill.ancestry import ancestors_of
from medistill.data.dataset import Dataset, label_columns
from medistill.distillation.calibrate import uncalibrated
from medistill.distillation.frozen import labels_of, load_frozen_teacher
from medistill.distillation.objective import NetworkFacts, oddities, require_fit, require_task
from medistill.distillation.onnx_teacher import OnnxModel, load_onnx, read_onnx
from medistill.distillation.settings import AnyTeacher, OnnxTeacher, OutsideTeacher, Recipe, TableTeacher, Teacher
from medistill.distillation.table import read_answers, read_values
from medistill.distillation.teachers import unknown_labels
from medistill.distillation.terms import HardTerm
from medistill.distillation.weighting import group_weights
from medistill.errors import UserError, at_key
from medistill.gate.rules import refused_ancestors
from medistill.layout import Layout
from medistill.metrics.calibration import LEAST
from medistill.models.build import create_classifier
from medistill.models.classifier import feature_shape, has_batch_norm_behind_map, map_shape
from medistill.models.settings import Network
from medistill.models.weights import require_pretrained
from medistill.params import Params
from medistill.text import pluralise, printable
from medistill.training.batches import steps_per_epoch, training_rows
from medistill.training.processes import this_process
from medistill.training.settings import TrainedNetwork, Training

SPLITS = ("train", "val", "test")

EXPORTED = Layout().exportable
"""Students that are known to be exportable, so that not every stage tries."""


def require_networks(params: Params) -> None:
    """Refuse networks that could not be trained on any data, before data are read.

    Students that the gate will refuse for a licence are noted on stderr.

    Raises:
        UserError: a network cannot be built, does not take the size or has no weights to start from, or a student
            cannot be exported.
    """
    labels, size = ["a label", "another"], params.data.image_size
    _require_no_circle(params)
    for key, network in _networks(params).items():
        with at_key(str(key)):
            _require_built(key, network, labels, size, network.training_on(params.training))
            if network.file and not network.file.is_file():
                raise UserError(f"{network.file}: no such file")
    for key, teacher in _outside(params).items():
        with at_key(str(key)):
            if isinstance(teacher, OnnxTeacher):
                OnnxModel(read_onnx(teacher.onnx)[0], teacher, image_size=size, exclusive=False, where=teacher.onnx)
            elif isinstance(teacher, TableTeacher):
                read_values(teacher)
    _require_exportable(params, size, params.data.channels)
    _download(params, labels, size)
    for note in _refused_licenses(params):
        print(printable(note), file=sys.stderr)


def require_run(params: Params, dataset: Dataset) -> None:
    """Refuse a run whose later stages would fail, before a network is trained for hours.

    Networks are built without allocating weights, users' own weights are read, recipes are checked against the data
    set's task and their networks, and students are exported untrained.
    Oddities that are no mistakes are noted on stderr.

    Raises:
        UserError: a network cannot be built, does not take the size or its weights, a loss or teacher does not fit, or
            a student cannot be exported.
    """
    _require_no_circle(params)
    params.evaluate.require_classes(dataset.labels, dataset.task)
    if params.evaluate.strata != "none":
        for split in ("val", "test"):
            params.evaluate.require_strata(dataset.split(split)[params.evaluate.strata], split)
    facts = {}
    for key, network in _networks(params).items():
        with at_key(str(key)):
            facts[key] = _facts(key, network, dataset, network.training_on(params.training))
    for key, teacher in _outside(params).items():
        with at_key(str(key)):
            facts[key] = _outside_facts(key, teacher, dataset)
    for name in params.run.teachers:
        for term in params.teachers[name].terms:
            require_task(term, dataset.task, f"params.yaml: teachers.{name}")
    lessons = _lessons(params)
    for lesson in lessons:
        recipe = params.recipes[lesson.recipe]
        teachers = [facts[NetworkKey("teachers", name)] for name in recipe.teachers]
        teachers = [replace(teacher, name=f"teacher {teacher.name}") for teacher in teachers]
        if recipe.calibrate and len(uncalibrated(dataset)) == len(dataset.labels):
            raise UserError(
                f"params.yaml: recipes.{lesson.recipe}: calibrate: true would change nothing, as validation has fewer"
                f" than {LEAST} positives or negatives of every label; raise data.val_fraction, or leave it out"
            )
        require_fit(recipe, dataset.task, facts[lesson.learner], teachers, f"params.yaml: recipes.{lesson.recipe}")
    _require_groups(params, dataset, lessons)
    _require_exportable(params, dataset.image_size, dataset.channels)
    _download(params, dataset.labels, dataset.image_size)
    for note in _oddities(params, dataset, facts, lessons):
        print(printable(note), file=sys.stderr)


@dataclass(frozen=True)
class NetworkKey:
    """The section and name of a network in params.yaml."""

    section: str
    name: str

    def __str__(self) -> str:
        """`students.eeea_net_c2`."""
        return f"{self.section}.{self.name}"


@dataclass(frozen=True)
class Lesson:
    """A network that learns by a recipe."""

    recipe: str
    learner: NetworkKey


def _require_no_circle(params: Params) -> None:
    """Refuse to start from what the graph itself writes: DVC removes that before the stage that would read it runs."""
    files = {key: network.file for key, network in _networks(params).items()}
    files |= {key: teacher.file for key, teacher in _outside(params).items()}
    for key, file in files.items():
        if file and Layout().is_written_model(file):
            raise UserError(
                f"params.yaml: {key}: {file} is a model that the graph itself writes, and removes before it trains"
                " it again; copy the file to another folder and name the copy"
            )


def _networks(params: Params) -> dict[NetworkKey, TrainedNetwork]:
    """Each network of the run that timm builds."""
    built = {key: teacher for key, teacher in _teachers(params).items() if isinstance(teacher, TrainedNetwork)}
    return built | {NetworkKey("students", name): params.students[name] for name in params.run.students}


def _outside(params: Params) -> dict[NetworkKey, OutsideTeacher]:
    """The teachers of the run that timm does not build."""
    return {key: teacher for key, teacher in _teachers(params).items() if isinstance(teacher, OutsideTeacher)}


def _teachers(params: Params) -> dict[NetworkKey, AnyTeacher]:
    """Each teacher of the run."""
    return {NetworkKey("teachers", name): params.teachers[name] for name in params.run.all_teachers}


def _lessons(params: Params) -> list[Lesson]:
    """Which network is taught by which recipe: students by each, assistants by their own."""
    run = params.run
    lessons = [Lesson(recipe, NetworkKey("students", name)) for recipe in run.recipes for name in run.students]
    taught = ((name, params.teachers[name].recipe) for name in run.assistants)
    return lessons + [Lesson(recipe, NetworkKey("teachers", name)) for name, recipe in taught if recipe]


def _require_groups(params: Params, dataset: Dataset, lessons: list[Lesson]) -> None:
    """Refuse weights by groups that the data set does not have."""
    learned = {f"teachers.{name}": params.teachers[name].terms for name in params.run.teachers}
    learned |= {f"recipes.{lesson.recipe}": params.recipes[lesson.recipe].all_terms for lesson in lessons}
    for key, terms in learned.items():
        for term in terms:
            if isinstance(term, HardTerm) and term.group_weights:
                with at_key(key):
                    group_weights(dataset, term.group_weights)


def _facts(key: NetworkKey, network: Network, dataset: Dataset, training: Training) -> NetworkFacts:
    """The facts about a network that recipes depend on, without allocating weights; the user's weights are read."""
    shape, mixes_images = _require_built(key, network, dataset.labels, dataset.image_size, training)
    labels = labels_of(network, dataset)
    if isinstance(network, Teacher) and network.is_frozen:
        load_frozen_teacher(network, dataset)
    elif network.weights or network.init_from:
        create_classifier(network, labels=dataset.labels, image_size=dataset.image_size)
    columns = label_columns(labels, dataset.labels, "labels")
    return NetworkFacts(key.name, shape, mixes_images, unknown_labels(dataset, columns))


def _outside_facts(key: NetworkKey, teacher: OutsideTeacher, dataset: Dataset) -> NetworkFacts:
    """The facts about a teacher that timm does not build; its file is read."""
    shape: Sequence[int] = ()
    if isinstance(teacher, OnnxTeacher):
        shape = load_onnx(teacher, dataset).map_shape
    elif isinstance(teacher, TableTeacher):
        read_answers(teacher, dataset)
    columns = label_columns(teacher.named, dataset.labels, "labels")
    return NetworkFacts(key.name, shape, unknown=unknown_labels(dataset, columns))


def _require_built(
    key: NetworkKey, network: Network, labels: list[str], size: int, training: Training
) -> tuple[list[int], bool]:
    """From shapes alone: K, h, w of its feature map (of a teacher without one K), and whether batch norm follows it."""
    if training.precision == "fp16" and this_process().device.type != "cuda":
        raise UserError('training.precision: fp16 needs a GPU; set bf16 or "no"')
    plain = network.untrained
    with torch.device("meta"):
        model = create_classifier(plain, labels=labels, image_size=size)
        source = network.source
        if source:
            create_classifier(source.untrained, labels=labels, image_size=size)
        for origin in filter(None, (network, source)):
            if origin.pretrained:
                require_pretrained(origin)
        shape = (feature_shape if key.section == "teachers" else map_shape)(model, size)
        return shape, has_batch_norm_behind_map(model, size)


def _refused_licenses(params: Params) -> Iterator[str]:
    """Notes on students that the gate will refuse for a licence, however well they are trained, one per recipe."""
    rule = params.promote.licenses
    for model in params.student_models():
        if rule is None or model.seed != params.run.seeds[0]:
            continue
        if refused := refused_ancestors(ancestors_of(params, model.name), rule):
            yield (
                f"students.{model.student} by recipes.{model.recipe}: promote.licenses will refuse it: the licence of"
                f" {refused[0].what} is {refused[0].shown} ({refused[0].way})"
            )


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
    """Download pretrained weights now, not after hours of training; after all other checks, as these are gigabytes.

    A network and the one that it starts from are compared, too.
    """
    for key, network in _networks(params).items():
        if network.pretrained or network.init_from:
            with at_key(str(key)):
                create_classifier(network, labels=labels, image_size=image_size)


def _oddities(
    params: Params, dataset: Dataset, facts: Mapping[NetworkKey, NetworkFacts], lessons: list[Lesson]
) -> Iterator[str]:
    """Notes on a run that its user may not expect, one line each."""
    trainings = {key: network.training_on(params.training) for key, network in _networks(params).items()}
    yield from _untaught(params, dataset, facts)
    yield from _unanswered(params, dataset)
    batches: dict[str, int] = {}  # the smallest that learns by a recipe
    for lesson in lessons:
        size = trainings[lesson.learner].batch_size
        batches[lesson.recipe] = min(size, batches.get(lesson.recipe, size))
    for name, batch_size in batches.items():
        staged = bool(params.recipes[name].stages)
        for key, part in params.recipes[name].named_parts(f"recipes.{name}").items():
            yield from (f"{key}: {note}" for note in _odd_recipe(part, dataset, batch_size, staged=staged))
    blind = [str(key) for key, known in facts.items() if tuple(known.map_shape[1:]) == (1, 1)]
    if blind:
        yield (
            f"{', '.join(blind)}: the feature map is 1x1, so heat maps would be constant; raise input_size or"
            " data.image_size"
        )
    if this_process().device.type == "cpu" and any(each.precision == "bf16" for each in trainings.values()):
        yield 'training.precision: bf16 is slower than "no" on most CPUs, and there is no GPU'
    labelled = len(training_rows(dataset, unlabelled=False))
    if max(each.batch_size for each in trainings.values()) > labelled:
        yield f"training.batch_size: there are only {labelled} training images, so an epoch is one step"


def _untaught(params: Params, dataset: Dataset, facts: Mapping[NetworkKey, NetworkFacts]) -> Iterator[str]:
    """Notes on labels that teachers do not teach."""
    for name in params.run.all_teachers:
        key = NetworkKey("teachers", name)
        if lacking := facts[key].unknown:
            taught = [label for label in dataset.labels if label not in lacking]
            own = [label for label in labels_of(params.teachers[name], dataset) if label not in taught]
            yield (
                f"{key}: it teaches only {', '.join(taught)}"
                + (f"; its labels {', '.join(own)} are not in the data set" if own else "")
            )


def _unanswered(params: Params, dataset: Dataset) -> Iterator[str]:
    """Notes on images about which tables have no answer."""
    for key, teacher in _outside(params).items():
        if not isinstance(teacher, TableTeacher):
            continue
        answered = read_answers(teacher, dataset).index
        lacking = {name: int((~dataset.split(name)["image_id"].isin(answered)).sum()) for name in SPLITS}
        if lacking["train"]:
            images = pluralise(len(dataset.split("train")), "training image")
            yield f"{key}: it has no answer about {lacking['train']} of {images}, which it does not teach"
        if lacking["val"] or lacking["test"]:
            images = f"{lacking['val']} images of val and {lacking['test']} of test"
            yield f"{key}: it has no figures, as it has no answer about {images}"


def _odd_recipe(recipe: Recipe, dataset: Dataset, batch_size: int, *, staged: bool) -> Iterator[str]:
    """Notes on a recipe, or on a stage of one, that its user may not expect, for batches of at least `batch_size`."""
    images, labelled = (len(training_rows(dataset, unlabelled)) for unlabelled in (True, False))
    if recipe.unlabelled and images == labelled:
        yield "unlabelled changes nothing, as every training image has a label"
    elif recipe.unlabelled and not staged:  # a stage has as many steps as a baseline
        steps, baselines = (steps_per_epoch(count, batch_size) for count in (images, labelled))
        yield (
            f"unlabelled: an epoch has {pluralise(steps, 'step')}, a baseline's {baselines}; a part of its gain may"
            " come from the additional steps"
        )
    if recipe.calibrate and (kept := uncalibrated(dataset)):
        yield (
            f"calibrate: teachers' logits of {', '.join(kept)} stay as they are, as validation has fewer than {LEAST}"
            " positives or negatives"
        )
    for term in recipe.terms:
        yield from oddities(term, dataset.task, batch_size)
