"""From params.yaml to a training of the library: its spec, its teachers and its folders."""

from collections.abc import Sequence
from pathlib import Path

from medistill.data.dataset import Dataset
from medistill.distillation.calibrate import CalibratedTeacher
from medistill.distillation.frozen import import_teacher, labels_of
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.onnx_teacher import import_onnx
from medistill.distillation.settings import OnnxTeacher, Recipe, TableTeacher
from medistill.distillation.settings import Teacher as TrainedTeacher
from medistill.distillation.table import import_table
from medistill.distillation.teachers import LiveTeacher, Teacher
from medistill.distillation.train import train_by_recipe
from medistill.errors import UserError
from medistill.files import sha256
from medistill.layout import KnowledgeFolder, Layout
from medistill.params import Params, StudentModel
from medistill.records.models import KnowledgeRecord, ModelRecord
from medistill.report.live import LiveCurves
from medistill.training.spec import TrainingSpec


def teacher_spec(params: Params, name: str) -> TrainingSpec:
    """The training of a teacher or assistant that is not frozen."""
    teacher = params.teacher_models()[name]
    assert isinstance(teacher, TrainedTeacher)
    recipe = params.recipe_of(teacher.recipe) if teacher.recipe else Recipe(views="fresh", terms=teacher.terms)
    return TrainingSpec(
        name=name,
        teaches=True,
        network=teacher,
        training=teacher.training_on(params.training),
        augmentation=params.augmentation,
        recipe=recipe,
        seed=teacher.seed,
    ).with_views(params.teach)


def import_finished(folder: Path, name: str, dataset: Dataset, params: Params) -> None:
    """Write the folder of a teacher that is not trained: a frozen network, an ONNX file, or a table of answers.

    Raises:
        UserError: as `import_teacher`, `import_onnx` or `import_table`.
    """
    teacher = params.teacher_models()[name]
    batch_size = 2 * params.training.batch_size  # as trained teachers are validated
    if isinstance(teacher, OnnxTeacher):
        import_onnx(folder, name, teacher, dataset, batch_size=batch_size)
    elif isinstance(teacher, TableTeacher):
        import_table(folder, name, teacher, dataset)
    else:
        import_teacher(folder, name, teacher, dataset, batch_size=batch_size)


def student_spec(params: Params, model: StudentModel) -> TrainingSpec:
    """The training of a student."""
    network = params.students[model.student]
    return TrainingSpec(
        name=model.name,
        network=network,
        training=network.training_on(params.training),
        augmentation=params.augmentation,
        recipe=params.recipe_of(model.recipe),
        seed=model.seed,
        student=model.student,
        recipe_name=model.recipe,
    ).with_views(params.teach)


def train(folder: Path, spec: TrainingSpec, dataset: Dataset, params: Params) -> None:
    """Train with the teachers that params.yaml names, while the live page shows the curves.

    Raises:
        UserError: as `train_by_recipe`, or as `open_teachers`.
    """
    teachers = open_teachers(spec.recipe, dataset, params)
    with LiveCurves(spec.name) as curves:
        result = train_by_recipe(folder, spec, dataset, teachers, checkpoints=Layout().checkpoints, on_step=curves.step)
        curves.end(result.history)


def open_teachers(recipe: Recipe, dataset: Dataset, params: Params) -> Sequence[Teacher]:
    """The teachers of a recipe, by their cached answers or live.

    Raises:
        UserError: a teacher or its answers are missing, damaged, of other settings or do not fit.
    """
    states = [require_trained(params, name, dataset).model_sha256 for name in recipe.teachers]
    teachers: list[Teacher] = []
    for name, state in zip(recipe.teachers, states, strict=True):
        folder = params.knowledge_folder(name)
        if recipe.views == "live" and not isinstance(params.teacher_models()[name], TableTeacher):
            teacher: Teacher = LiveTeacher.open(Layout().teacher(name).folder, dataset)
        else:
            teacher = Knowledge.open(folder, dataset, params.augmentation, params.teach)
        if recipe.calibrate:
            teacher = CalibratedTeacher.open(teacher, folder, dataset)
        if isinstance(teacher, Knowledge) or recipe.calibrate:
            _require_current(folder, name, state)
        teachers.append(teacher)
    return teachers


def _require_current(folder: Path, name: str, weights: str) -> None:
    """Refuse answers of a teacher that has been trained again since."""
    if KnowledgeRecord.read(KnowledgeFolder(folder).record).teacher_sha256 != weights:
        raise UserError(
            f"{folder}: teacher {name} has changed since these answers were computed; run the teach stage again"
        )


def require_trained(params: Params, name: str, dataset: Dataset) -> ModelRecord:
    """config.json of a teacher that is trained, which must be the one that params.yaml and the data set now ask for.

    DVC ensures this, but a stage may be forgotten when stages are run by hand.

    Raises:
        UserError: it is not there or damaged, or is of other data, labels, weights or settings.
    """
    files, network = Layout().teacher(name), params.teacher_models()[name]
    config = ModelRecord.read(files.config)  # of its files those are held against it that are read
    now = {
        "dataset_fingerprint": (dataset.fingerprint, "data"),
        "labels": (labels_of(network, dataset), "labels"),
        "weights_sha256": (sha256(network.file), "weights"),
        "network": (network.model_dump(mode="json"), f"settings in teachers.{name}"),
    }
    if isinstance(network, TrainedTeacher) and not network.frozen:
        now["training"] = (network.training_on(params.training).model_dump(), "settings in training")
        now["augmentation"] = (params.augmentation.model_dump(), "settings in augmentation")
    for key, (value, what) in now.items():
        if getattr(config, key) != value:
            raise UserError(f"{files.folder}: was trained with other {what}; run the train_teacher stage again")
    return config
