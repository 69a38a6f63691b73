"""Checkpoints that are resumed only by the very training that wrote them."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

import medistill
from medistill.errors import UserError
from medistill.files import atomic

_PACKAGE = Path(medistill.__file__).parent
_CODE = (
    *("models/*.py", "training/*.py", "distillation/*.py", "evaluation/bootstrap.py", "evaluation/metrics.py"),
    *("data/dataset.py", "data/provenance.py"),
)


def fingerprint(settings: dict[str, Any], code: Sequence[Path] = ()) -> str:
    """Hash of all that decides a training: `settings`, this package's training code, versions of torch and timm.

    Args:
        settings: JSON values: parameters and the fingerprints of data and teacher answers.
        code: files besides the package's own.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(f"{torch.__version__} {timm.__version__}".encode())
    for file in [*sorted(path for pattern in _CODE for path in _PACKAGE.glob(pattern)), *code]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Checkpoint:
    """The last state of one training, or its outcome, in a folder that is named after the training's fingerprint."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Use `folder/fingerprint/`; what is under other fingerprints in `folder` is stale and not read."""
        self._folder = folder
        self._file = folder / fingerprint / "last.pt"
        self.finished = folder / fingerprint / "model"
        """Copy of the model's folder, once it is trained."""

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` (tensors, numbers, strings, lists and dicts), replacing the last one atomically."""
        with atomic(self._file) as temporary:
            torch.save(state, temporary)

    def load(self) -> dict[str, Any] | None:
        """The last state, or None where there is none.

        Raises:
            UserError: the file is damaged.
        """
        if not self._file.is_file():
            return None
        try:
            return torch.load(self._file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, LookupError, pickle.UnpicklingError):
            raise UserError(f"{self._file}: damaged; delete it, and the training begins anew") from None

    def finish(self, model: Path) -> None:
        """Keep a copy of the model's folder, instead of this training's state and all stale ones."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with atomic(self.finished) as temporary:
            shutil.copytree(model, temporary)
