"""Every format goes from its layout on disk through `ingest`, `audit` and the gate."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medistill.audit.findings import audit
from medistill.data.adapters import formats
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.phantom.write import write_phantom
from pipeline.expectations import validate
from tests.trees_cxr import write_chexpert, write_padchest
from tests.trees_readers import write_medmnist, write_mimic_cxr, write_rsna_pneumonia, write_vindr_cxr
from tests.trees_tiles import write_covid_qu_ex, write_csv, write_folder, write_lc25000


def phantom(root: Path) -> None:
    write_phantom(root, images=120, size=48, seed=0, prevalence="balanced")


WRITERS = {
    "chestxray14": phantom,
    "chexpert": lambda root: write_chexpert(root),
    "padchest": lambda root: write_padchest(root),
    "covid_qu_ex": lambda root: write_covid_qu_ex(root),
    "lc25000": lambda root: write_lc25000(root),
    "folder": lambda root: write_folder(root, images_each=20),
    "csv": lambda root: write_csv(root),
    "medmnist": lambda root: write_medmnist(root, shape=(28, 28, 3)),
    "mimic_cxr": lambda root: write_mimic_cxr(root, patients=32),
    "rsna_pneumonia": lambda root: write_rsna_pneumonia(root, images=60),
    "vindr_cxr": lambda root: write_vindr_cxr(root, images=60, test=24),
}


def test_no_format_is_forgotten():
    assert set(WRITERS) == set(formats())


@pytest.mark.parametrize("format", formats())
def test_every_format_reaches_the_gate_and_passes(format, tmp_path):
    options = WRITERS[format](tmp_path / "root")
    official = format in {"chestxray14", "chexpert", "covid_qu_ex", "medmnist", "mimic_cxr", "vindr_cxr"}
    data = Data(
        format=format,
        root=tmp_path / "root",
        options=options if format == "csv" else {},
        split="official" if official else "patient",
        val_fraction=0.3,
        test_fraction=0.3,
        seed=0,
        image_size=32,
        channels=3 if format in {"lc25000", "medmnist"} else 1,
        fit="pad",
        max_quarantined=0.0,
        workers=1,
    )
    summary = ingest(data, tmp_path / "processed", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "processed")
    quarantine = pd.read_csv(tmp_path / "processed" / "quarantine.csv")
    assert summary.entries == len(dataset.manifest) + len(quarantine) == len(dataset.manifest) > 20

    targets = dataset.targets(dataset.manifest)
    assert set(np.unique(targets[~np.isnan(targets)])) == {0, 1}
    if dataset.task == "multiclass":
        assert (targets.sum(axis=1) == 1).all()
    assert dataset.manifest["group_id"].notna().all()
    assert dataset.manifest.groupby("group_id")["split"].nunique().max() == 1
    assert (dataset.manifest["mask_row"] >= 0).any() == (format in {"covid_qu_ex", "csv"})

    assert (summary.boxes > 0) == (format in {"chestxray14", "rsna_pneumonia", "vindr_cxr"})

    found = audit(dataset)
    assert not [finding for finding in found.findings if finding.severity == "error"]
    for row in found.shortcuts:
        assert row["lower"] is None or math.isfinite(row["lower"])
    result = validate(tmp_path / "processed", tmp_path / "docs", max_quarantined=0.0, audit=found)
    assert result.success, result.failures
    assert result.statistics.images == len(dataset.manifest)
