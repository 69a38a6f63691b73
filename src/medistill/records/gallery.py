"""gallery.json: the explained findings that pages show, with their pictures, and how many there are of each kind."""

from medistill.records.base import Content, Plain
from medistill.records.models import Role


class ShownMap(Content):
    """One model's answer about a finding.

    Attributes:
        model, role: whose.
        probability: of the label, 0..1.
        picture: its map, a data URI.
        top: the map's largest value, 1 being the largest that the model's maps of the label reach.
        peak: row and column in pixels; None for a flat map.
        hit: whether the peak is inside the truth; None where it is not known where the finding is.
        called: whether the model calls the label, at the threshold that it ships with; None where it has none.
        predicted: the class that the model names, of exclusive classes; else None.
    """

    model: str
    role: Role
    probability: float
    picture: str
    top: float
    peak: list[int] | None
    hit: bool | None
    called: bool | None
    predicted: str | None


class ShownFinding(Content):
    """An image with one of its labels, and every model's map of that.

    Attributes:
        image_id, split, label: the finding.
        present: whether the image has the label.
        facts: further facts about the image, such as age and view.
        size: width and height in pixels.
        picture: the image, a data URI.
        boxes: x, y, w, h as fractions of the frame; empty without boxes.
        outline: the border of its mask, the path of an SVG in pixels; empty without a mask.
        maps: one per model, teachers first.
    """

    image_id: str
    split: str
    label: str
    present: bool
    facts: str
    size: int
    picture: str
    boxes: list[list[float]]
    outline: str
    maps: list[ShownMap]

    @property
    def located(self) -> bool:
        """Whether it is known where the finding is."""
        return bool(self.boxes or self.outline)


class ShownKind(Content):
    """Findings of which the gallery's student says alike.

    Attributes:
        called, hit: what it says, as in `ShownMap`.
        findings: how many there are in all.
        shown: those of the gallery.
    """

    called: bool | None
    hit: bool | None
    findings: int
    shown: list[ShownFinding]

    @property
    def title(self) -> str:
        """In words.

        Example:
            >>> ShownKind(called=False, hit=True, findings=3, shown=[]).title
            'Not called, the map hits'
        """
        called = {True: "Called", False: "Not called", None: "No threshold to be called at"}[self.called]
        return called + {True: ", the map hits", False: ", the map misses", None: ""}[self.hit]


class Gallery(Plain):
    """The findings that pages show.

    Attributes:
        student: the model by whose answers kinds are told.
        beside: the models that are shown in the report: its teachers, its baselines, and itself.
        kinds: of the findings that are present.
        absent: labels that are absent, or classes that an image is taken for.
    """

    student: str
    beside: list[str]
    kinds: list[ShownKind]
    absent: list[ShownFinding]
