"""What `explain` writes: its metrics.json, with an entry for each model."""

from medistill.records.base import Content
from medistill.records.estimate import Estimate
from medistill.records.figures import Interval, Number


class Located(Content):
    """How well maps of findings meet the boxes; without boxes 0, None, and no conclusion.

    Attributes:
        images, findings, groups: how many there are.
        boxes, boxes_val, boxes_test: how many, in all and by split.
        flat_maps: maps that point nowhere.
        pointing_game: share of the findings whose map has its peak inside a box.
        energy: mean share of the map inside the boxes.
        chance: what a random point hits.
        difference_chance: the pointing game minus it, paired.
        centre_prior: what pointing at the centre of each image hits.
        difference_centre: the pointing game minus it, paired.
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
    flat_maps: int
    pointing_game: Interval
    energy: Interval
    chance: float | None
    difference_chance: Interval
    centre_prior: float | None
    difference_centre: Interval
    conclusive: bool
    reason: str
    conclusion: str


class LocatedByLabel(Located):
    """The same with a table of each label."""

    labels: dict[str, Located]


class Agreement(Content):
    """Mean cosine similarity of a student's and a teacher's maps.

    Attributes:
        estimate, lower, upper: the mean with its 95 % interval; None where undefined.
        findings: how many were compared.
        zero_maps: findings left out because one of the two maps is all zero.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    findings: int
    zero_maps: int


class Lead(Content):
    """A student's figures minus its teacher's on the same findings, paired."""

    pointing_game: Interval
    energy: Interval


class ModelMaps(LocatedByLabel):
    """A model's entry in metrics.json.

    Attributes:
        map_size: height and width of its feature map in cells.
        agreement_teacher, difference_teacher: with each teacher that it is compared with.
    """

    map_size: list[int]
    agreement_teacher: dict[str, Agreement]
    difference_teacher: dict[str, Lead]

    def numbers(self) -> dict[str, Number | None]:
        """Its own figures by name, one with an interval with its bounds."""
        found: dict[str, Number | None] = {}
        for key, value in self:
            if isinstance(value, Estimate):
                found |= value.flat(key)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found[key] = value
        return found
