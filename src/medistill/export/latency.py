"""How long one prediction takes, and how large the file is."""

import platform
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from medistill.records.export import Latency
from medistill.runtime.bundle import LARGEST, MAPS
from medistill.runtime.session import open_session, run_all

WARM_UP = 5
"""Predictions that are not counted: the first ones allocate memory."""


def measure_latency(model: Path, image: np.ndarray, *, runs: int, threads: int) -> Latency:
    """Time ONNX Runtime on one image, from decoded pixels to all outputs, on this machine's CPU.

    A graph with maps is also timed without them, in turn with the whole, so that both see the same machine.

    Args:
        model: an ONNX file.
        image: uint8 (C, S, S).
        runs: predictions that are timed, after `WARM_UP` that are not.
        threads: threads of ONNX Runtime.
    """
    content = model.read_bytes()
    session = open_session(content, name=str(model), threads=threads)
    sessions = [session]
    if MAPS in session.outputs:
        sessions.append(open_session(without_maps(content), name=str(model), threads=threads))
    batch, seconds = image[None], np.zeros((len(sessions), runs))
    for count in range(-WARM_UP, runs):
        for at, one in enumerate(sessions):
            start = time.perf_counter()
            run_all(one, batch, [*one.outputs])
            if count >= 0:
                seconds[at, count] = time.perf_counter() - start
    percentiles = [[round(float(p), 4) for p in np.percentile(own, [50, 95]) * 1000] for own in seconds]
    p50, p95 = percentiles[0]
    plain50, plain95 = percentiles[1] if len(percentiles) == 2 else (None, None)
    return Latency(
        runtime="onnxruntime",
        version=onnxruntime.__version__,
        cpu=cpu_name(),
        threads=threads,
        batch=1,
        runs=runs,
        p50_ms=p50,
        p95_ms=p95,
        p50_ms_without_maps=plain50,
        p95_ms_without_maps=plain95,
        onnx_mb=model.stat().st_size / 1e6,
    )


def without_maps(content: bytes) -> bytes:
    """An ONNX file without its maps: ONNX Runtime does not compute what leads to no output."""
    model = onnx.load_from_string(content)
    kept = [output for output in model.graph.output if output.name not in (MAPS, LARGEST)]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    written: bytes = model.SerializeToString()
    return written


def cpu_name() -> str:
    """The processor's model name, or its architecture if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())
