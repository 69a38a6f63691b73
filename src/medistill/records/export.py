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


class Checked(Content):
    """How far an output is from what the network gives.

    Attributes:
        difference: the largest over images and labels: of probabilities as they are, of maps as a share of the label's
            largest value before the ReLU, of scores as a share of 1 or of the score if that is more; None where it is
            not finite, or the file does not give it.
        limit: how large it may be.
        zero_maps: of maps, how many are zero everywhere.
    """

    difference: float | None
    limit: float
    zero_maps: int | None = None

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit."""
        return self.difference is not None and self.difference <= self.limit


class Parity(Plain):
    """parity.json: how far the answers of ONNX Runtime are from torch's.

    Attributes:
        images: how many were compared.
        max_abs_logit_difference: over these images and all labels; None where it is not finite.
        largest_logit: torch's largest, absolute.
        limit: how large the difference of logits may be.
        outputs: what else was compared: outputs by name, and the AUROC of the label that differs most by its limit.
        passed: whether logits and all outputs are within their limits, see `export.tolerance`.
        maps: of model.explain.onnx; None of a network that cannot have it.
    """

    images: int
    max_abs_logit_difference: float | None
    largest_logit: float | None
    limit: float
    outputs: dict[str, Checked] = {}
    passed: bool
    maps: MapParity | None = None


class Latency(Record):
    """latency.json: how long one prediction took, from decoded pixels to all outputs.

    Attributes:
        runtime, version: what ran the network.
        cpu: model name of the processor.
        threads: of the runtime.
        batch: images at once.
        runs: predictions that were timed.
        p50_ms, p95_ms: percentiles in milliseconds.
        p50_ms_without_maps, p95_ms_without_maps: of the same graph without maps; None where it has none.
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
    p50_ms_without_maps: float | None = None
    p95_ms_without_maps: float | None = None
    onnx_mb: float


class Exportable(Record):
    """That a network can be exported; what was asked of it stands beside and is in the file's name.

    Attributes:
        batch_size: how many images its file takes at once: 1, or None for any number.
    """

    batch_size: int | None
