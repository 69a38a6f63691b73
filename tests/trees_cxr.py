"""Small data sets in the exact layouts of CheXpert and PadChest."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHEXPERT_LABELS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
CHEXPERT_HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_LABELS}"

PADCHEST_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
    "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
    "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,"
    "labelCUIS,LocalizationsCUIS"
)


def write_xray(path: Path, *seed: int, bits: int = 8, size: tuple[int, int] = (40, 32)) -> None:
    """A dark ellipse, a lung, on noise that depends on the seed; JPEG or PNG by the name, PNG also with 16 bits."""
    width, height = size
    generator = np.random.default_rng(seed)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    grey = np.where((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1, 0.25, 0.75) + generator.uniform(-0.2, 0.2, (height, width))
    pixels = np.rint(grey * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def chexpert_row(path: str, **cells: Any) -> str:
    """A row of train.csv: a frontal AP of a man of 68, every label blank, except for `cells`, by column.

    `_` stands for a blank in a column's name, `plane` for Frontal/Lateral, `view` for AP/PA.
    """
    known = {"Sex": "Male", "Age": 68, "plane": "Frontal", "view": "AP"} | dict.fromkeys(CHEXPERT_LABELS.split(","), "")
    known |= {name.replace("_", " "): value for name, value in cells.items()}
    assert len(known) == 4 + 14, cells  # no cell without a column
    return ",".join([path, *map(str, known.values())])


def write_chexpert_table(
    root: Path, rows: Iterable[str], *, name: str = "train.csv", header: str = CHEXPERT_HEADER, prefix: str = ""
) -> Path:
    """Write a table and an empty file for each of its rows; the paths in the table begin with `prefix`."""
    rows = list(rows)
    for row in rows:
        file = root / row.split(",")[0].removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (root / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root


def write_chexpert(
    root: Path, *, patients: int = 24, prefix: str = "CheXpert-v1.0-small/", valid: int = 6, test: int = 0
) -> dict[str, list[str]]:
    """Write a CheXpert folder with real JPEG files.

    Each patient has two studies; the first has a frontal and a lateral view, the second a frontal one. Label cells are
    drawn from 1.0, 0.0, -1.0 and blank in train.csv (`No Finding`: 1.0 or blank), from 1.0 and 0.0 in the other tables.

    Args:
        root: becomes the folder of the tables.
        patients: number of patients in train.csv.
        prefix: of `Path` in train.csv and valid.csv.
        valid: number of patients in valid.csv; 0: no such table.
        test: number of patients in test_labels.csv, which has neither prefix nor details; 0: no such table.

    Returns:
        The paths of the images by folder, in the tables' order.
    """
    root.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[str]] = {}
    number = 0
    for folder, first, count in (("train", 1, patients), ("valid", 64_541, valid), ("test", 64_741, test)):
        if count == 0:
            continue
        lines = [CHEXPERT_HEADER if folder != "test" else f"Path,{CHEXPERT_LABELS}"]
        paths = written.setdefault(folder, [])
        for patient in range(first, first + count):
            for study, view, plane in ((1, 1, "frontal"), (1, 2, "lateral"), (2, 1, "frontal")):
                path = f"{folder}/patient{patient:05d}/study{study}/view{view}_{plane}.jpg"
                number += 1
                write_xray(root / path, number)
                paths.append(path)
                values = ("1.0", "0.0", "-1.0", "") if folder == "train" else ("1.0", "0.0")
                cells = np.random.default_rng(number).choice(values, 14).tolist()
                if folder == "train":
                    cells[0] = "1.0" if number % 4 == 0 else ""
                details = ["Male" if patient % 2 else "Female", str(30 + patient % 50), plane.title()]
                details.append("" if plane == "lateral" else ("AP", "PA")[patient % 3 == 0])
                lines.append(",".join([prefix + path, *details, *cells] if folder != "test" else [path, *cells]))
        name = "test_labels.csv" if folder == "test" else f"{folder}.csv"
        (root / name).write_text("\n".join(lines) + "\n")
    return written


def padchest_row(image: str, labels: str, **cells: Any) -> str:
    """A row of the label table: the PA of a woman born in 1952, taken in 2014, except for `cells`, by column."""
    known = dict.fromkeys(PADCHEST_HEADER.split(","), "") | {
        "ImageID": image,
        "ImageDir": "0",
        "StudyDate_DICOM": "20140915",
        "StudyID": "20536686640136348236148679891455886468",
        "PatientID": "839860488694292331637988235681460987",
        "PatientBirth": "1952.0",
        "PatientSex_DICOM": "F",
        "ViewPosition_DICOM": "POSTEROANTERIOR",
        "Projection": "PA",
        "Pediatric": "No",
        "Manufacturer_DICOM": "PhilipsMedicalSystems",
        "Report": '"sin hallazg patolog, sin cambi ."',
        "MethodLabel": "Physician",
        "Labels": '"' + labels.replace('"', '""') + '"',
    }
    assert known.keys() >= cells.keys(), cells
    return ",".join(map(str, (known | cells).values()))


def write_padchest_table(
    root: Path, rows: Iterable[str], *, name: str = PADCHEST_TABLE, header: str = PADCHEST_HEADER
) -> Path:
    """Write a label table, and an empty file in the folder `ImageDir` for each of its rows."""
    rows = list(rows)
    root.mkdir(parents=True, exist_ok=True)
    for row in rows:
        image, folder = row.split(",")[1:3]
        (root / folder).mkdir(exist_ok=True)
        (root / folder / image).touch()
    (root / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root


def write_padchest(root: Path, *, patients: int = 24, flat: bool = False) -> dict[str, str]:
    """Write a PadChest folder with real 16-bit PNG files.

    Each patient has a study with a frontal view (PA, AP and AP_horizontal in turn) and a lateral one; study and
    patient ids have up to 39 digits, as in the release. Every label of `labels: differential` and some of the findings
    occur.

    Args:
        root: becomes the data set's folder.
        patients: number of patients, with two images each.
        flat: put all images into the root instead of the folders 0, 1, 2.

    Returns:
        The cell `Labels` of each image.
    """
    from medistill.data.reading.padchest_labels import DIFFERENTIAL

    root.mkdir(parents=True, exist_ok=True)
    lists = [
        "['normal']",
        "['cardiomegaly', ' pleural effusion', 'unchanged']",
        *(f"['{name}', 'pacemaker', '']" for name in DIFFERENTIAL),
        "['calcified granuloma', 'suboptimal study']",
    ]
    lines, written = [PADCHEST_HEADER], {}
    for patient in range(patients):
        folder = str(patient % 3)
        for view, projection in enumerate((("PA", "AP", "AP_horizontal")[patient % 3], "L")):
            image = f"2168401113669640{patient:08d}0126798455099420{view}_00-074-1{view}0.png"
            labels = lists[patient % len(lists)]
            write_xray(root / ("." if flat else folder) / image, patient, view, bits=16)
            written[image] = labels
            lines.append(
                str(len(lines) - 1)
                + padchest_row(
                    image,
                    labels,
                    ImageDir=folder,
                    StudyID=20536686640136348236148679891455886468 + patient,
                    PatientID=839860488694292331637988235681460987 + patient,
                    PatientBirth=f"{1930 + patient}.0",
                    PatientSex_DICOM="MF"[patient % 2],
                    Projection=projection,
                    Manufacturer_DICOM=("ImagingDynamicsCompanyLtd", "PhilipsMedicalSystems")[patient % 2],
                )
            )
    (root / PADCHEST_TABLE).write_text("\n".join(lines) + "\n")
    return written
