"""What `stress` writes: its metrics.json, with an entry for each model."""

from medistill.records.base import Content
from medistill.records.figures import Interval


class LabelFall(Content):
    """AUROC of one label: on the test images as they are, on shifted ones, and the first minus the second, paired."""

    plain: Interval
    shifted: Interval
    fall: Interval


class FallDifference(Content):
    """A student's fall minus that of another model under the same shift, paired.

    Attributes:
        relation: `teacher` or `baseline`: what the other model is to the student.
        difference: above 0 the student loses more.
        p, p_holm: two-sided, and adjusted for all shifts (Holm); None where undefined.
    """

    relation: str
    difference: Interval
    p: float | None
    p_holm: float | None


class Shifted(Content):
    """A model under one shift.

    Attributes:
        what: the shift, in words.
        auroc: mean over the eligible labels.
        fall: that of the images as they are minus it, paired.
        marked: of a student, the share of shifted images that are marked as unlike those that it knows.
        labels: of each eligible label.
        against: of a distilled student, its fall minus those of its best teacher and its baselines, by name.
    """

    what: str
    auroc: Interval
    fall: Interval
    marked: Interval
    labels: dict[str, LabelFall]
    against: dict[str, FallDifference]


class Kind(Content):
    """Images of another kind.

    Attributes:
        what: the kind, in words.
        images: how many.
        auroc: how often such an image is more unlike the training images than a test image is.
        marked: the share that is marked.
    """

    what: str
    images: int
    auroc: Interval
    marked: Interval


class Known(Content):
    """How a student tells images that are unlike those that it knows.

    Attributes:
        features, components: numbers that describe an image, and how many principal components of them.
        training_images, validation_images, validation_groups: what it was fitted to.
        usual: mean score of the validation images; those above 1 are marked.
        marked: share of the test images that are marked, falsely.
        marked_groups: share of their patients with an image that is marked.
        auroc_kept: mean AUROC on the test images that are not marked.
        gain: that minus the one on all test images, over the same labels.
        kinds: images of other kinds, by name.
    """

    features: int
    components: int
    training_images: int
    validation_images: int
    validation_groups: int
    usual: float
    marked: Interval
    marked_groups: Interval
    auroc_kept: Interval
    gain: Interval
    kinds: dict[str, Kind]


class ModelStress(Content):
    """A model's entry in metrics.json.

    Attributes:
        images, groups: of the test images that were changed, and of how many patients or groups.
        labels: those that means hold, of these images.
        auroc: mean over them on the images as they are.
        shifts: by name.
        known: of a student.
    """

    images: int
    groups: int
    labels: list[str]
    auroc: Interval
    shifts: dict[str, Shifted]
    known: Known | None
