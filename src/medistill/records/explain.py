"""What `explain` writes: its metrics.json, with an entry for each model."""

from medistill.records.base import Content, Plain
from medistill.records.estimate import Estimate
from medistill.records.figures import Interval, Number

METHODS = {
    "grad_cam": "Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "hires_cam": "HiResCAM",
    "layer_cam": "Layer-CAM",
    "eigen_cam": "Eigen-CAM",
    "score_cam": "Score-CAM",
}
REFERENCES = {
    "chance": "Chance",
    "centre": "Centre",
    "usual_place": "Usual place",
    "another_label": "Another label's map",
    "random_weights": "Random weights",
}
"""What needs no map of the finding, and its title."""

LAYERS = {"last": "last", "stride_16": "stride-16"}


def in_words(method: str, layer: str) -> str:
    """A way to make maps, as it is shown.

    Example:
        >>> in_words("hires_cam", "stride_16")
        'HiResCAM on the stride-16 map'
    """
    return f"{METHODS.get(method, method)} on the {LAYERS.get(layer, layer)} map"


class _Made(Content):
    """What was made by a way: a method on a layer."""

    method: str
    layer: str

    @property
    def way(self) -> str:
        """In words."""
        return in_words(self.method, self.layer)


class Beside(Content):
    """What a figure is held against.

    Attributes:
        value: the mean of the same figure without a map of the finding; None where undefined.
        difference: the model's minus it, paired finding by finding.
    """

    value: float | None
    difference: Interval


class Located(Content):
    """How well maps of findings meet their boxes or masks; without any 0, None, and no conclusion.

    Attributes:
        images, findings, groups: how many there are.
        boxes, boxes_val, boxes_test: how many, in all and by split.
        masks: findings that have a mask, and no boxes.
        flat_maps: maps that point nowhere.
        pointing_game: share of the findings whose map has its peak inside the truth, a box or the mask.
        energy: mean share of the map inside the truth.
        energy_ratio: mean over findings of that share divided by the truth's share of the frame; 1 is chance.
        overlap: mean area-matched IoU: of the truth and as many of the map's strongest pixels.
        chance: what a random point hits.
        difference_chance: the pointing game minus it, paired.
        centre_prior: what pointing at the centre of each image hits.
        difference_centre: the pointing game minus it, paired.
        label_prior: what pointing at the label's usual place, that of other patients' boxes, hits.
        difference_label_prior: the pointing game minus it, paired.
        wrong_label: what the map of another label hits, one that the image does not have.
        difference_wrong_label: the pointing game minus it, paired.
        random_weights: what the map of the same network with random weights hits.
        difference_random_weights: the pointing game minus it, paired.
        energy_beside, overlap_beside: the same of energy and overlap, by the names of `REFERENCES`; empty of one label.
        detected_findings, missed_findings: findings whose label the model calls at its shipped threshold, and others.
        detected, missed: the pointing game of each.
        conclusive: whether the figures allow a conclusion.
        reason: why they do not; empty where they do.
        conclusion: in words.
    """

    images: int
    findings: int
    groups: int
    boxes: int
    boxes_val: int
    boxes_test: int
    masks: int
    flat_maps: int
    pointing_game: Interval
    energy: Interval
    energy_ratio: Interval
    overlap: Interval
    chance: float | None
    difference_chance: Interval
    centre_prior: float | None
    difference_centre: Interval
    label_prior: float | None
    difference_label_prior: Interval
    wrong_label: Interval
    difference_wrong_label: Interval
    random_weights: Interval
    difference_random_weights: Interval
    energy_beside: dict[str, Beside]
    overlap_beside: dict[str, Beside]
    detected_findings: int
    missed_findings: int
    detected: Interval
    missed: Interval
    conclusive: bool
    reason: str
    conclusion: str


class LocatedByLabel(Located):
    """The same with a table of each label."""

    labels: dict[str, Located]


class Alike(Content):
    """How alike a student's and a teacher's maps are by one measure.

    Attributes:
        value: the mean over findings.
        shuffled: the mean with the teacher's maps of other patients' findings.
        difference: the mean minus it, paired.
    """

    value: Interval
    shuffled: float | None
    difference: Interval


class Agreement(Content):
    """Mean correlation of a student's and a teacher's maps, pixel by pixel, and other measures of the same.

    Attributes:
        estimate, lower, upper: the mean with its 95 % interval; None where undefined.
        findings: how many were compared.
        flat_maps: findings left out because one of the two maps is flat.
        shuffled: the mean correlation with the teacher's maps of other patients' findings, which any two maps of
            chests have.
        difference_shuffled: the mean minus it, paired.
        cosine: the cosine of the maps, whose zero is no evidence.
        spearman: the correlation of their ranks.
        top_fifth: the IoU of the strongest fifth of each.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    findings: int
    flat_maps: int
    shuffled: float | None
    difference_shuffled: Interval
    cosine: Alike
    spearman: Alike
    top_fifth: Alike


class Lead(Content):
    """A student's figures minus its teacher's on the same findings, paired."""

    pointing_game: Interval
    energy: Interval
    overlap: Interval


class Removal(Content):
    """By how much the probability of a label falls when pixels are removed (ROAD), one finding of each image.

    Attributes:
        images: how many.
        most: the mean drop over 20, 40, 60 and 80 % of the pixels, the most relevant ones first.
        least: the least relevant ones first.
        random: those first that a random map of as many cells shows.
        most_minus_random, random_minus_least: paired.
        by_share: the mean drops of each share of the pixels: most, least, random.
    """

    images: int
    most: Interval
    least: Interval
    random: Interval
    most_minus_random: Interval
    random_minus_least: Interval
    by_share: dict[str, list[float]]


class LungLead(Content):
    """A student's figures of the lungs minus its teacher's, paired finding by finding."""

    peak: Interval
    energy: Interval


class InLungs(Content):
    """How much of the maps is inside the lungs, on images with a mask of them.

    Attributes:
        findings, groups: how many there are.
        peak: share of the findings whose map has its peak inside; a flat map has none.
        energy: mean share of the map inside.
        peak_beside, energy_beside: what chance, the lungs' share of the image, and the centre reach.
        difference_teacher: to each teacher that the model is compared with.
    """

    findings: int
    groups: int
    peak: Interval
    energy: Interval
    peak_beside: dict[str, Beside]
    energy_beside: dict[str, Beside]
    difference_teacher: dict[str, LungLead]


class ModelMaps(LocatedByLabel, _Made):
    """A model's entry in metrics.json.

    Attributes:
        method, layer: how its maps are made; `last` also where it has no map at stride 16.
        map_size: height and width of its maps in cells.
        removal: what its answers rest on.
        agreement_teacher, difference_teacher: with each teacher that it is compared with.
        lungs: how much of them is inside the lungs; None without masks of these.
    """

    map_size: list[int]
    removal: Removal
    agreement_teacher: dict[str, Agreement]
    difference_teacher: dict[str, Lead]
    lungs: InLungs | None = None

    def numbers(self) -> dict[str, Number | None]:
        """Its own figures by name, one with an interval with its bounds."""
        found: dict[str, Number | None] = {}
        for key, value in self:
            if isinstance(value, Estimate):
                found |= value.flat(key)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found[key] = value
        return found


class Tried(_Made):
    """A way to make maps, on the findings that choose one.

    Attributes:
        method, layer: the way.
        models: the pointing game of each model by it.
        mean: the mean of these, by which ways are ranked.
    """

    models: dict[str, Interval]
    mean: float


class Choice(Plain, _Made):
    """How the way to make maps was chosen: the content of reports/explain/choice.json.

    Attributes:
        method, layer: the chosen way.
        findings, images, groups: those of validation images that chose; 0 where none did.
        reason: why no findings chose; empty where they did.
        tried: each way, the best first.
    """

    findings: int
    images: int
    groups: int
    reason: str
    tried: list[Tried]
