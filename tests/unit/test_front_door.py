"""How every command ends."""

import subprocess
import sys
from pathlib import Path

import pytest

import medistill


def run(code: str) -> subprocess.CompletedProcess:
    code = f"from medistill import front_door\nfrom medistill.errors import UserError\ndef command():\n    {code}\n"
    return subprocess.run(
        [sys.executable, "-c", f"{code}\nfront_door.run(command)"], capture_output=True, text=True, check=False
    )


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


def test_whoever_imports_any_part_of_medistill_reports_home_no_more_and_a_users_own_setting_stays():
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
