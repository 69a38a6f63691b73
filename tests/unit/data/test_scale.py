"""The memory for pixels and the number of blocks per shard must not grow with the number of images."""

import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from medistill.checksums import read_record
from medistill.data import cache
from medistill.data.ingest import ingest
from medistill.data.reading.source import Source
from medistill.data.settings import Data


def shuffled(root, picture, count):
    """A source of `count` pictures in random order, all the same picture."""
    root.mkdir()
    picture.save(root / "0.png")
    for number in range(1, count):
        shutil.copy(root / "0.png", root / f"{number}.png")
    numbers = np.random.default_rng(0).permutation(count)
    paths = [f"{number}.png" for number in numbers]
    columns = {
        "image_id": paths,
        "path": paths,
        "group_id": [str(number // 2) for number in numbers],
        "label:Mass": np.float32(numbers % 2),
    }
    return Source(["Mass"], "multilabel", pd.DataFrame(columns), count, [])


def settings(root, size, channels):
    options = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": 0, "max_quarantined": 0.0, "workers": 2}
    return Data(
        format="csv", root=root, split="patient", image_size=size, channels=channels, fit="pad", splits=root, **options
    )


def test_pixels_do_not_wait_in_memory(tmp_path, make_picture, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 32)
    monkeypatch.setattr("medistill.data.ingest.SHARD", 128)
    few, many, frame = 400, 1600, 96 * 96 * 3
    peaks = []
    for count in (64, few, many):  # the first run only warms up imports
        source = shuffled(tmp_path / f"{count}", make_picture(1), count)
        tracemalloc.start()
        with ThreadPoolExecutor(2) as executor:  # tracemalloc does not see the memory of processes
            data = settings(tmp_path / f"{count}", 96, 3)
            ingest(data, tmp_path / "out", tmp_path / "cache", executor=executor, source=source)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] > 128 * frame  # at least one shard: pixels are traced at all
    assert (peaks[2] - peaks[1]) / (many - few) < frame / 8


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shard_takes_its_frames_from_few_blocks_whatever_the_order_of_the_table(
    tmp_path, make_picture, monkeypatch, workers
):
    monkeypatch.setattr(cache, "BLOCK", 10)
    source = shuffled(tmp_path / "root", make_picture(1), 100)
    data = settings(tmp_path / "root", 32, 1).model_copy(update={"workers": workers})
    ingest(data, tmp_path / "out", tmp_path / "cache", source=source)
    blocks = [read_record(index)["images"] for index in (tmp_path / "cache").rglob("index.json")]
    ids = sorted([key.split(":")[0] for key, _, _ in block] for block in blocks)
    ordered = sorted(source.rows["image_id"])
    assert ids == [ordered[start : start + 10] for start in range(0, 100, 10)]
