"""Small data sets in the exact layouts of MIMIC-CXR-JPG, VinDr-CXR, the RSNA challenge and MedMNIST."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tests.trees_cxr import CHEXPERT_LABELS, write_xray

MIMIC = "mimic-cxr-2.0.0-{}.csv.gz"
MIMIC_METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
MIMIC_LABELS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
MIMIC_SPLIT = "dicom_id,study_id,subject_id,split"

VINDR_LABELS = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
    "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
    "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,"
    "Tuberculosis,{},No finding"
)
VINDR_KAGGLE = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
RSNA = "patientId,x,y,width,height,Target"


def write_table(path: Path, header: str, rows: Iterable[str]) -> None:
    """Write a table, compressed if its name ends in `.gz`."""
    import gzip

    path.parent.mkdir(parents=True, exist_ok=True)
    content = "\n".join([header, *rows]).encode() + b"\n"
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_dicom(path: Path, *seed: int, size: tuple[int, int] = (40, 32)) -> None:
    """A grey DICOM file of noise that depends on the seed; `size` is width and height."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    pixels = np.random.default_rng(seed).integers(0, 256, size[::-1], np.uint8)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = uid.SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PixelData = pixels.tobytes()
    made["PixelData"].VR = "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


def mimic_labels(**cells: Any) -> str:
    """Cells of a study's labels, all blank except for `cells`; `_` stands for a blank in a name."""
    named = {name.replace("_", " "): str(value) for name, value in cells.items()}
    assert named.keys() <= set(MIMIC_LABELS.split(",")), cells
    return ",".join(named.get(name, "") for name in MIMIC_LABELS.split(","))


def write_mimic_cxr(root: Path, *, patients: int = 24) -> list[str]:
    """Write a MIMIC-CXR-JPG folder with real JPEG files and both tables of labels.

    Each patient has two studies; the first has a PA and a lateral view, the second an AP one. Cells are 1.0, 0.0, -1.0
    and blank.

    Returns:
        Paths of the images.
    """
    assert sorted(MIMIC_LABELS.split(",")) == sorted(CHEXPERT_LABELS.split(","))
    metadata, split, labels, paths = [], [], {"chexpert": [], "negbio": []}, []
    for number in range(patients):
        patient = 10_000_000 + 400_000 * number
        for nth, views in enumerate((("PA", "LATERAL"), ("AP",))):
            study = 50_000_000 + 10 * number + nth
            for program, rows in labels.items():
                cells = np.random.default_rng([number, nth, len(program)]).choice(["1.0", "0.0", "-1.0", ""], 14)
                rows.append(f"{patient},{study},{','.join(cells)}")
            for view in views:
                image = f"{number:08x}-0000{nth}-{view.lower()}"
                path = f"files/p{str(patient)[:2]}/p{patient}/s{study}/{image}.jpg"
                write_xray(root / path, number, nth, len(view))
                paths.append(path)
                metadata.append(
                    f"{image},{patient},{study},CHEST (PA AND LAT),{view},3056,2544,21800506,213014.5,,,Erect"
                )
                split.append(f"{image},{study},{patient},{('train', 'train', 'validate', 'test')[number % 4]}")
    write_table(root / MIMIC.format("metadata"), MIMIC_METADATA, metadata)
    write_table(root / MIMIC.format("split"), MIMIC_SPLIT, split)
    for program, rows in labels.items():
        write_table(root / MIMIC.format(program), f"subject_id,study_id,{MIMIC_LABELS}", rows)
    return paths


def vindr_cells(labels: str, *names: str) -> str:
    """1.0 for the named labels and 0.0 for the others; `No finding` is 1.0 if none is named."""
    wanted = set(names or ["No finding"])
    assert wanted <= set(labels.split(",")), names
    return ",".join("1.0" if label in wanted else "0.0" for label in labels.split(","))


def write_vindr_cxr(root: Path, *, images: int = 24, test: int = 8) -> None:
    """Write PhysioNet's layout with real DICOM files of 40 x 32 pixels.

    Of four images the first shows nothing, the second a mass that all readers see and box, the third a mass that one
    of three readers sees, and the fourth an effusion with a box and a pneumonia without one.
    """
    train, test_labels = VINDR_LABELS.format("Other diseases"), VINDR_LABELS.format("Other disease")
    kinds = ((), ("Nodule/Mass",), ("Nodule/Mass",), ("Pleural effusion", "Pneumonia"))
    rows, boxes = {"train": [], "test": []}, {"train": [], "test": []}
    for part, count in (("train", images), ("test", test)):
        for number in range(count):
            image = f"{part}{number:027d}"
            write_dicom(root / part / f"{image}.dicom", number, len(part))
            readers = ("R8", "R9", "R10") if part == "train" else ("",)
            for nth, reader in enumerate(readers):
                seen = kinds[number % 4] if number % 4 != 2 or nth == 0 else ()
                who = f"{reader}," if reader else ""
                rows[part].append(f"{image},{who}{vindr_cells(train if who else test_labels, *seen)}")
                boxed = [name for name in seen if name != "Pneumonia"]
                boxes[part] += [f"{image},{who}{name},{4 + nth},5,{20 + nth},25.5" for name in boxed]
                boxes[part] += [] if seen else [f"{image},{who}No finding,,,,"]
    columns = "class_name,x_min,y_min,x_max,y_max"
    write_table(root / "annotations/image_labels_train.csv", f"image_id,rad_id,{train}", rows["train"])
    write_table(root / "annotations/image_labels_test.csv", f"image_id,{test_labels}", rows["test"])
    write_table(root / "annotations/annotations_train.csv", f"image_id,rad_id,{columns}", boxes["train"])
    write_table(root / "annotations/annotations_test.csv", f"image_id,{columns}", boxes["test"])


def write_rsna_pneumonia(root: Path, *, images: int = 30) -> None:
    """Write the challenge's folder with real DICOM files; every third image has an opacity with two boxes."""
    labels, classes = [], []
    for number in range(images):
        image = f"{number:08d}-0000-4000-8000-000000000000"
        write_dicom(root / "stage_2_train_images" / f"{image}.dcm", number)
        kind = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")[number % 3]
        if number % 3 == 2:
            labels += [f"{image},264.0,152.0,213.0,379.0,1", f"{image},562.0,{152 + number}.0,256.0,453.0,1"]
            classes += [f"{image},{kind}"] * 2
        else:
            labels.append(f"{image},,,,,0")
            classes.append(f"{image},{kind}")
    write_table(root / "stage_2_train_labels.csv", RSNA, labels)
    write_table(root / "stage_2_detailed_class_info.csv", "patientId,class", classes)


def write_medmnist(
    root: Path,
    name: str = "pneumoniamnist.npz",
    *,
    sizes: tuple[int, int, int] = (60, 30, 30),
    shape: tuple[int, ...] = (28, 28),
    labels: int = 2,
    columns: int = 1,
    packed: bool = True,
    **changed: Any,
) -> dict[str, np.ndarray]:
    """Write an archive of noise and random labels; `changed` arrays replace these, and None leaves one out.

    Returns:
        Its arrays.
    """
    generator, arrays = np.random.default_rng(0), {}
    for split, count in zip(("train", "val", "test"), sizes, strict=True):
        arrays[f"{split}_images"] = generator.integers(0, 256, (count, *shape), np.uint8)
        arrays[f"{split}_labels"] = generator.integers(0, labels, (count, columns), np.uint8)
    arrays = {key: value for key, value in (arrays | changed).items() if value is not None}
    root.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if packed else np.savez)(root / name, **arrays)
    return arrays
