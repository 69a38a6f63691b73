"""What `export` writes beside the network: parity.json, latency.json, and bundle.json as its writer knows it."""

from medistill.records.base import Content, Plain, Record


class MapParity(Content):
    """How far heat maps of model.explain.onnx are from those of autograd, as shares of a map's peak.

    Attributes:
        images: how many were compared, by one label each.
        median_difference, largest_difference: over images, each image's largest over cells; None where not finite.
        empty: images on which autograd's map is zero everywhere.
        passed: whether both are within their limits.
    """

    images: int
    median_difference: float | None
    largest_difference: float | None
    empty: int
    passed: bool


class Parity(Plain):
    """parity.json: how far the answers of ONNX Runtime are from torch's.

    Attributes:
        images: how many were compared.
        max_abs_logit_difference: over these images and all labels; None where it is not finite.
        largest_logit: torch's largest, absolute.
        limit: how large the difference of logits may be.
        max_abs_probability_difference: of calibrated probabilities; None where it is not finite.
        has_maps: whether the file gives maps.
        max_relative_map_difference: of maps from Grad-CAM by autograd, as a share of each map's largest value; None
            where it is not finite, or there are no maps.
        empty_maps: how many of the maps are 0 everywhere, and must be; None: there are no maps.
        max_relative_unlike_difference: of the scores of `unlike`, as a share of them, or of 1 if that is more; None
            where it is not finite, or there are none.
        passed: whether all these differences are within their limits, see `export.tolerance`.
        maps: of model.explain.onnx; None of a network that cannot have it.
    """

    images: int
    max_abs_logit_difference: float | None
    largest_logit: float | None
    limit: float
    max_abs_probability_difference: float | None
    has_maps: bool
    max_relative_map_difference: float | None
    empty_maps: int | None
    max_relative_unlike_difference: float | None
    passed: bool
    maps: MapParity | None = None


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
