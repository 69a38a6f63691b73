"""Errors that a user can mend."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A mistake in the user's input: one line that names the file, key or row and what to do.

    Both command lines print the message without a traceback and exit with 2.
    """


@contextlib.contextmanager
def at_key(key: str) -> Iterator[None]:
    """Say at which key of params.yaml a mistake is that is found within the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"params.yaml: {key}: {str(error).removeprefix('params.yaml: ')}") from None


# What PyTorch, its CPU allocator, cuBLAS and cuDNN say where memory runs out.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory has run out; PyTorch has no type of its own for it on a CPU."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)
