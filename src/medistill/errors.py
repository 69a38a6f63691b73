"""Errors that a user can mend."""

import contextlib
import errno
import os
from collections.abc import Iterator


class UserError(Exception):
    """A mistake in the user's input: one line that names the file, key or row and what to do.

    Both command lines print the message without a traceback and exit with 2.
    """


@contextlib.contextmanager
def at_key(key: str) -> Iterator[None]:
    """Name the key of params.yaml in errors raised within the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"params.yaml: {key}: {str(error).removeprefix('params.yaml: ')}") from None


# Messages of PyTorch, its CPU allocator, cuBLAS and cuDNN when memory runs out.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory has run out; PyTorch has no type of its own for it on a CPU."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


_REMEDIES = {
    errno.ENOSPC: "make room and run it again",
    errno.EDQUOT: "make room and run it again",
    errno.EFBIG: "raise the limit (ulimit -f), or use a file system that allows larger files",
    errno.EROFS: "make it writable, or work in another folder",
    errno.EACCES: "change its permissions, or work in another folder",
    errno.EPERM: "change its permissions, or work in another folder",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.ENFILE: "end other programs",
    errno.ENOTDIR: "a file is where a folder should be; move it away",
    errno.EEXIST: "a file is where a folder should be; move it away",
    errno.EISDIR: "a folder is where a file should be; move it away",
    errno.ELOOP: "a symbolic link leads back to itself; remove it",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network drive",
}
"""What a user can do about an error of the system, by error number."""


def system_error(error: BaseException | None) -> OSError | None:
    """The system's error behind an exception if a user can mend it, else None.

    Libraries pass it on in different ways: safetensors and shutil as text, torch as the cause of another error.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error if error.errno in _REMEDIES else None
        for number in _REMEDIES:
            if os.strerror(number) in str(error):
                return OSError(number, os.strerror(number))
        error = error.__cause__ or error.__context__
    return None


def remedy(error: OSError) -> str:
    """The system's message, and what to do: `No space left on device; make room and run it again`."""
    assert error.errno is not None  # of a `system_error`
    return f"{os.strerror(error.errno)}; {_REMEDIES[error.errno]}"
