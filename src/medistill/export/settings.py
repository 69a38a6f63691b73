"""The section `export` of params.yaml."""

from pydantic import Field

from medistill.settings import Settings


class Export(Settings):
    """ONNX export."""

    opset: int = Field(default=18, ge=18, le=99)
    parity_images: int = Field(default=32, ge=1)
    """Real images on which ONNX Runtime and torch are compared."""
    latency_runs: int = Field(default=50, ge=5, le=100_000)
    """Times that one image is answered while latency is measured."""
    threads: int = Field(default=1, ge=1, le=256)
    """Threads of ONNX Runtime while latency is measured."""
