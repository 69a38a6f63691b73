"""A reader sees the old file or the new one, never a part."""

import os
import subprocess
import sys

import pytest

from medistill.errors import UserError
from medistill.files import atomic, locked, read_json, read_regular, remove_leftovers, write_json


def test_a_file_and_a_folder_replace_what_was_there(tmp_path):
    for text in ("old", "new"):
        with atomic(tmp_path / "a" / "file") as temporary:
            temporary.write_text(text)
        with atomic(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert (tmp_path / "a" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]


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


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    code = "import os, signal, sys; from pathlib import Path; from medistill.files import atomic\n"
    code += "with atomic(Path(sys.argv[1])) as folder: folder.mkdir(); os.kill(os.getpid(), signal.SIGKILL)"
    for name in ("a", "a.b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)])
    (tmp_path / "a").write_text("whole")
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path / "a")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[1:] == ["a"]
    assert names[0].startswith(".a.b.")


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
        ('[{"a": NaN}]', r"NaN is no number of JSON"),
        ("-Infinity", r"-Infinity is no number of JSON"),
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
