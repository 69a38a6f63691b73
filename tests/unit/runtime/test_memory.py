"""`medistill.runtime.memory` on files as Linux writes them, and `Predictor` with too little memory."""

import math

import numpy as np
import pytest
from PIL import Image

from medistill.runtime.memory import free_memory
from medistill.runtime.predictor import Predictor

MACHINE = "MemTotal:  8000000 kB\nMemFree:  100 kB\nMemAvailable:  3000000 kB\nSwapFree:  1000 kB\n"
FREE = 3_001_000 * 1024
NEW, OLD = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def write_group(folder, names, limit, used, stat="inactive_anon 5\n"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (*zip(names, (limit, used), strict=True), ("memory.stat", stat)):
        (folder / name).write_text(f"{value}\n")


@pytest.fixture
def machine(tmp_path):
    """A machine's root with 3 GB of memory free, and no control group."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(MACHINE)
    return tmp_path


def test_what_is_free_is_available_memory_and_swap(machine):
    assert free_memory(machine) == FREE
    (machine / "proc/meminfo").write_text("MemTotal:  8000000 kB\n")
    assert free_memory(machine) == math.inf


def test_without_proc_files_the_free_memory_is_unlimited(tmp_path):
    assert free_memory(tmp_path) == math.inf
    assert free_memory() > 10**7  # on this machine


@pytest.mark.parametrize("where", ["a/b", "a", "."])
def test_the_tightest_control_group_counts(machine, where):
    """A process is in the group `/a/b`, or in a container, which sees its own group as the root."""
    (machine / "proc/self/cgroup").write_text("0::/a/b\n")
    groups = machine / "sys/fs/cgroup"
    write_group(groups / where, NEW, 500_000_000, 400_000_000, "anon 7\ninactive_file 30000000\n")
    assert free_memory(machine) == 130_000_000
    write_group(groups / where, NEW, "max", 400_000_000)
    assert free_memory(machine) == FREE
    write_group(groups / where, NEW, 500_000_000, 600_000_000)
    assert free_memory(machine) == 0


def test_groups_of_version_one(machine):
    (machine / "proc/self/cgroup").write_text("9:name=systemd:/\n4:memory:/a:b\n2:cpu,cpuacct:/c\n0::/\n")
    folder = machine / "sys/fs/cgroup/memory/a:b"
    write_group(folder, OLD, 300_000_000, 100_000_000, "inactive_file 7\ntotal_inactive_file 1000\n")
    assert free_memory(machine) == 200_001_000
    write_group(folder, OLD, 2**63 - 4096, 100_000_000)  # no limit
    assert free_memory(machine) == FREE


def test_a_file_for_which_the_device_has_no_memory_is_named_and_the_others_are_predicted(
    make_bundle, grey, tmp_path, monkeypatch
):
    Image.fromarray(np.zeros((1000, 1000, 3), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr("medistill.runtime.predictor.free_memory", lambda: 5_000_000)
    predictor = Predictor(make_bundle())
    small, large = predictor.predict([grey(51), tmp_path / "large.png"])
    assert small.error is None
    assert large.error == "1000x1000 pixels take 0.01 GB to decode, but only 0.01 GB of memory are free"
    monkeypatch.setattr("medistill.runtime.predictor.free_memory", lambda: 9_000_000)
    (large,) = predictor.predict([tmp_path / "large.png"])
    assert large.error is None
