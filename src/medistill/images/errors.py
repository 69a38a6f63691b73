"""Errors about files that are not pictures, or are of a kind that is not read."""

from pathlib import Path


class ImageError(ValueError):
    """A file that cannot be decoded.

    Attributes:
        path: the file.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Path, str]]:
        """How to pickle this exception, which has two arguments, for another process."""
        return ImageError, (self.path, self.reason)


class Refused(Exception):
    """Raised by a decoder for a file that it will not decode; the message is the reason."""
