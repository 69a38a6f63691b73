"""Shifts of test images: what each does to pixels, always the same for the same image."""

import re

import numpy as np
import pytest

from medistill.stress.known import KINDS
from medistill.stress.pictures import DRAWN
from medistill.stress.shifts import MADE, SHIFTS

BY_NAME = {change.name: change for change in (*SHIFTS, *MADE)}
SIZE = 200


def shift(name, frame, image_id="a"):
    return BY_NAME[name].of([image_id], np.asarray(frame, np.uint8)[None])[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_changed_frame_has_the_same_shape_and_depends_on_the_image_alone(name, channels):
    frames = np.random.default_rng(0).integers(0, 256, (3, channels, 32, 32), dtype=np.uint8)
    before = frames.copy()
    changed = BY_NAME[name].of(["a", "b", "c"], frames)
    assert changed.shape == frames.shape
    assert changed.dtype == np.uint8
    assert (frames == before).all()
    assert (changed != frames).any()
    again = BY_NAME[name].of(["c", "a"], frames[[2, 0]])
    assert (again == changed[[2, 0]]).all()


def test_gamma_follows_its_formula():
    grey = np.arange(256).reshape(1, 16, 16)
    for name, exponent in (("brighter", 0.67), ("darker", 1.5)):
        expected = [round(255 * (value / 255) ** exponent) for value in range(256)]
        assert shift(name, grey).ravel().tolist() == expected


def test_noise_has_its_deviation_and_is_another_for_another_image():
    grey = np.full((3, SIZE, SIZE), 128)
    noise = shift("noise", grey) - 128.0
    assert noise.mean() == pytest.approx(0, abs=0.3)
    assert noise.std() == pytest.approx(0.05 * 255, rel=0.02)
    assert (noise[0] == noise[2]).all()  # grey stays grey
    assert (shift("noise", grey, "b") != shift("noise", grey)).mean() > 0.9


def test_blur_spreads_a_line_by_one_percent_of_the_width():
    line = np.zeros((1, SIZE, SIZE))
    line[0, :, 100] = 255
    profile = shift("blur", line)[0, 100].astype(float)
    places = np.arange(SIZE) - 100
    assert profile @ places == pytest.approx(0, abs=1e-9)
    assert np.sqrt(profile @ places**2 / profile.sum()) == pytest.approx(2, rel=0.03)


def test_collimation_blackens_each_side_and_leaves_the_rest():
    light = np.full((1, SIZE, SIZE), 200)
    widths = set()
    for image_id in "abcdefgh":
        changed = shift("collimation", light, image_id)[0]
        rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
        sides = [rows[0], SIZE - 1 - rows[-1], columns[0], SIZE - 1 - columns[-1]]
        assert all(0.04 * SIZE <= side <= 0.12 * SIZE for side in sides)
        assert (changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()
        widths |= set(sides)
    assert len(widths) > 8


def test_rotation_turns_by_ten_degrees_to_either_side():
    dot = np.zeros((1, SIZE, SIZE))
    dot[0, 99:102, 159:162] = 255  # 60 px to the right of the centre
    angles = set()
    for image_id in "abcdefgh":
        rows, columns = np.nonzero(shift("rotation", dot, image_id)[0] > 100)
        angles.add(round(np.degrees(np.arctan2(100 - rows.mean(), columns.mean() - 100))))
    assert angles == {-10, 10}


def test_jpeg_keeps_flat_greys_and_loses_fine_ones():
    assert np.abs(shift("jpeg", np.full((1, 64, 64), 100)) - 100.0).max() <= 3
    fine = np.random.default_rng(0).integers(0, 256, (1, 64, 64))
    assert np.abs(shift("jpeg", fine) - fine.astype(float)).mean() > 10


def test_inversion_mirror_and_turn_move_or_negate_single_pixels():
    frame = np.arange(12).reshape(1, 3, 4)
    assert (shift("inversion", frame) == 255 - frame).all()
    assert shift("mirrored", frame)[0, 0].tolist() == [3, 2, 1, 0]
    square = np.arange(4).reshape(1, 2, 2)
    assert shift("turned", square)[0].tolist() == [[1, 3], [0, 2]]


def test_the_page_on_shifts_says_what_the_code_does(root):
    page = (root / "docs" / "stress.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", page, re.MULTILINE))
    expected = {change.name: change.what for change in SHIFTS}
    # An inversion is a shift and a kind.
    expected |= {name: what for name, what in KINDS.items()} | {name: what for name, (what, _) in DRAWN.items()}
    assert {name: rows[name] for name in expected} == expected
    assert f"| inversion | {BY_NAME['inversion'].what} |" in page
