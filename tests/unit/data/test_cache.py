"""Decoding into the cache: what is reused, what is not, and what is left after a kill."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from medistill.data import cache
from medistill.data.cache import decode_all
from medistill.errors import UserError
from medistill.images.decode import decode
from medistill.images.frame import Framing

OPTIONS = {"size": 16, "channels": 1, "fit": "pad"}


@pytest.fixture
def folder(tmp_path, make_picture):
    """40 images, and their paths."""
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    paths = [f"images/{number:03d}.png" for number in range(40)]
    for number, path in enumerate(paths):
        make_picture(number).save(root / path)
    return root, paths


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 16)


def run(root, paths, tmp_path, workers=1, executor=None, check=lambda failures: None, **options):
    framing = Framing(**(OPTIONS | options))
    return decode_all(root, paths, tmp_path / "cache", framing, workers=workers, executor=executor, check=check)


def spoil(root, paths):
    """Make files undecodable but keep size and time, so that only the cache can give their pixels."""
    for path in paths:
        status = (root / path).stat()
        (root / path).write_bytes(b"x" * status.st_size)
        os.utime(root / path, ns=(status.st_atime_ns, status.st_mtime_ns))


def expected(root, paths, **options):
    return np.stack([decode(root / path, **(OPTIONS | options)) for path in paths])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_frames_are_those_of_decode_in_the_order_asked_for(folder, tmp_path, workers, channels):
    root, paths = folder
    frames = run(root, paths, tmp_path, workers, channels=channels)
    assert frames.failures == {}
    order = paths[::-3]
    assert np.array_equal(frames.gather(order), expected(root, order, channels=channels))
    assert (frames.places[paths[0]].width, frames.places[paths[0]].height) == (24, 24)


def test_a_second_run_decodes_nothing(folder, tmp_path):
    root, paths = folder
    truth = expected(root, paths)
    run(root, paths, tmp_path)
    spoil(root, paths)
    again = run(root, paths, tmp_path)
    assert again.failures == {}
    assert np.array_equal(again.gather(paths), truth)


def test_only_new_and_changed_images_are_decoded(folder, tmp_path, make_picture):
    root, paths = folder
    run(root, paths[5:], tmp_path)
    spoil(root, paths[5:])
    make_picture(900, size=30).save(root / paths[7])
    again = run(root, paths, tmp_path)
    assert again.failures == {}
    new = [*paths[:5], paths[7]]
    assert np.array_equal(again.gather(new), expected(root, new))


def test_a_file_rewritten_at_the_same_length_is_decoded_again(tmp_path, make_picture):
    root = tmp_path / "root"
    root.mkdir()
    make_picture(1).save(root / "a.bmp")
    before, length = run(root, ["a.bmp"], tmp_path).gather(["a.bmp"]), (root / "a.bmp").stat().st_size
    make_picture(2).save(root / "a.bmp")
    os.utime(root / "a.bmp", ns=(0, (root / "a.bmp").stat().st_mtime_ns + 1))
    assert (root / "a.bmp").stat().st_size == length
    after = run(root, ["a.bmp"], tmp_path).gather(["a.bmp"])
    assert np.array_equal(after, expected(root, ["a.bmp"]))
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("changed", [{"size": 20}, {"channels": 3}, {"fit": "crop"}])
def test_other_settings_use_nothing_of_the_cache(folder, tmp_path, changed):
    root, paths = folder
    run(root, paths, tmp_path)
    spoil(root, paths)
    assert len(run(root, paths, tmp_path, **changed).failures) == 40


def test_blocks_of_replaced_images_are_removed(folder, tmp_path, make_picture):
    root, paths = folder
    run(root, paths, tmp_path)
    for number, path in enumerate(paths):
        make_picture(1000 + number, size=30).save(root / path)
    frames = run(root, paths, tmp_path)
    (settings,) = (tmp_path / "cache").iterdir()
    assert set(settings.iterdir()) == {place.block for place in frames.places.values()}


@pytest.mark.parametrize("damage", ["index", "pixels", "pixel", "shape", "file"])
def test_a_damaged_block_is_decoded_again(folder, tmp_path, damage):
    root, paths = folder
    run(root, paths, tmp_path)
    (settings,) = (tmp_path / "cache").iterdir()
    block = min(settings.iterdir())
    if damage == "index":
        (block / "index.json").write_text('[["images/000.png')
    elif damage == "pixels":
        (block / "pixels.npy").write_bytes((block / "pixels.npy").read_bytes()[:-100])
    elif damage == "pixel":
        content = bytearray((block / "pixels.npy").read_bytes())
        content[-1] ^= 1
        (block / "pixels.npy").write_bytes(content)
    elif damage == "shape":
        np.save(block / "pixels.npy", np.zeros((3, 1, 16, 16), np.uint8))
    else:
        (settings / ".junk.tmp").write_text("half of something")
    frames = run(root, paths, tmp_path)
    assert np.array_equal(frames.gather(paths), expected(root, paths))
    assert not (settings / ".junk.tmp").exists()


def test_one_bad_file_does_not_stop_the_others(folder, tmp_path):
    root, paths = folder
    (root / paths[3]).write_text("not an image")
    (root / paths[20]).unlink()
    frames = run(root, paths, tmp_path)
    assert frames.failures == {
        paths[3]: "not an image, or in a format that is not read",
        paths[20]: "cannot be read: No such file or directory",
    }
    good = [path for path in paths if path not in frames.failures]
    assert np.array_equal(frames.gather(good), expected(root, good))


def test_check_sees_the_failures_and_may_stop_early(folder, tmp_path):
    root, paths = folder
    (root / paths[3]).write_text("not an image")
    seen = []

    def check(failures):
        seen.append(set(failures))
        if len(seen) == 2:
            raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        run(root, paths, tmp_path, check=check)
    assert seen == [{paths[3]}, {paths[3]}]  # the third block was not begun


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_decoded_before_a_kill_is_not_decoded_again(folder, tmp_path, workers):
    root, paths = folder
    truth = expected(root, paths)
    script = tmp_path / "ingest.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, signal
            from pathlib import Path
            from medistill.data import cache
            from medistill.images.frame import Framing

            blocks = []

            def check(failures):
                blocks.append(1)
                if len(blocks) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)

            if __name__ == "__main__":
                cache.BLOCK = 4
                cache.decode_all(Path({str(root)!r}), {paths!r}, Path({str(tmp_path / "cache")!r}),
                                 Framing(**{OPTIONS!r}), workers={workers}, check=check)
            """
        )
    )
    killed = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    spoil(root, paths[:8])
    frames = run(root, paths, tmp_path)
    assert frames.failures == {}
    assert np.array_equal(frames.gather(paths), truth)


def test_gathering_nothing_is_a_mistake(folder, tmp_path):
    root, paths = folder
    with pytest.raises(ValueError, match="no paths"):
        run(root, paths, tmp_path).gather([])


def test_images_of_all_shapes_share_a_block(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    Image.new("L", (10, 30), 255).save(root / "tall.png")
    Image.new("RGB", (30, 10), "white").save(root / "wide.png")
    frames = run(root, ["tall.png", "wide.png"], tmp_path)
    assert frames.places["tall.png"].height == 30
    assert np.array_equal(frames.gather(["wide.png"])[0, 0].T, frames.gather(["tall.png"])[0, 0])


@pytest.mark.parametrize("workers", [1, 3])
def test_any_executor_will_do_and_is_left_open(folder, tmp_path, workers):
    root, paths = folder
    truth = expected(root, paths)
    (root / paths[7]).write_bytes(b"")
    threads = set()

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments, **more):
            future = super().submit(*arguments, **more)
            future.add_done_callback(lambda _: threads.add(threading.current_thread().name))
            return future

    with Pool(2, thread_name_prefix="given") as executor:
        frames = run(root, paths, tmp_path, workers, executor=executor)
        assert executor.submit(int, "7").result() == 7
    assert frames.failures == {paths[7]: "the file is empty"}
    good = [path for path in paths if path != paths[7]]
    assert np.array_equal(frames.gather(good), np.delete(truth, 7, axis=0))
    assert any(name.startswith("given") for name in threads)


def test_a_process_that_dies_is_one_line(folder, tmp_path):
    root, paths = folder
    executor = ProcessPoolExecutor(1, initializer=os._exit, initargs=(1,))
    with executor, pytest.raises(UserError, match="a decoding process died"):
        run(root, paths, tmp_path, executor=executor)
