"""Facts of NIH ChestX-ray14 that its adapter reads by and the phantom writes by."""

LABELS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The 14 labels in CheXNet's order."""

BOX_FRAME = 1024
"""Boxes are in pixels of the release's 1024x1024 images, whatever the size of the files at hand."""
