"""What `export` writes beside the network: parity.json, latency.json, and bundle.json as its writer knows it."""

from medistill.records.base import Plain, Record


class Parity(Plain):
    """parity.json: how far the logits of ONNX Runtime are from torch's.

    Attributes:
        images: how many were compared.
        max_abs_logit_difference: over these images and all labels; None where it is not finite.
        largest_logit: torch's largest, absolute.
        limit: how large the difference may be.
        passed: whether it is within the limit.
    """

    images: int
    max_abs_logit_difference: float | None
    largest_logit: float | None
    limit: float
    passed: bool


class Latency(Record):
    """latency.json: how long one prediction took, from decoded pixels to logits.

    Attributes:
        runtime, version: what ran the network.
        cpu: model name of the processor.
        threads: of the runtime.
        batch: images at once.
        runs: predictions that were timed.
        p50_ms, p95_ms: percentiles in milliseconds.
        onnx_mb: size of the ONNX file in 10^6 bytes.
    """

    runtime: str
    version: str
    cpu: str
    threads: int
    batch: int
    runs: int
    p50_ms: float
    p95_ms: float
    onnx_mb: float


class Exportable(Record):
    """That a network can be exported; what was asked of it stands beside and is in the file's name.

    Attributes:
        batch_size: how many images its file takes at once: 1, or None for any number.
    """

    batch_size: int | None
