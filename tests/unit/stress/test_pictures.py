"""Images of other kinds: drawn ones are always the same, and folders are read as ingest reads them."""

import numpy as np
import pytest
from PIL import Image

from medistill.errors import UserError
from medistill.images.frame import Framing
from medistill.stress.pictures import DRAWN, draw_pictures, read_folder

GREY, COLOUR = Framing(48, 1, "pad"), Framing(48, 3, "pad")


@pytest.mark.parametrize("kind", DRAWN)
def test_drawn_pictures_differ_from_each_other_and_are_the_same_again(kind):
    colour = draw_pictures(kind, COLOUR, 3)
    assert colour.shape == (3, 3, 48, 48)
    assert (colour == draw_pictures(kind, COLOUR, 3)).all()
    assert all((colour[0] != colour[k]).mean() > 0.3 for k in (1, 2))
    assert colour.std() > 20
    grey = draw_pictures(kind, GREY, 3)
    luma = np.tensordot([0.299, 0.587, 0.114], colour.transpose(1, 0, 2, 3).astype(float), 1)
    assert np.abs(grey[:, 0] - luma).mean() < 2


def test_a_folder_is_read_up_to_a_number_and_without_what_is_no_image(tmp_path):
    (tmp_path / "deep").mkdir()
    for k in range(5):
        Image.new("L", (48, 24), 50 * k).save(tmp_path / "deep" / f"{k}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "notes.txt").write_text("no image")
    frames = read_folder(tmp_path, "stress.others.x", GREY, 99)
    assert frames.shape == (5, 1, 48, 48)
    assert sorted(frames[:, 0, 24, 24].tolist()) == [0, 50, 100, 150, 200]
    assert (frames[:, 0, 0] == 0).all()  # padded
    few = read_folder(tmp_path, "stress.others.x", GREY, 2)
    assert (few == frames[:2]).all()


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder; set stress\.others\.x to a folder of images$"):
        read_folder(tmp_path / "nowhere", "stress.others.x", GREY, 9)
    with pytest.raises(UserError, match=r": no image in it can be read; set stress\.others\.x to a folder of images$"):
        read_folder(tmp_path, "stress.others.x", GREY, 9)
