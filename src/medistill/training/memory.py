"""Advice when memory runs out."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from medistill.data.dataset import Dataset
from medistill.errors import UserError, is_out_of_memory


class SeesImages(Protocol):
    """A network that may have a size of its own.

    Attributes:
        input_size: height and width that it sees; None: those of its images.
    """

    @property
    def input_size(self) -> int | None: ...  # noqa: D102  (the attribute is told above)


@contextlib.contextmanager
def explain_out_of_memory(model: SeesImages, dataset: Dataset, batch_size: str = "") -> Iterator[None]:
    """Turn an out-of-memory error into advice on what to lower, and a batch too small for batch norm likewise.

    Args:
        model: the advice is to lower its `input_size`, or without one the data set's image size.
        dataset: its data.
        batch_size: the other setting, with its value: `training.batch_size lower than 16`.

    Raises:
        UserError: memory has run out, or batch norm has met a single image.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "batch norm needs at least two images per batch; raise training.batch_size, or use more images"
        ) from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = f"data.image_size lower than {dataset.image_size}"
        if model.input_size is not None:
            size = f"input_size lower than {model.input_size}"
        raise UserError(f"out of memory; set {' or '.join(filter(None, (batch_size, size)))}") from None
