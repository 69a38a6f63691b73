"""How every command ends: its exit code and its last line."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import medistill


@pytest.fixture
def full() -> Iterator[IO[str]]:
    """A file that takes nothing, as on a full disk."""
    with open("/dev/full", "w") as file:
        yield file


def run(code: str, stdout=subprocess.PIPE, stderr=subprocess.PIPE) -> subprocess.CompletedProcess:
    code = f"from medistill import front_door\nfrom medistill.errors import UserError\ndef command():\n    {code}\n"
    command = [sys.executable, "-c", f"{code}\nfront_door.run(command)"]
    return subprocess.run(command, stdout=stdout, stderr=stderr, text=True, check=False)


@pytest.mark.parametrize(("code", "status"), [("return None", 0), ("return 0", 0), ("return 3", 3)])
def test_a_command_ends_with_its_own_code(code, status):
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_a_mistake_is_one_printable_line():
    done = run(r"raise UserError('a.csv: line 3: label \x1b[2J\nis \u202e unknown')")
    assert done.returncode == 2
    assert done.stderr == "error: a.csv: line 3: label \\x1b[2J\\nis \\u202e unknown\n"


def test_a_mistake_is_said_in_2000_characters_at_most():
    done = run("raise UserError('x' * 3_000_000)")
    assert done.returncode == 2
    assert len(done.stderr) == len("error: ") + 2000 + len("\n")


def test_an_interruption_is_no_traceback():
    done = run("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


FULL = "error: standard output: No space left on device; make room and run it again\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("code", ["print('short')", "print('long' * 10_000)", "print(1); raise SystemExit(0)"])
def test_an_output_that_is_full_is_one_line(full, code, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = run(code, stdout=full)
    assert (done.returncode, done.stderr) == (2, FULL)


@pytest.mark.parametrize("code", ["raise UserError('a')", "print('out'); raise UserError('a')"])
def test_a_mistake_is_said_though_the_output_is_full(full, code, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "")  # otherwise the first print would fail
    done = run(code, stdout=full)
    assert (done.returncode, done.stderr) == (2, "error: a\n")


def test_a_mistake_is_an_exit_code_where_nothing_can_be_said(full):
    assert run("raise UserError('a')", stderr=full).returncode == 2
    code = "import sys; sys.stdout = sys.stderr = None; print('nowhere')"  # as after `>&- 2>&-`
    assert (run(code).returncode, run(f"{code}; raise UserError('a')").returncode) == (0, 2)


def test_a_reader_that_leaves_is_no_mistake():
    reader, writer = os.pipe()
    os.close(reader)
    for code in ("print('short')", "print('long' * 100_000)"):
        done = run(code, stdout=writer)
        assert (done.returncode, done.stderr) == (1, "")
    os.close(writer)


def test_what_the_system_refuses_is_one_line_and_a_mistake_in_the_code_is_not():
    done = run("open('/nowhere/file')")
    assert (done.returncode, done.stderr) == (2, "error: /nowhere/file: No such file or directory\n")
    done = run("open('/tmp/' + 'x' * 300)")
    assert done.stderr.endswith("xxx: File name too long; use a shorter name\n")
    assert "Traceback" in run("raise OSError('who knows')").stderr
    assert "Traceback" in run("raise RuntimeError('a bug')").stderr


def test_help_into_a_full_output_is_one_line_too(full):
    command = [sys.executable, "-m", "medistill.cli", "--help"]
    done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, FULL)


def test_importing_medistill_turns_telemetry_off_but_keeps_a_users_setting():
    from medistill.telemetry import SWITCHES

    names = list(SWITCHES)
    code = f"import os, medistill.errors; print([os.environ[name] for name in {names}])"
    plain = {"PATH": "/usr/bin", "PYTHONPATH": str(Path(medistill.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain)
    assert done.stdout.strip() == str(list(SWITCHES.values()))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain | dict.fromkeys(names, "x")
    )
    assert done.stdout.strip() == str(["x"] * len(names))
