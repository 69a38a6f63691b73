"""Views are a pure function of id, number and seed, and change the pixels as their parameters say."""

import threading
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch

from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.models.classifier import resize
from medistill.views import open_frames, read_ahead, render_plain, render_views, view_parameters
from tests.seal import digests

AUGMENTATION = Augmentation(rotation=10, translation=0.1, scale=0.2, brightness=0.1, contrast=0.3, flip=True)
NOTHING = [0, 0, 0, 1, 0, 1, 0]


def images(count=3, size=16):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 1, size, size), dtype=np.uint8))


def render(batch, *parameters):
    return render_views(batch, torch.tensor([parameters] * len(batch), dtype=torch.float32))


def test_parameters_depend_on_nothing_but_id_view_and_seed():
    ids = [f"{i}.png" for i in range(50)]
    whole = view_parameters(ids, 3, 7, AUGMENTATION)
    np.testing.assert_array_equal(whole[::-1], view_parameters(ids[::-1], 3, 7, AUGMENTATION))
    np.testing.assert_array_equal(whole[[4]], view_parameters(["4.png"], 3, 7, AUGMENTATION))
    assert not np.any(whole[:, :6] == view_parameters(ids, 4, 7, AUGMENTATION)[:, :6])
    assert not np.any(whole[:, :6] == view_parameters(ids, 3, 8, AUGMENTATION)[:, :6])


def test_parameters_fill_their_ranges_uniformly():
    drawn = view_parameters([str(i) for i in range(4000)], 0, 0, AUGMENTATION)
    limits = np.array([np.deg2rad(10), 0.1, 0.1, 0.2, 0.1, 0.3])
    centred = (drawn[:, :6] - [0, 0, 0, 1, 0, 1]) / limits
    assert np.abs(centred).max() <= 1 + 1e-5
    # A uniform variable on -1..1 has mean 0 and variance 1/3; five standard errors.
    assert np.abs(centred.mean(axis=0)).max() < 5 / np.sqrt(3 * 4000)
    assert np.abs(centred.var(axis=0) - 1 / 3).max() < 0.03
    assert 0.45 < drawn[:, 6].mean() < 0.55
    still = AUGMENTATION.model_copy(update={"flip": False})
    assert not view_parameters(["a", "b", "c", "d"], 0, 0, still)[:, 6].any()


def test_no_change_is_the_plain_image():
    batch = images()
    assert torch.allclose(render(batch, *NOTHING), render_plain(batch), atol=1e-5)


def test_flip_translation_and_rotation_against_numpy():
    batch = images()
    plain = render_plain(batch)
    assert torch.allclose(render(batch, 0, 0, 0, 1, 0, 1, 1), plain.flip(-1), atol=1e-5)
    quarter = render(batch, np.pi / 2, 0, 0, 1, 0, 1, 0)
    assert any(torch.allclose(quarter, torch.rot90(plain, k, (2, 3)), atol=1e-4) for k in (1, 3))
    moved = render(batch, 0, 0.25, 0, 1, 0, 1, 0)  # a quarter of 16 pixels to the left
    assert torch.allclose(moved[..., :12], plain[..., 4:], atol=1e-5)
    assert moved[..., 12:].abs().max() < 1e-5  # the free space is black


def test_zoom_enlarges_about_the_centre():
    batch = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    batch[..., 6:10, 6:10] = 255
    area = render(batch, 0, 0, 0, 2, 0, 1, 0).sum().item()
    assert area == pytest.approx(4 * 16, rel=0.15)
    assert render(batch, 0, 0, 0, 2, 0, 1, 0)[0, 0, 7, 7] == 1


def test_brightness_and_contrast_lose_nothing():
    batch = images()
    plain = render_plain(batch)
    changed = render(batch, 0, 0, 0, 1, 0.2, 1.5, 0)
    assert changed.max() > 1.05
    assert torch.allclose((changed - 0.7) / 1.5 + 0.5, plain, atol=1e-4)


def test_a_view_does_not_depend_on_its_batch():
    batch = images(8)
    ids = [str(i) for i in range(8)]
    parameters = torch.from_numpy(view_parameters(ids, 1, 0, AUGMENTATION))
    together = render_views(batch, parameters)
    alone = torch.cat([render_views(batch[i : i + 1], parameters[i : i + 1]) for i in range(8)])
    assert torch.equal(together, alone)


def test_frames_stay_in_their_shards_until_they_are_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 256, 1, 64, 64), dtype=np.uint8)  # 8 shards, 8 MB
    for shard, frames in enumerate(pixels):
        np.save(tmp_path / f"images-{shard:05d}.npy", frames)
    rows = pd.DataFrame({"shard": np.repeat(np.arange(8), 256), "row": np.tile(np.arange(256), 8)})
    rows = rows.assign(image_id=rows.index.astype(str), sha256=digests(pixels.reshape(-1, 1, 64, 64)))
    rows = rows.sample(frac=1, random_state=0).reset_index(drop=True)
    dataset = Dataset(tmp_path, "", "", "multilabel", ["a"], 64, 1, "pad", "", rows)
    chosen = rng.permutation(len(rows))[:16]

    tracemalloc.start()
    batch = open_frames(dataset, rows, None)(chosen)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert torch.equal(batch, torch.from_numpy(pixels[rows["shard"][chosen], rows["row"][chosen]]))
    assert peak < 10**6
    shrunk = open_frames(dataset, rows, 16)(chosen)
    assert torch.equal(shrunk, resize(batch.float(), 16).round().byte())
    assert torch.equal(open_frames(dataset, rows, 1024)(chosen), batch)  # a larger network enlarges them itself
    (tmp_path / "images-00003.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"images-00003\.npy: damaged .*; run the ingest stage again"):
        open_frames(dataset, rows, None)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_reading_ahead_changes_no_order(count):
    assert list(read_ahead(str, range(count))) == [str(number) for number in range(count)]


def test_one_item_is_read_ahead_and_no_more():
    begun = [threading.Event() for _ in range(4)]

    def read(number):
        begun[number].set()
        return number

    reading = read_ahead(read, range(4))
    assert next(reading) == 0
    assert begun[1].wait(10)  # by another thread, while 0 is in use
    assert not begun[2].is_set()
    reading.close()
    assert not begun[2].is_set()


def test_what_fails_while_reading_ahead_fails_in_its_turn():
    reading = read_ahead(lambda number: 6 // number, [2, 1, 0])
    assert [next(reading), next(reading)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(reading)
