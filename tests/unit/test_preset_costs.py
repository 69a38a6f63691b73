"""The calculation in docs/papers.md of the costs of the papers' presets."""

import pytest

from benchmarks.presets import IMAGES, Passes, first_cells, hours, macs_of, operations, passes, read_presets, splits
from pipeline.presets import PRESETS


@pytest.fixture(scope="module")
def presets():
    return read_presets()


def test_all_papers_presets_are_counted():
    assert set(IMAGES) == {name for name in PRESETS if name.startswith("paper-")}


@pytest.mark.parametrize(
    ("name", "train", "validate"),
    [
        ("paper-a-chestxray14", 77_872, 8_652),  # val: a tenth of the training list; test: the test list
        ("paper-a-chexpert", 212_243, 11_171),  # val: a twentieth of train.csv; test: valid.csv
        ("paper-a-padchest", 111_038, 15_863),  # val: a tenth; test: a fifth
        ("paper-b-covid-qu-ex", 21_715, 5_417),  # the data set's own folders
    ],
)
def test_splits_follow_the_preset(presets, name, train, validate):
    assert splits(name, presets[name]) == (train, validate)


def test_passes_of_system_b(presets):
    params = presets["paper-b-lc25000"]
    train, validate = splits("paper-b-lc25000", params)
    assert (train, validate) == (16_250, 3_750)
    work = passes(params, train, validate)

    teachers = ["vgg19_bn", "visformer_small", "swin_s3_tiny_224"]
    assert work[:3] == [Passes("teachers", arch, 162_500, 37_500) for arch in teachers]  # of ten epochs
    assert work[3:6] == [Passes("teaching", arch, 0, 130_000) for arch in teachers]  # of eight views
    assert work[6:] == [Passes("students", "ofa_595", 487_500, 112_500)] * 6  # two baselines and four recipes


def test_operations_and_hours():
    work = [
        Passes("teachers", "big", trained=36_000, answered=3_600),
        Passes("teaching", "big", trained=0, answered=7_200),
        Passes("students", "small", trained=36_000, answered=0),
    ]
    trained, answered = operations(work, {"big": 1000, "small": 10})
    assert trained == 2 * 3 * (1000 * 36_000 + 10 * 36_000)
    assert answered == 2 * 1000 * 10_800
    took = hours(work, {"big": (10.0, 20.0), "small": (100.0, 500.0)})
    assert took == pytest.approx({"teachers": 1.05, "teaching": 0.1, "students": 0.1, "whole": 1.25})


def test_the_page_counts_what_the_presets_ask_for(presets, root):
    page = (root / "docs" / "papers.md").read_text(encoding="utf-8")
    work = {name: passes(params, *splits(name, params)) for name, params in presets.items()}
    macs = macs_of({each.arch for preset in work.values() for each in preset}, 224)
    for name, params in presets.items():
        assert params.data.image_size == 224
        assert f"| {' | '.join(first_cells(name, params, work[name], macs))} |" in page
