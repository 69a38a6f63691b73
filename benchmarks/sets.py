"""The data sets of `benchmarks.results`: where each is, how it is split, and within which strata its images are ranked.

Real ones lie in one folder (`--data`); a set that is not there is left out. The phantom is drawn.
"""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.study import (
    FOLDS,
    SPLIT_SEED,
    WORK,
    fold_of,
    ingested,
    once,
    open_phantom,
    open_xrays,
    read_params,
    with_splits,
)
from medistill.data.dataset import Dataset
from medistill.data.splits import stratified
from medistill.distillation.settings import TableTeacher
from medistill.files import atomic

Strata = NDArray[np.integer]
"""(N,) the stratum of each image, −1 for an image that is in none."""


@dataclass(frozen=True)
class ImageSet:
    """One data set.

    Attributes:
        title: in tables and sentences.
        folders: what must be in the folder of all data.
        open: the data set, from that folder and the size of its frames.
        folds: number of folds by patient; 1: one division into train, val and test.
        splits: shares of the images that validate and test where there is one division; None: those of the data set.
        strata: the stratum of each row of a manifest, where figures are within strata.
        within: what the strata are, in words.
        plain: what the AUROC over all pairs is, in words.
        judged: the figure by which rows are compared.
    """

    title: str
    folders: tuple[str, ...]
    open: Callable[[Path, int], Dataset]
    folds: int = 1
    splits: tuple[float, float] | None = None
    strata: Callable[[pd.DataFrame], Strata] | None = None
    within: str = ""
    plain: str = "macro AUROC"
    judged: Literal["plain", "within"] = "plain"

    def here(self, root: Path | None) -> bool:
        """Whether its folders are in the folder of all data."""
        return not self.folders or (root is not None and all((root / folder).is_dir() for folder in self.folders))

    def divided(self, root: Path, size: int, fold: int) -> Dataset:
        """The data set with the splits of a fold."""
        dataset = self.open(root, size)
        if self.folds > 1:
            return fold_of(dataset, fold)
        if self.splits is None:
            return dataset
        val, test = self.splits
        groups, targets = dataset.manifest["group_id"], dataset.targets(dataset.manifest)
        split = stratified(groups, targets, val_fraction=val, test_fraction=test, seed=SPLIT_SEED)
        return with_splits(dataset, groups.map(split).to_numpy())


@functools.cache
def open_kermany(root: Path, size: int) -> Dataset:
    """Children's chest X-rays of one hospital: normal, bacterial and viral pneumonia."""
    options = {"images": "chest_xray", "label": "cause", "patient": "patient", "group": "group"}
    return _open_table("Kermany", root / "kermany_224", size, {"table": "labels.csv", "path": "path", **options})


@functools.cache
def open_covid_qu_ex(root: Path, size: int) -> Dataset:
    """COVID-19, other pneumonia, or neither: of system B's data set, with the collections that could be traced."""
    options = {"label": "class", "group": "group", "source": "source_set", "path": "path"}
    images = {"images": "Infection Segmentation Data", "table": "groups.csv"}
    # two of three files are masks, which the table does not name
    return _open_table("COVID-QU-Ex", root / "covidquex_256", size, options | images, max_quarantined=0.67)


NIH = ("nih1000_256", "nih_extra_256")


@functools.cache
def open_nih(root: Path, size: int) -> Dataset:
    """Both samples of NIH ChestX-ray14 in one, `source` says which."""
    joined = WORK / "raw" / "nih"
    once(joined, lambda: _join_nih(root, joined))
    options = {"images": "images", "path": "Image Index", "labels": "Finding Labels", "separator": "|"}
    about = {"negative": ["No Finding"], "patient": "Patient ID", "source": "source", "table": "table.csv"}
    return _open_table("NIH", joined, size, options | about)


def _join_nih(root: Path, folder: Path) -> None:
    """One folder with the images of both samples, and one table."""
    columns = ["Image Index", "Finding Labels", "Patient ID"]
    with atomic(folder) as temporary:
        (temporary / "images").mkdir(parents=True)
        tables = []
        for name in NIH:
            tables.append(pd.read_csv(root / name / "Data_Entry_2017.csv", usecols=columns).assign(source=name))
            for file in sorted((root / name / "images").iterdir()):
                shutil.copy2(file, temporary / "images" / file.name)
        pd.concat(tables).to_csv(temporary / "table.csv", index=False, lineterminator="\n")


CHEXNET = "chexnet"
"""A replica of CheXNet (J. Zech), whose answers about some of these images are published; it is no network of ours."""


def chexnet(root: Path) -> TableTeacher:
    """Its probabilities of 14 findings for 519 of the 1,345 images of `open_nih`, all of its own test fold."""
    folder = WORK / "raw" / CHEXNET
    once(folder, lambda: _join_chexnet(root / NIH[1], folder))
    columns = {
        name.removeprefix("prob_"): name for name in pd.read_csv(folder / "answers.csv", nrows=0) if "prob_" in name
    }
    return TableTeacher(answers=folder / "answers.csv", id="Image Index", labels=columns)


def _join_chexnet(published: Path, folder: Path) -> None:
    names = ("chexnet_predictions.csv", "chexnet_test_predictions.csv.gz")
    with atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        rows = pd.concat([pd.read_csv(published / name) for name in names], join="inner")
        rows.drop_duplicates("Image Index").to_csv(temporary / "answers.csv", index=False, lineterminator="\n")


def _open_table(name: str, root: Path, size: int, options: dict[str, Any], **keys: Any) -> Dataset:
    given = {"name": name, "format": "csv", "root": root, "split": "patient", "options": options} | keys
    return ingested(name.lower(), read_params().data.model_copy(update=given), size)


def _sample_and_pneumonia(rows: pd.DataFrame) -> Strata:
    """Which of the two samples an image is of, and whether it has Pneumonia."""
    return 2 * rows["source"].map(NIH.index).to_numpy() + rows["label:Pneumonia"].to_numpy().astype(int)


def _traced(rows: pd.DataFrame) -> Strata:
    """The collection of an image, where it could be traced."""
    named = rows["source"].replace("", None)
    return pd.factorize(named, sort=True)[0]


SETS = {
    "phantom": ImageSet("phantom", (), lambda _, size: open_phantom(size)),
    "xrays": ImageSet("X-rays", (NIH[0],), lambda root, size: open_xrays(root / NIH[0], size), folds=FOLDS),
    "kermany": ImageSet("Kermany", ("kermany_224",), open_kermany, splits=(0.15, 0.55)),
    "nih": ImageSet(
        "NIH",
        NIH,
        open_nih,
        folds=FOLDS,
        strata=_sample_and_pneumonia,
        within="sample × Pneumonia or not",
        plain="macro AUROC over all pairs (for the most part: ill or not)",
        judged="within",
    ),
    "covid_qu_ex": ImageSet(
        "COVID-QU-Ex",
        ("covidquex_256",),
        open_covid_qu_ex,
        splits=(0.15, 0.45),
        strata=_traced,
        within="collection, of the images that could be traced",
        plain="macro AUROC (each class comes from collections of its own)",
    ),
    "phantom_96": ImageSet("phantom, five seeds", (), lambda _, size: open_phantom(size)),
}
"""By name. `phantom` and `xrays` are the tables of three seeds without weight selection; the others are newer."""
