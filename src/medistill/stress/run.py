"""All models of a run under shifts and before images of other kinds, from their answers to their figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.evaluation.answers import Split
from medistill.evaluation.comparison import Measured, best
from medistill.evaluation.figures import LEAD
from medistill.evaluation.predictions import align, read_logits
from medistill.evaluation.settings import Evaluate
from medistill.images.frame import Fit, Framing
from medistill.layout import ModelFolder
from medistill.metrics.intervals import Codes, summarise
from medistill.records.stress import ModelStress
from medistill.stress.answered import Material, ModelAnswers
from medistill.stress.falls import Ranked, describe_shifts
from medistill.stress.known import KINDS, describe_known, fit_unlike, marked_by_shift
from medistill.stress.pictures import DRAWN, draw_pictures, read_folder
from medistill.stress.settings import Stress
from medistill.stress.shifts import SHIFTS, Frames
from medistill.stress.unlike import Unlike


def read_others(dataset: Dataset, settings: Stress) -> tuple[dict[str, Frames], dict[str, str]]:
    """Images of other kinds by name, uint8 (N, C, S, S), and in words what each kind is.

    Raises:
        UserError: a folder has no image that can be read, or the name of a kind that is made.
    """
    framing = Framing(dataset.image_size, dataset.channels, cast(Fit, dataset.fit))
    frames = {kind: draw_pictures(kind, framing) for kind in DRAWN}
    what = {kind: words for kind, (words, _) in DRAWN.items()}
    for name, folder in settings.others.items():
        if name in DRAWN or name in KINDS:
            raise UserError(f"stress.others.{name}: a kind of this name is always there; give the folder another name")
        frames[name] = read_folder(folder, f"stress.others.{name}", framing, settings.images)
        what[name] = "a folder that params.yaml names"
    return frames, what


def best_teacher(dataset: Dataset, folders: Mapping[str, ModelFolder], teachers: Sequence[str]) -> str | None:
    """The teacher of highest mean AUROC on validation, by its predictions; the first of equals, None of none."""
    rows = dataset.split("val")
    targets, groups = dataset.targets(rows), rows["group_id"].to_numpy()
    split = Split.of(dataset.labels, targets, groups, 0, 0, dataset.task, "val")
    measured = {}
    for name in teachers:
        path = folders[name].predictions
        logits = align(read_logits(path, name, dataset.labels), "val", rows["image_id"], path, name)
        measured[name] = Measured.of(split, logits, names=[LEAD])
    return best(measured, teachers) or next(iter(teachers), None)  # where no label is eligible, all are equal


@dataclass(frozen=True)
class Compared:
    """The models with which a distilled student's falls are compared: its best teacher and its baselines."""

    teacher: str | None
    baselines: Sequence[str]

    def relations(self) -> dict[str, str]:
        """What each is to the student, by name."""
        return ({self.teacher: "teacher"} if self.teacher else {}) | dict.fromkeys(self.baselines, "baseline")


def measure_all(
    material: Material,
    answers: Mapping[str, ModelAnswers],
    compared: Mapping[str, Compared],
    what: Mapping[str, str],
    settings: Evaluate,
) -> tuple[dict[str, ModelStress], dict[str, Unlike]]:
    """The figures of each model, and of each student what it was fitted to.

    Args:
        material: what was asked.
        answers: of each model.
        compared: of each distilled student.
        what: of images of other kinds, in words.
        settings: resamples and their seed.
    """
    dataset, test = material.dataset, material.test
    groups = test["group_id"].to_numpy()
    split = Split.of(dataset.labels, dataset.targets(test), groups, settings.resamples, settings.seed, dataset.task)
    validation_groups: Codes = np.unique(material.validation["group_id"].to_numpy(), return_inverse=True)[1]
    ranked = {
        name: Ranked.of(split, own.plain.logits, {s.name: own.changed[s.name].logits for s in SHIFTS})
        for name, own in answers.items()
    }
    unlike = {name: fit_unlike(own, validation_groups) for name, own in answers.items() if own.training is not None}
    found = {}
    for name, own in answers.items():
        relations = compared[name].relations() if name in compared else {}
        marked, known = {}, None
        if name in unlike:
            marked = marked_by_shift(unlike[name], own, split.groups)
            known = describe_known(unlike[name], own, split, validation_groups, what)
        found[name] = ModelStress(
            images=len(test),
            groups=len(split.counts),
            labels=split.eligible,
            auroc=summarise(ranked[name].plain.macro(LEAD), split.counts),
            shifts=describe_shifts(
                ranked[name], {other: (relation, ranked[other]) for other, relation in relations.items()}, marked
            ),
            known=known,
        )
    return found, unlike
