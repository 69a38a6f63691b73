"""What is said of a file that is no picture, or none that is read."""

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
        """Exceptions with two arguments must say how they travel between processes."""
        return ImageError, (self.path, self.reason)


class Refused(Exception):
    """Raised by a decoder for a file that it does not even try; the message is the reason."""
