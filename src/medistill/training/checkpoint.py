"""Checkpoints that are resumed only by the very training that wrote them."""

import os
import shutil
import sys
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from medistill.checksums import reading
from medistill.errors import UserError
from medistill.files import atomic, digest, remove


class Best(TypedDict):
    """The best epoch so far, from 1 (0: none yet), its macro AUROC on validation, and the weights it ended with."""

    epoch: int
    auroc: float
    weights: dict[str, Tensor]


class TrainingState(TypedDict):
    """All that the next epoch depends on: what `torch.load` reads without pickle.

    Attributes:
        learner, optimizer, scaler: their own `state_dict()`; scaler: None where the precision needs none.
        history: one row per epoch, as in `TrainingResult`.
        best: the epoch that is kept if no better one comes.
        average: of the weights, None where there is none, as before the last stage.
        seconds: spent so far.
    """

    learner: dict[str, Tensor]
    optimizer: dict[str, object]
    history: list[dict[str, float]]
    best: Best
    average: dict[str, Tensor] | None
    scaler: dict[str, object] | None
    seconds: float


class Checkpoint:
    """The last state of one training, or its outcome, in a folder that is named after the training's fingerprint.

    A state's file is named after its checksum, which tells whether it is complete, and replaces the one before in one
    rename.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Use `folder/fingerprint/`; states of other fingerprints in `folder` are stale and not read."""
        self._folder, self._states = folder, folder / fingerprint
        self.finished = folder / fingerprint / "model"
        """Copy of the model's folder, once it is trained."""

    def save(self, state: TrainingState) -> None:
        """Write `state` (tensors, numbers, strings, lists and dicts) instead of the one before."""
        before = self._files()
        written = self._states / "last.pt"
        with atomic(written) as temporary, open(temporary, "wb") as opened:
            torch.save(state, opened)  # into an open file: by its name torch would not say that the disk is full
        whole = self._states / f"last-{digest(written)[:16]}.pt"
        os.replace(written, whole)
        for file in before:
            if file != whole:
                remove(file)

    def load(self) -> TrainingState | None:
        """The last state that is whole, or None where there is none; what is damaged is said, and replaced later."""
        for file in self._files():
            try:
                with reading(file, "the training goes on without it"):
                    if digest(file)[:16] != file.stem.removeprefix("last-"):
                        raise ValueError("its checksum is not the one in its name")
            except UserError as error:
                print(f"note: {error}", file=sys.stderr)
            else:
                state: TrainingState = torch.load(file, map_location="cpu", weights_only=True)
                return state
        return None

    def _files(self) -> list[Path]:
        """Existing states, the latest first: two if a kill came between writing and removing."""
        return sorted(self._states.glob("last-*.pt"), key=lambda file: -file.stat().st_mtime_ns)

    def finish(self, model: Path) -> None:
        """Keep a copy of the model's folder, instead of this training's states and all stale ones."""
        for other in self._folder.glob("*"):
            if other != self._states:
                remove(other)
        with atomic(self.finished) as temporary:
            shutil.copytree(model, temporary)
        self.remove_states()

    def remove_states(self) -> None:
        """The outcome of a finished training."""
        for file in self._files():
            remove(file)
