"""How long one prediction takes, and how large the file is."""

import platform
import time
from pathlib import Path

import numpy as np
import onnxruntime

from medistill.records.export import Latency
from medistill.runtime.session import open_session, run

WARM_UP = 5
"""Predictions that are not counted: the first ones allocate memory."""


def measure_latency(model: Path, image: np.ndarray, *, runs: int, threads: int) -> Latency:
    """Time ONNX Runtime on one image, from decoded pixels to logits, on this machine's CPU.

    Args:
        model: an ONNX file.
        image: uint8 (C, S, S).
        runs: predictions that are timed, after `WARM_UP` that are not.
        threads: threads of ONNX Runtime.
    """
    session = open_session(model.read_bytes(), name=str(model), threads=threads)
    batch = image[None]
    for _ in range(WARM_UP):
        run(session, batch)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run(session, batch)
        seconds.append(time.perf_counter() - start)
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return Latency(
        runtime="onnxruntime",
        version=onnxruntime.__version__,
        cpu=cpu_name(),
        threads=threads,
        batch=1,
        runs=runs,
        p50_ms=round(float(p50), 4),
        p95_ms=round(float(p95), 4),
        onnx_mb=model.stat().st_size / 1e6,
    )


def cpu_name() -> str:
    """The processor's model name, or its architecture if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())
