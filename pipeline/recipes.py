"""From a recipe of params.yaml to a trained network, for students, assistants and teachers alike."""

from pathlib import Path
from typing import Any

import torch

from medistill.config import Network, Params, Recipe
from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.distillation.answers import LiveTeacher
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.objective import RecipeObjective, require_places, require_task
from medistill.files import read_json
from medistill.models.zoo import create_classifier, load_model, map_shape
from medistill.training.run import train
from pipeline.live import LiveCurves

OWN_VIEWS = 1_000_003
"""Apart from any `teach.view_seed`: a teacher never trains on the views that it will answer."""


def require_run(params: Params, dataset: Dataset) -> None:
    """Refuse a run whose later stages would fail, before the first network is trained for hours.

    Networks are built without numbers, and losses are held against the data set's task.

    Raises:
        UserError: a network cannot be built or does not take the size, or a loss does not fit.
    """
    shapes = {}
    for section, names in (("teachers", params.run.all_teachers), ("students", params.run.students)):
        for name in names:
            plain = getattr(params, section)[name].model_copy(update={"pretrained": False, "weights": None})
            with torch.device("meta"):
                model = create_classifier(plain, labels=dataset.labels, image_size=dataset.image_size)
                shapes[section, name] = map_shape(model, dataset.image_size)
    learners = [(name, ("students", student)) for name in params.run.recipes for student in params.run.students]
    learners += [(params.teachers[name].recipe, ("teachers", name)) for name in params.run.assistants]
    for name, learner in learners:
        recipe = params.recipes[name]
        seen = {learner[1]: shapes[learner]} | {teacher: shapes["teachers", teacher] for teacher in recipe.teachers}
        for term in recipe.terms:
            require_task(term, dataset.task, f"recipes.{name}")
            require_places(term, seen, f"recipes.{name}")


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
    folders = [Path("models/teachers") / name if live else params.knowledge_folder(name) for name in recipe.teachers]
    if live:
        teachers = [LiveTeacher(load_model(source), dataset) for source in folders]
        answered = [read_json(source / "config.json")["fingerprint"] for source in folders]
    else:
        asked = params.teach.model_dump(exclude={"batch_size"})
        teachers = [Knowledge.open(source, dataset, params.augmentation, **asked) for source in folders]
        answered = [teacher.checksum for teacher in teachers]
    own = facts["role"] == "teacher" and not recipe.teachers
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
