"""The tables of docs/data.md on DICOM files agree with the code."""

import re

import pytest
from pydicom.datadict import keyword_dict
from pydicom.uid import UID

from medistill.images import dicom


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "data.md").read_text(encoding="utf-8")


def rows(page, name):
    """The cells of a table of the page, without its head."""
    text = page.partition(f"<!-- {name}: begin -->\n")[2].partition(f"<!-- {name}: end -->")[0]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    assert len(table) > 2, name
    return table[2:]


def test_the_transfer_syntaxes_are_those_of_the_code(page):
    table = rows(page, "transfer syntaxes")
    assert {uid: decoder for _, uid, decoder in table} == dicom.TRANSFER_SYNTAXES
    for name, uid, _ in table:
        official = UID(uid).name
        if official != uid:  # pydicom does not know JPEG XL yet
            words = set(re.findall(r"\w+", name.partition(",")[0].lower()))
            assert words <= {*re.findall(r"\w+", official.lower()), "of", "a"}, (name, official)


def test_the_photometric_interpretations_are_those_of_the_code(page):
    table = rows(page, "photometric interpretations")
    assert {name.partition(",")[0]: int(samples) for name, samples, _ in table} == dicom._SAMPLES
    within = {name.partition(",")[0] for name, _, _ in table if ", in " in name}
    assert within == dicom._CODECS_OF.keys()


def test_the_attributes_are_those_of_the_code(page, root):
    """Every attribute that the code reads has a row, and the code reads none of those that are said to be ignored."""
    keywords = set(keyword_dict)
    code = "".join(
        (root / "src" / "medistill" / "images" / name).read_text() for name in ("dicom.py", "dicom_display.py")
    )
    asked = {word for word in re.findall(r"[A-Z][A-Za-z0-9]+", code) if word in keywords}
    asked -= {"PixelData", "TransferSyntaxUID"}
    table = rows(page, "attributes")
    read = {word for cell, how in table if how != "ignored" for word in re.findall(r"[A-Z][A-Za-z0-9]+", cell)}
    ignored = {word for cell, how in table if how == "ignored" for word in re.findall(r"[A-Z][A-Za-z0-9]+", cell)}
    assert ignored - {"OverlayData"} <= keywords  # OverlayData has no keyword, as its group varies
    assert not ignored & asked
    # the code builds the keywords of palettes from names of colours, and pydicom itself reads the last two
    palette = {word for word in read if word.startswith(("Red", "Green", "Blue", "Data"))}
    assert read - palette - {"PixelDataProviderURL", "PlanarConfiguration"} == asked
    assert 'f"{colour}PaletteColorLookupTable"' in code
