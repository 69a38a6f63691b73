"""A whole training: build the network, train it, write its folder; resumable until the folder stands."""

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.files import atomic, sha256
from medistill.layout import ModelFolder
from medistill.models.build import create_classifier, start_at_prevalence
from medistill.models.classifier import Classifier, feature_shape, map_shape
from medistill.records.models import ModelRecord, TrainingMetrics
from medistill.training.batches import batches_per_epoch, training_rows
from medistill.training.checkpoint import Checkpoint
from medistill.training.outputs import write_outputs
from medistill.training.processes import this_process
from medistill.training.spec import TrainingSpec
from medistill.training.trainer import Objective, StepReport, Trainer, TrainingResult


def train(
    folder: Path,
    spec: TrainingSpec,
    dataset: Dataset,
    objectives_for: Callable[[Classifier], Objective | Sequence[Objective]],
    *,
    answers: Sequence[str] = (),
    inherited: Sequence[provenance.TrainIds] = (),
    checkpoints: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> TrainingResult:
    """Train the network of `spec` and write the model's folder; a finished copy of the same training is reused.

    Args:
        folder: the model's folder, replaced as a whole at the end.
        spec: the training.
        dataset: what it trains on.
        objectives_for: builds the objective for the network that it will train, or one for each stage of its recipe.
        answers: checksums of the teachers' answers, part of the training's identity.
        inherited: hashes of what the teachers were trained on.
        checkpoints: folder of the states of unfinished trainings, which are resumed, and of copies of what was trained
            last.
        on_step: called after each step, in the first of several processes only.

    Returns:
        How the training went.

    Raises:
        UserError: the network cannot be built, its loss is not finite, or its initial weights were trained on images
            or groups of the val or test split.
    """
    seen = [provenance.ids_of(dataset, "train"), *inherited, *ids_of_weights(spec.network.file, dataset)]
    identity = spec.fingerprint(dataset, answers)
    facts = spec.facts() | {"fingerprint": identity, "weights_sha256": sha256(spec.network.file)}
    first = this_process().is_main_process  # only the first of several processes shows and writes
    checkpoint = Checkpoint(checkpoints / spec.role / spec.name, identity)
    if done := _finished(checkpoint.finished, identity):
        if first:
            checkpoint.remove_states()  # a kill may have come before
            with atomic(folder) as temporary:
                shutil.copytree(checkpoint.finished, temporary)
            again = f"to train again, delete {checkpoint.finished.parent}"
            print(f"{spec.name}: already trained with these settings, data and code; {again}")
        return done
    model = build(spec, dataset)
    with _progress(spec, dataset, on_step, shown=first) as show:
        trainer = Trainer(model, objectives_for(model), dataset, spec, checkpoint, on_step=show)
        result = trainer.fit()
    if first:
        write_outputs(folder, model, dataset, result, facts, seen, batch_size=2 * spec.training.batch_size)
        checkpoint.finish(folder)
    return result


def build(spec: TrainingSpec, dataset: Dataset) -> Classifier:
    """The network before its first step.

    Raises:
        UserError: it cannot be built, or a student's last features are not a map.
    """
    torch.manual_seed(spec.seed)
    model = create_classifier(spec.network, labels=dataset.labels, image_size=dataset.image_size)
    # A student that cannot be explained later is refused now; teachers need no map.
    (feature_shape if spec.teaches else map_shape)(model, dataset.image_size)
    if model.new_head:  # a random backbone learns faster from timm's large classifier
        rows = training_rows(dataset, spec.recipe.unlabelled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a label without known values has no mean
            prevalence = np.nanmean(dataset.targets(rows), axis=0)
        start_at_prevalence(model, np.nan_to_num(prevalence, nan=0.5), exclusive=dataset.task.exclusive)
    return model


def ids_of_weights(weights: Path | None, dataset: Dataset) -> list[provenance.TrainIds]:
    """Hashes of what a user's own weights were trained on, from the file beside them, if there is one.

    Raises:
        UserError: images or groups of the val or test split are among them.
    """
    file = weights and ModelFolder(weights.parent).train_ids
    return [provenance.refuse_overlap(file, dataset)] if file and file.exists() else []


@contextmanager
def _progress(
    spec: TrainingSpec, dataset: Dataset, on_step: Callable[[StepReport], None], *, shown: bool
) -> Iterator[Callable[[StepReport], None]]:
    """A progress bar of images; the yielded function advances it and calls `on_step`, if `shown`."""
    epochs, total = spec.training.epochs, 0
    for stage in spec.stages:
        images = len(training_rows(dataset, stage.recipe.unlabelled))
        total += stage.epochs * batches_per_epoch(dataset, spec) * min(images, spec.training.batch_size)
    with tqdm(total=total, unit="img", desc=spec.name, disable=None if shown else True) as bar:

        def show(report: StepReport) -> None:
            if shown:
                on_step(report)
            if bar.n == 0:  # steps before an interruption do not count for this run's rate
                bar.initial = bar.n = bar.last_print_n = (report["step"] - 1) * report["images"]
            bar.update(report["images"])
            bar.set_postfix_str(f"epoch {report['epoch']}/{epochs}, loss {report['loss']:.3f}", refresh=False)

        yield show


def _finished(folder: Path, identity: str) -> TrainingResult | None:
    """The outcome of the training of this identity, if a complete copy of its model is in `folder`."""
    if not folder.is_dir():
        return None
    files, again = ModelFolder(folder), "the model is trained again"
    try:
        config = ModelRecord.read_whole(files.config, again=again)
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)
        return None
    if config.fingerprint != identity:
        return None
    measured, history = TrainingMetrics.read(files.metrics, again), pd.read_csv(files.history)
    best, auroc, seconds = measured.best_epoch, measured.val_macro_auroc, measured.train_seconds
    if best is None or auroc is None or seconds is None:  # a training always measures them
        return None
    return TrainingResult(history, best, auroc, seconds)
