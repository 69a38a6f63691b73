"""A whole training: build the network, fit it, write its folder; resumable until the folder stands."""

import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from medistill.checksums import require_whole
from medistill.data import provenance
from medistill.data.dataset import Dataset, label_columns
from medistill.distillation.settings import Teacher
from medistill.errors import UserError
from medistill.files import atomic, read_json, sha256
from medistill.models.build import create_classifier, start_at_prevalence
from medistill.models.classifier import Classifier, map_size
from medistill.models.settings import Network
from medistill.models.weights import read_beside
from medistill.params import Params
from medistill.training.checkpoint import Checkpoint, fingerprint
from medistill.training.outputs import write_outputs
from medistill.training.processes import this_process
from medistill.training.settings import TrainedNetwork
from medistill.training.trainer import Fit, Objective, fit, steps_per_epoch, training_rows


def train(
    folder: Path,
    network: TrainedNetwork,
    dataset: Dataset,
    objective_for: Callable[[Classifier], Objective],
    params: Params,
    *,
    facts: dict[str, Any],
    seed: int,
    view_seed: int,
    views: int | None,
    unlabelled: bool = False,
    whole_frames: bool = False,
    knowledge: Sequence[str] = (),
    inherited: Sequence[provenance.TrainIds] = (),
    code: Sequence[Path] = (),
    checkpoints: Path = Path(".checkpoints"),
    on_step: Callable[[dict[str, Any]], None] = lambda report: None,
) -> Fit:
    """Train `network` and write its folder; what this very training has written before is written again.

    Args:
        folder: the model's folder, replaced as a whole at the end.
        objective_for: builds the objective for the network that it will train.
        facts: what config.json says beyond architecture and data; needs `name`.
        seed: initialisation, order of images, dropout.
        view_seed: seed of the augmented views.
        views: number of views in turn; None: a new one each epoch.
        unlabelled, whole_frames: as for `fit`.
        knowledge: checksums of the teachers' answers, part of the training's identity.
        inherited: what the teachers were trained on.
        code: files besides this package's that decide the training, part of its identity.
        checkpoints: states of unfinished trainings, which are resumed, and copies of what was trained last.
        on_step: as for `fit`; called in the first of several processes only.

    Returns:
        How the training went.

    Raises:
        UserError: the network cannot be built, its loss is not finite, or its initial weights were trained on images
            or groups of the val or test side.
    """
    seen = [provenance.ids_of(dataset, "train"), *inherited, *_seen_by(network, dataset)]
    training = network.training_on(params.training)
    weights = sha256(network.weights)
    settings = {
        "network": network.model_dump(mode="json"),
        "training": training.model_dump(),
        "augmentation": params.augmentation.model_dump(),
    }
    identity = fingerprint(
        {
            **settings,
            "weights": weights,
            "facts": facts,
            "seed": seed,
            "views": [view_seed, views, unlabelled, whole_frames],
            "dataset": dataset.fingerprint,
            "knowledge": list(knowledge),
        },
        code,
    )
    first = this_process().is_main_process  # of those that train together, one shows and writes
    checkpoint = Checkpoint(checkpoints / facts["role"] / facts["name"], identity)
    if done := _finished(checkpoint.finished, identity):
        if first:
            checkpoint.remove_states()  # a kill may have come before
            with atomic(folder) as temporary:
                shutil.copytree(checkpoint.finished, temporary)
            again = f"to do it again delete {checkpoint.finished.parent}"
            print(f"{facts['name']}: trained before, by these settings, data and code; {again}")
        return done
    torch.manual_seed(seed)  # initialisation
    model = create_classifier(network, labels=dataset.labels, image_size=dataset.image_size)
    map_size(model, dataset.image_size)  # what cannot be explained later is refused now
    rows = training_rows(dataset, unlabelled)
    if model.new_head:  # a random backbone learns faster from timm's large classifier
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a label that is nowhere known has no mean
            prevalence = np.nanmean(dataset.targets(rows), axis=0)
        start_at_prevalence(model, np.nan_to_num(prevalence, nan=0.5), exclusive=dataset.task.exclusive)
    images = len(rows)
    total = training.epochs * steps_per_epoch(images, training.batch_size) * min(images, training.batch_size)
    with tqdm(total=total, unit="img", desc=facts["name"], disable=None if first else True) as bar:

        def show(report: dict[str, Any]) -> None:
            if first:
                on_step(report)
            if bar.n == 0:  # what an interrupted training has done says nothing about this one's rate
                bar.initial = bar.n = bar.last_print_n = (report["step"] - 1) * report["images"]
            bar.update(report["step"] * report["images"] - bar.n)
            bar.set_postfix_str(f"epoch {report['epoch']}/{training.epochs}, loss {report['loss']:.3f}", refresh=False)

        result = fit(
            model,
            dataset,
            objective_for(model),
            training,
            params.augmentation,
            seed=seed,
            view_seed=view_seed,
            views=views,
            unlabelled=unlabelled,
            whole_frames=whole_frames,
            checkpoint=checkpoint,
            on_step=show,
        )
    facts = {**facts, **settings, "fingerprint": identity, "weights_sha256": weights}
    if first:
        write_outputs(folder, model, dataset, result, facts, seen, batch_size=2 * training.batch_size)
        checkpoint.finish(folder)
    return result


def _finished(folder: Path, identity: str) -> Fit | None:
    """How the training of this identity went, where a copy of its model is in `folder`, whole."""
    if not folder.is_dir():
        return None
    try:
        config = require_whole(folder / "config.json", again="the model is trained again")
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)
        return None
    if config["fingerprint"] != identity:
        return None
    measured, history = read_json(folder / "metrics.json"), pd.read_csv(folder / "history.csv")
    return Fit(history, measured["best_epoch"], measured["val_macro_auroc"], measured["train_seconds"])


def adopt(folder: Path, network: Teacher, dataset: Dataset, *, facts: dict[str, Any], batch_size: int = 64) -> None:
    """Write the folder of a teacher that is taken as it is, with what it answers about val and test.

    Args:
        folder: the model's folder, replaced as a whole.
        network: its architecture, the file of its weights, and the labels of its outputs, in their order; None: those
            of config.json beside the weights, else the data set's.
        facts: what config.json says beyond architecture and data; needs `role` and `name`.
        batch_size: images that it answers at once.

    Raises:
        UserError: the weights are missing, do not fit, were trained at another size or normalisation, or on images or
            groups of the val or test side; or none of the labels is the data set's.
    """
    seen = _seen_by(network, dataset)
    model = as_it_is(network, dataset)
    weights, labels = sha256(network.weights), model.config["labels"]
    about = {"network": network.model_dump(mode="json"), "weights": weights, "labels": labels, "facts": facts}
    facts = {**facts, "fingerprint": fingerprint(about), "network": about["network"], "weights_sha256": weights}
    write_outputs(folder, model, dataset, None, facts, seen, batch_size=batch_size)


def as_it_is(network: Teacher, dataset: Dataset) -> Classifier:
    """A teacher with its own weights and labels, in evaluation mode.

    Raises:
        UserError: as for `adopt`, but for what it was trained on.
    """
    beside = read_beside(network.weights)
    labels = labels_of(network, dataset)
    label_columns(labels, dataset.labels, "labels")
    arch = str(beside.get("arch") or network.arch)
    if arch.split(".")[0] != network.arch.split(".")[0]:  # some networks have another's tensors, and answer otherwise
        raise UserError(f"{network.weights}: config.json beside it says that it is of {arch}; set arch: {arch}")
    if network.input_size is None:  # who types a size may want another
        _require_same(network, "input_size", beside.get("input_size") or beside.get("image_size"), dataset.image_size)
    model = create_classifier(network, labels=labels, image_size=dataset.image_size).eval()
    for key in ("args", "mean", "std"):
        _require_same(network, key, beside.get(key), model.config[key])
    if beside.get("task", dataset.task) != dataset.task:
        raise UserError(
            f"{network.weights}: config.json beside it says that it was trained for a {beside['task']} task, and this"
            f" data set's is {dataset.task}: its answers mean something else; take another teacher"
        )
    map_size(model, dataset.image_size)
    return model


def labels_of(network: Network, dataset: Dataset) -> list[str]:
    """Of a network's outputs, in their order: a frozen teacher has its own, all others have the data set's."""
    if not getattr(network, "frozen", False):
        return dataset.labels
    return list(network.labels or read_beside(network.weights).get("labels") or dataset.labels)


def _require_same(network: Network, key: str, there: Any, here: Any) -> None:
    """Refuse to build or ask a network otherwise than it was trained: it would answer all the same, and worse."""
    if there is not None and there != here:
        raise UserError(
            f"{network.weights}: config.json beside it says that it was trained with {key} {there}, not {here};"
            f" set {key}: {there} beside arch"
        )


def _seen_by(network: Network, dataset: Dataset) -> list[provenance.TrainIds]:
    """What a user's own weights were trained on, where the file beside them says so."""
    file = network.weights and network.weights.parent / provenance.FILE
    return [provenance.refuse_overlap(file, dataset)] if file and file.exists() else []
