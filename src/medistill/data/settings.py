"""The section `data` of params.yaml."""

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from medistill.data import adapters
from medistill.images.limits import LARGEST_SIZE
from medistill.settings import AnyPath, Fraction, License, Seed, Settings
from medistill.text import printable

MAX_QUARANTINED = 0.01
"""Default of `data.max_quarantined`; `medistill check`, which reads no params.yaml, uses it too."""


def quarantine_limit(share: float, entries: int) -> int:
    """How many of `entries` may be left out: `share` of them, but one even in a small set, unless `share` is 0."""
    return max(math.floor(share * entries), int(share > 0))


class Data(Settings):
    """Where the images are, how they are split, and the size of their frames."""

    name: str = ""
    """Shown in reports; empty: the name of the root folder."""
    format: str
    """A file of `medistill/data/adapters`, without `.py`."""
    root: AnyPath
    options: dict[str, object] = {}
    """What the format leaves open; see `Options` in its file."""
    license: License | None = None
    """Of the images and labels, or their terms of use; None: unknown, but for the phantom's."""
    split: Literal["official", "patient"] = "official"
    """`official`: the data set's own lists; without a validation list one is drawn from train by patient. `patient`:
    all splits are drawn by patient (or other group)."""
    splits: AnyPath = Path("splits")
    """Folder with `groups.csv` and `sides.csv`, which say what belongs together and in which split; both optional."""
    unlabelled: AnyPath | None = None
    """Folder of images without labels that join the train split, for recipes with `unlabelled: true`; may be empty. An
    image of it that is in the validation or test split, by its pixels or its patient, stops ingest."""
    unlabelled_license: License | None = None
    """Of the images in that folder, as `license` is of the data set."""
    val_fraction: Fraction = 0.15
    """Share of the patients (of the training part where the split is official) that validates."""
    test_fraction: Fraction = 0.2
    """Share of the patients that tests; unused where the split is official."""
    seed: Seed = 0
    image_size: int = Field(default=224, ge=32, le=LARGEST_SIZE)
    """Height and width of the ingested frame in pixels."""
    channels: Literal[1, 3] = 1
    """1: grey, 3: colour."""
    fit: Literal["pad", "squash", "crop"] = "pad"
    """How an image that is not square becomes square."""
    max_quarantined: float = Field(default=MAX_QUARANTINED, ge=0, le=1)
    """Ingest stops where more than this share of rows and files has to be left out."""
    workers: int = Field(default=2, ge=1, le=1024)
    """Processes that decode images."""

    @property
    def title(self) -> str:
        """Its name in reports."""
        return printable(self.name or self.root.resolve().name)

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        known = adapters.formats()
        if name not in known:
            raise ValueError(f"{name!r} is unknown; known are {', '.join(known)}")
        return name
