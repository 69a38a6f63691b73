"""What each model of a run descends from, and under which licences, as params.yaml says it now.

A model's folder says nothing of licences, so that a licence that is corrected trains nothing and asks no teacher again:
the stage `licenses`, exports and the report alone run once more.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from medistill.data.settings import Data
from medistill.distillation.settings import OnnxTeacher, OutsideTeacher
from medistill.layout import HERE, ExportFolder, Layout, ModelFolder
from medistill.models.settings import Network, Origin
from medistill.models.weights import imagenet_license, imagenet_weights
from medistill.params import Params
from medistill.phantom import settings as phantom
from medistill.records.data import DatasetInfo
from medistill.records.licenses import Ancestor, ExportedRecord, read_ancestors

DAMAGED = "copy it again, or delete it and set license"


def ancestors_of(params: Params, model: str, layout: Layout = HERE) -> list[Ancestor]:
    """Everything that a model of the run descends from: data, initial weights, teachers and what these descend from.

    Args:
        params: the settings.
        model: name of a teacher, assistant or student.
        layout: of the checkout, in which the user's own weights and data lie, ingested or not.

    Returns:
        Each ancestor once, by the first of its paths: those of the model itself before those of its teachers.

    Raises:
        UserError: the licences beside a user's own weights, or dataset.json, are damaged.
    """
    students = {student.name: student for student in params.student_models()}
    if model in students:
        student = students[model]
        path = [f"students.{student.student}"]
        found = _of_training(params, params.students[student.student], student.recipe, path, layout)
    else:
        teacher = next(name for name in params.run.all_teachers if model in params.members(name))
        found = _of_teacher(params, teacher, [], layout)
    first: dict[tuple[str, str | None], Ancestor] = {}
    for ancestor in found:
        first.setdefault((ancestor.what, ancestor.license), ancestor)
    return list(first.values())


def _of_teacher(params: Params, name: str, path: list[str], layout: Layout) -> Iterator[Ancestor]:
    teacher, path = params.teachers[name], [*path, f"teachers.{name}"]
    if isinstance(teacher, OutsideTeacher):
        kind = "a network" if isinstance(teacher, OnnxTeacher) else "answers"
        return _of_file(teacher.file, teacher.license, kind, path, layout)
    if teacher.is_frozen:
        return _of_start(teacher, path, layout)
    return _of_training(params, teacher, teacher.recipe, path, layout)


def _of_training(
    params: Params, network: Network, recipe: str | None, path: list[str], layout: Layout
) -> Iterator[Ancestor]:
    """The ancestors of a network that is trained here, by a recipe or from labels alone."""
    yield Ancestor(license=_of_data(params.data, layout), what=f"data {params.data.title}", path=[*path, "data"])
    yield from _of_start(network, path, layout)
    if recipe is None:
        return
    path = [*path, f"recipes.{recipe}"]
    folder = _unlabelled(layout)
    if folder and any(part.unlabelled for part in params.recipes[recipe].parts):
        what = f"unlabelled images {folder}"
        yield Ancestor(license=params.data.unlabelled_license, what=what, path=[*path, "data.unlabelled"])
    for teacher in params.recipes[recipe].teachers:
        yield from _of_teacher(params, teacher, path, layout)


def _of_data(data: Data, layout: Layout) -> str | None:
    if data.license is not None:
        return data.license
    root = layout.root / data.root
    is_phantom = root.resolve() == layout.phantom.resolve() or (root / phantom.MARK).is_file()
    return phantom.LICENSE if is_phantom else None


def _unlabelled(layout: Layout) -> str:
    """Name of the folder of unlabelled images; empty where there are none, or nothing has been ingested yet."""
    record = layout.processed.record
    return DatasetInfo.read(record).unlabelled.folder if record.is_file() else ""


def _of_start(network: Network, path: list[str], layout: Layout) -> Iterator[Ancestor]:
    """The weights that a network starts from or has; nothing where these are random."""
    origin: Origin = network.init_from or network
    path = [*path, "init_from"] if network.init_from else path
    if origin.weights is not None:
        yield from _of_file(origin.weights, origin.license, f"weights of {origin.arch}", [*path, "weights"], layout)
    elif origin.pretrained:
        what = f"weights of {origin.arch} ({imagenet_weights(origin.arch)})"
        yield Ancestor(license=origin.license or imagenet_license(origin.arch), what=what, path=[*path, "pretrained"])


def _of_file(file: Path, license: str | None, what: str, path: Sequence[str], layout: Layout) -> Iterator[Ancestor]:
    """A user's own file: by the licence that the user states, or what it descends from, where that is known."""
    known = None if license else _known(layout.root / file, layout)
    if known is None:
        yield Ancestor(license=license, what=f"{what} (file {file.name})", path=list(path))
    else:
        yield from (ancestor.model_copy(update={"path": [*path, *ancestor.path]}) for ancestor in known)


def _known(file: Path, layout: Layout) -> list[Ancestor] | None:
    """What a network descends from, by the file beside it, or by the other checkout in which it was trained."""
    folder = file.resolve().parent
    known = read_ancestors(ModelFolder(folder).licenses, DAMAGED)
    export = ExportFolder(folder)
    if known is None and file.name == export.onnx.name and export.bundle.is_file():
        known = ExportedRecord.read(export.bundle, DAMAGED).licenses
    # models/teachers/big, or models/teachers/big/0 where it has several seeds
    for depth, name in ((2, folder.name), (3, f"{folder.parent.name}.{folder.name}")):
        if known is None and depth < len(folder.parents):
            theirs = Layout(folder.parents[depth])
            if theirs.model(name).folder == folder and theirs.root != layout.root.resolve():
                known = read_ancestors(theirs.reports.licenses(name))
    return known
