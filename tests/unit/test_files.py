"""A reader sees the old file or the new one, never a part of it; a failure to write is one line."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from medistill.errors import UserError
from medistill.files import (
    atomic,
    locked,
    read_json,
    read_regular,
    write_array,
    write_json,
)

BLOCK = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8)


def test_a_file_and_a_folder_replace_what_was_there(tmp_path):
    for text in ("old", "new"):
        with atomic(tmp_path / "a" / "file") as temporary:
            temporary.write_text(text)
        with atomic(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert (tmp_path / "a" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]


def test_a_failure_leaves_the_old_one_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")

    def fail(name, write):
        with atomic(tmp_path / name) as temporary:
            write(temporary)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail("file", lambda path: path.write_text("half"))
    with pytest.raises(RuntimeError):
        fail("folder", lambda path: path.mkdir())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


KILLED = "import os, signal, sys; from pathlib import Path; from medistill.files import atomic\n"
KILLED += "with atomic(Path(sys.argv[1])) as temporary:\n    {}\n    os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "write", ["temporary.mkdir(); (temporary / 'x').write_text('half')", "temporary.write_text('')"]
)
def test_what_a_killed_writer_has_left_is_gone_when_its_path_is_written_again_and_nothing_else(tmp_path, write):
    for name in ("a", "a.b"):
        subprocess.run([sys.executable, "-c", KILLED.format(write), str(tmp_path / name)])
    (tmp_path / ".a.notes.tmp").write_text("a user's own")
    assert len(list(tmp_path.iterdir())) == 3
    with atomic(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [names[0][:5], *names[1:]] == [".a.b.", ".a.notes.tmp", "a"]


def test_what_a_writer_is_still_at_work_on_stays(tmp_path):
    with atomic(tmp_path / "a") as one:
        one.write_text("first")
        with atomic(tmp_path / "a") as other:  # another thread or process would do the same
            other.write_text("second")
        assert (tmp_path / "a").read_text() == "second"
        assert one.read_text() == "first"
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_many_writers_of_one_file_never_remove_what_another_writes(tmp_path):
    failures = []

    def write(number):
        try:
            for _ in range(60):
                with atomic(tmp_path / "page") as temporary:
                    temporary.write_text(str(number) * 100)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert len(set((tmp_path / "page").read_text())) == 1


def save_to_file(path):
    with open(path, "wb") as file:
        torch.save({"a": torch.from_numpy(BLOCK)}, file)


WRITERS = {
    "text": lambda path, _: path.write_text("x" * 300_000),
    "numpy": lambda path, _: write_array(path, BLOCK),
    "npz": lambda path, _: np.savez(path, a=BLOCK),
    "torch": lambda path, _: save_to_file(path),
    "safetensors": lambda path, _: save_file({"a": torch.from_numpy(BLOCK)}, path),
    "parquet": lambda path, _: pd.DataFrame({"a": BLOCK}).to_parquet(path),
    "csv": lambda path, _: pd.DataFrame({"a": BLOCK}).to_csv(path),
    "png": lambda path, _: Image.fromarray(BLOCK.reshape(500, 600)).save(path, "png"),
    "copytree": lambda path, large: shutil.copytree(large, path),
}
"""All writers that stages use: each library has its own error for a failed write."""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    (folder / "file").write_bytes(BLOCK.tobytes())
    return folder


@pytest.fixture
def small_files(tmp_path):
    """A folder; meanwhile no file may be longer than 40,000 bytes (`ulimit -f`), and Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def require_one_line(folder, writer, large, reason):
    """The writer fails with one line that names folder, file and reason, and the older file stays alone."""
    (folder / "file").write_text("old")

    def write():
        with atomic(folder / "file") as temporary:
            writer(temporary, large)

    with pytest.raises(UserError) as error:
        write()
    assert str(error.value) == f"{folder}: file cannot be written: {reason}"
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_file_that_is_too_large_is_one_line_whichever_library_writes_it(small_files, large, writer):
    reason = "File too large; raise the limit (ulimit -f), or use a file system that allows larger files"
    require_one_line(small_files, writer, large, reason)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_one_line_whichever_library_writes_to_it(small_disk, large, writer):
    require_one_line(small_disk(96), writer, large, "No space left on device; make room and run it again")


def test_a_file_in_a_folder_is_named_as_it_will_lie(small_files):
    def write():
        with atomic(small_files / "models" / "net") as folder:
            folder.mkdir()
            write_json(folder / "metrics.json", ["x" * 50_000])

    with pytest.raises(UserError, match=rf"^{small_files}/models/net: metrics\.json cannot be written: File too large"):
        write()
    assert not list((small_files / "models").iterdir())


def test_a_file_system_that_is_read_only_is_one_line(small_disk):
    folder = small_disk(96)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    for path in (folder / "file", folder / "new" / "file"):
        with pytest.raises(UserError, match=r"file cannot be written: Read-only file system; make it writable, or"):
            write_json(path, 1)
        with (
            pytest.raises(UserError, match=r"lock cannot be written: Read-only file system; "),
            locked(path.with_name("lock"), taken=None),
        ):
            pass


def test_a_folder_without_permission_is_one_line(tmp_path):
    code = "import os, sys; from pathlib import Path\n"
    code += "from medistill import front_door; from medistill.files import write_json\n"
    code += "if os.geteuid() == 0: os.seteuid(65534)\n"  # root may write everywhere
    code += "front_door.run(lambda: write_json(Path(sys.argv[1]), 1))"
    (tmp_path / "out").mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out" / "file")], capture_output=True, text=True)
    reason = "Permission denied; change its permissions, or work in another folder"
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'out'}: file cannot be written: {reason}\n")


def test_names_that_the_system_does_not_take_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"xxx cannot be written: File name too long; use a shorter name"):
        write_json(tmp_path / ("x" * 300), 1)
    (tmp_path / "file").write_text("a user's own")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "a" / "b"):
        with pytest.raises(UserError, match=rf"{path.name} cannot be written: {tmp_path}/file is in the way; move it"):
            write_json(path, 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder cannot be written: Is a directory; a folder is where a file should"):
        write_json(tmp_path / "folder", 1)
    with (
        pytest.raises(UserError, match=r"file cannot be written: .*/file is in the way"),
        atomic(tmp_path / "file") as temporary,
    ):
        temporary.mkdir()
    assert (tmp_path / "file").read_text() == "a user's own"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_too_many_open_files_are_one_line(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[0] + 1, hard))
    try:
        with pytest.raises(UserError, match=r"file cannot be written: Too many open files; raise the limit"):
            write_json(tmp_path / "file", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(files[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EDQUOT, "make room and run it again"),
        (errno.EIO, "check the disk"),
        (errno.ESTALE, "check the network drive"),
    ],
)
def test_quotas_and_broken_disks_are_one_line(tmp_path, number, remedy):
    def refuse(path, _):
        raise OSError(number, os.strerror(number))

    require_one_line(tmp_path, refuse, None, f"{os.strerror(number)}; {remedy}")


def test_a_mistake_in_the_code_is_not_taken_for_one_of_the_system(tmp_path):
    for bug in (ValueError("wrong"), KeyError("File"), OSError("no number"), FileNotFoundError(errno.ENOENT, "gone")):
        with pytest.raises(type(bug)), atomic(tmp_path / "file"):
            raise bug


def test_an_unreadable_input_is_named_instead_of_the_output(tmp_path):
    with (
        pytest.raises(UserError, match=r"^/somewhere/else\.png: Permission denied; change its permissions"),
        atomic(tmp_path / "file"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else.png")


def test_an_array_is_written_as_numpy_does(tmp_path):
    for array in (
        *(np.zeros((3, 1, 4, 4), np.uint8), np.array(["aé", "b" * 50]), np.empty((0, 3), np.float16)),
        *(np.arange(12.0).reshape(3, 4)[:, ::2], np.asfortranarray(np.arange(6).reshape(2, 3))),
    ):
        write_array(tmp_path / "one.npy", array)
        np.save(tmp_path / "other.npy", np.ascontiguousarray(array))
        assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "other.npy").read_bytes()
        assert np.array_equal(np.load(tmp_path / "one.npy"), array)


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"é": 1})
    assert read_json(tmp_path / "a.json") == {"é": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == {"é": 1}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_json_with_signs_that_a_terminal_obeys_is_printable_and_comes_back_as_it_was(tmp_path):
    value = {"\x1b[31m": ["a\nb", "\u202e", "\x9b2J", "lone \ud83d", "whole \U0001f600", "Röntgen 胸部", "\x00\x7f"]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.replace("\n", "").isprintable()
    assert "Röntgen 胸部" in text
    assert "whole \U0001f600" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, r"nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', r"the key 'a' is there twice"),
        ('[{"a": NaN}]', r"NaN is not a number in JSON"),
        ("-Infinity", r"-Infinity is not a number in JSON"),
        ("1" * 5000, r"4300 digits"),
        (b'{"a": "\xff"}', r"can't decode byte"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"^{path}: not valid JSON \(.*{message}") as caught:
        read_json(path)
    assert len(str(caught.value)) < 400


def test_a_byte_order_mark_is_no_part_of_json(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]


def test_only_files_of_a_bounded_size_are_read(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_regular(file, limit=5) == b"12345"
    with pytest.raises(UserError, match=rf"^{file}: has 5 bytes; more than 4 are not read$"):
        read_regular(file, limit=4)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match=rf"^{other}: not a regular file$"):
            read_regular(other, limit=5)
    with pytest.raises(UserError, match=r"file/file: cannot be read: Not a directory$"):
        read_regular(file / "file", limit=5)


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
    file = tmp_path / "cache" / "lock"
    code = (
        f"from medistill.files import locked; from pathlib import Path; held = locked(Path({str(file)!r}), taken='x')"
    )
    code += "; held.__enter__(); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=f"process {other.pid} is here"),
            locked(file, taken="process {holder} is here"),
        ):
            pass
        other.kill()
    with locked(file, taken="process {holder} is here"):
        assert file.read_text() == str(os.getpid())
