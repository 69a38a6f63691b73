"""Training by a recipe: teachers, assistants, baselines and distilled students alike.

A teacher is a training whose recipe has no teachers; then it answers (`teach`), and students are trained by recipes
that name it. docs/distillation.md has the whole of it as an example.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from medistill.augmentation import Augmentation
from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.distillation.calibrate import calibration_of
from medistill.distillation.knowledge import write_knowledge, write_table_knowledge
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Teach
from medistill.distillation.table import read_imported
from medistill.distillation.teachers import Teacher, open_model
from medistill.files import atomic, writing
from medistill.layout import KnowledgeFolder, ModelFolder
from medistill.models.classifier import Classifier, feature_shape, has_batch_norm_behind_map
from medistill.records.models import Config
from medistill.training.processes import this_process
from medistill.training.run import train
from medistill.training.spec import TrainingSpec
from medistill.training.trainer import StepReport, TrainingResult


def train_by_recipe(
    folder: Path,
    spec: TrainingSpec,
    dataset: Dataset,
    teachers: Sequence[Teacher] = (),
    *,
    checkpoints: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> TrainingResult:
    """Train the network of `spec` by its recipe, and write the model's folder.

    Args:
        folder: the model's folder, replaced as a whole at the end.
        spec: network, recipe and all other settings of the training.
        dataset: what it trains on.
        teachers: those of the recipe, in its order: `Knowledge.open(…)`, or `LiveTeacher.open(…)` for `views: live`.
        checkpoints: folder of the states of unfinished trainings, which are resumed, and of copies of what was trained
            last.
        on_step: called after each step, in the first of several processes only.

    Raises:
        UserError: as `train`; or the recipe does not fit the data set or its teachers.
    """

    def objectives_for(model: Classifier) -> list[RecipeObjective]:
        size = dataset.image_size
        mixes_images = "cams" in spec.recipe.needs and has_batch_norm_behind_map(model, size)
        build = partial(RecipeObjective, spec.recipe, dataset, teachers, mixes_images=mixes_images)
        shape = feature_shape(model, size)
        return [build(stage=stage, map_shape=shape) for stage in range(len(spec.recipe.parts))]

    result = train(
        folder,
        spec,
        dataset,
        objectives_for,
        answers=[teacher.checksum for teacher in teachers],
        inherited=[teacher.seen for teacher in teachers],
        checkpoints=checkpoints,
        on_step=on_step,
    )
    if this_process().is_main_process:
        epochs = f"epoch {result.best_epoch} of {len(result.history)}"
        print(f"{spec.name}: best after {epochs}, validation macro AUROC {result.val_macro_auroc:.3f}")
    return result


def teach(
    folder: Path, model: Path, dataset: Dataset, augmentation: Augmentation, asked: Teach, *, unfinished: Path
) -> None:
    """Let a trained model answer all training images in all views, and write its answers.

    Args:
        folder: of the answers, replaced as a whole at the end; `Knowledge.open` reads it.
        model: folder of the teacher.
        dataset: whose training images it answers.
        augmentation: ranges of the views.
        asked: number of views, and kinds of answers besides logits.
        unfinished: folder of the answers so far, where an interrupted call has left off.

    Raises:
        UserError: the teacher is missing, damaged or was trained on images or groups of the val or test split; or as
            `write_knowledge`.
    """
    seen = provenance.refuse_overlap(ModelFolder(model).train_ids, dataset)
    ids = KnowledgeFolder(unfinished).train_ids
    with writing(ids):
        unfinished.mkdir(parents=True, exist_ok=True)
        provenance.write_ids(ids, seen)  # its students count as trained on its images, too
    calibration_of(model, dataset).write(KnowledgeFolder(unfinished).calibration)
    if ModelFolder(model).answers.exists():
        record, answers = read_imported(model)
        config = cast(Config, record.model_dump(mode="json"))
        write_table_knowledge(unfinished, config, answers, dataset, augmentation, asked)
    else:
        write_knowledge(unfinished, open_model(model, dataset), dataset, augmentation, asked)
    with atomic(folder) as temporary:
        shutil.move(unfinished, temporary)
