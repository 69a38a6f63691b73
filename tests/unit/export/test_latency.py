import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from medistill.export.latency import cpu_name, measure_latency, without_maps
from medistill.runtime.session import open_session, run


def test_it_says_what_was_measured_how_and_where(exported, images):
    start = time.perf_counter()
    latency = measure_latency(exported / "model.onnx", images[0], runs=21, threads=1)
    elapsed = 1000 * (time.perf_counter() - start)
    assert latency.runtime == "onnxruntime"
    assert latency.version == onnxruntime.__version__
    assert latency.cpu == cpu_name()
    assert (latency.threads, latency.batch, latency.runs) == (1, 1, 21)
    assert 0 < latency.p50_ms <= latency.p95_ms
    assert 0 < latency.p50_ms_without_maps <= latency.p95_ms_without_maps
    # 11 of 21 runs took at least the median, 2 at least the 95th percentile (the 20th of 21).
    assert 9 * latency.p50_ms + 2 * latency.p95_ms <= elapsed
    assert latency.onnx_mb == (exported / "model.onnx").stat().st_size / 1_000_000


def test_without_maps_the_logits_are_the_same_and_the_products_of_maps_are_gone(exported, images):
    content = (exported / "model.onnx").read_bytes()
    sessions = [open_session(one, name="model") for one in (content, without_maps(content))]
    assert [[*session.outputs] for session in sessions] == [
        ["logits", "probabilities", "saliency_map", "saliency_max"],
        ["logits", "probabilities"],
    ]
    np.testing.assert_allclose(*(run(session, images) for session in sessions), rtol=0, atol=1e-5)


def test_the_processor_has_a_name():
    info = Path("/proc/cpuinfo")
    if not (info.is_file() and "model name" in info.read_text()):
        pytest.skip("this system does not tell its processor's name")
    assert cpu_name() in info.read_text()
    assert len(cpu_name()) > 2
