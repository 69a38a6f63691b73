"""One explicit training loop, the same for teachers, baselines and distilled students."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from scipy.special import log_softmax
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.errors import UserError, is_out_of_memory
from medistill.metrics.eligibility import ineligibility
from medistill.metrics.ranking import auroc
from medistill.models.classifier import Classifier
from medistill.training.checkpoint import Checkpoint
from medistill.training.processes import this_process
from medistill.training.settings import Training
from medistill.views import open_frames, read_ahead, render_plain, render_views, send, view_parameters


@dataclass(frozen=True)
class Batch:
    """What an objective sees of a batch besides the logits.

    Attributes:
        image_ids: N ids.
        view: number of the view that the network saw.
        targets: float32 (N, L); 1, 0, NaN where unknown.
        images: the view itself, float32 (N, C, H, W); the whole frame's where teachers are asked live.
        features: the network's last feature map (N, K, h, w), with its graph.
        class_maps: the network's signed Grad-CAM, float32 (N, M, h, w) with its graph, of labels int64 (N, M).
    """

    image_ids: list[str]
    view: int
    targets: Tensor
    images: Tensor | None = None
    features: Tensor | None = None
    class_maps: Callable[[Tensor], Tensor] | None = None


Objective = Callable[[Tensor, Batch], dict[str, Tensor]]
"""Logits (N, L) and their batch to named scalars; `loss` is the one that is minimised.

One that is a module with parameters, such as projections of features, is trained along.
"""


@dataclass(frozen=True)
class Fit:
    """Outcome of a training; the model holds the weights of the best epoch.

    Attributes:
        history: a row an epoch: `epoch`, `step`, `learning_rate`, `train_<term>`, `val_macro_auroc`,
            `images_per_second`.
        best_epoch: epoch (from 1) with the highest validation macro AUROC; the earliest of equals.
        val_macro_auroc: its macro AUROC over the labels that are eligible on validation.
        seconds: time spent training and validating, earlier attempts included.
    """

    history: pd.DataFrame
    best_epoch: int
    val_macro_auroc: float
    seconds: float


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`: a linear rise, then a half cosine towards 0."""
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of an epoch; an incomplete last one is left out, other images each epoch, unless it is the only one."""
    return max(1, images // batch_size)


def fit(
    model: Classifier,
    dataset: Dataset,
    objective: Objective,
    training: Training,
    augmentation: Augmentation,
    *,
    seed: int,
    view_seed: int,
    views: int | None,
    unlabelled: bool = False,
    whole_frames: bool = False,
    checkpoint: Checkpoint,
    on_step: Callable[[dict[str, Any]], None] = lambda report: None,
) -> Fit:
    """Train `model` on the training split and keep the weights of the epoch that is best on validation.

    A training that was interrupted goes on after its last finished epoch, with the same result as if it had not been:
    order, views and dropout of an epoch depend on seed and epoch only.

    Under `accelerate launch` each process trains on its part of every batch, `batch_size` being that of all together.
    Batch norm and losses that compare the images of a batch see a part alone, and each draws dropout of its own; all
    else is as with one process.

    Args:
        objective: loss of a batch.
        seed: order of images and dropout.
        view_seed: seed of the augmented views; the teachers' where their answers are used.
        views: epoch e shows view e mod `views`; None: a view of its own.
        unlabelled: train on images without any label, too: with teachers, who answer for all.
        whole_frames: draw views from whole frames although the network sees smaller ones: for teachers that are asked
            live and see larger ones.
        checkpoint: where the state after each epoch is kept.
        on_step: called after each step with `epoch`, `step`, `steps`, `images`, `loss`, `learning_rate`, and
            `val_macro_auroc`, a pair (epoch, value) for each epoch that has ended.

    Raises:
        UserError: the loss is NaN or infinite, memory runs out, the precision is not to be had here, or no label has
            both classes on validation.
    """
    accelerator = _accelerator(training)
    device, processes = accelerator.device, accelerator.num_processes
    if training.batch_size < processes:
        raise UserError(f"training.batch_size is {training.batch_size}, but {processes} processes share each batch")
    rows, val = training_rows(dataset, unlabelled), dataset.split("val")
    with say_what_to_lower(model, dataset):
        frames = open_frames(dataset, rows, None if whole_frames else model.input_size)
    targets = torch.from_numpy(dataset.targets(rows))
    image_ids = rows["image_id"].to_numpy()
    val_targets = dataset.targets(val)
    measured = measured_labels(val_targets, val["group_id"].to_numpy())
    if not len(measured):
        raise UserError(
            f"{dataset.folder / 'manifest.parquet'}: no label has both classes on val; raise data.val_fraction"
        )

    def read(whole: np.ndarray, view: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
        """Ids, targets, frames and what is drawn for them: this process's part of a batch."""
        chosen = whole[accelerator.process_index :: processes]
        ids = list(image_ids[chosen])
        drawn = torch.from_numpy(view_parameters(ids, view, view_seed, augmentation))
        return ids, *(send(values, device) for values in (targets[chosen], frames(chosen), drawn))

    memory = partial(say_what_to_lower, model, dataset, f"training.batch_size lower than {training.batch_size}")
    model.to(device, memory_format=torch.channels_last)
    exempt = getattr(model.backbone, "no_weight_decay", set)()  # by timm's own word, such as tables of positions
    exempt = [f"backbone.{name}" for name in exempt]
    groups = param_groups_weight_decay(model, training.weight_decay, no_weight_decay_list=exempt)
    # fused is a tenth faster on CPU, too
    along = objective.to(device) if isinstance(objective, nn.Module) else nn.Module()
    if list(along.parameters()):
        groups.append({"params": list(along.parameters()), "weight_decay": training.weight_decay})
    optimizer = accelerator.prepare(torch.optim.AdamW(groups, lr=training.learning_rate, fused=True))
    network = DistributedDataParallel(model) if processes > 1 else model
    batch_size = min(training.batch_size, len(rows))
    per_epoch = steps_per_epoch(len(rows), training.batch_size)
    steps = training.epochs * per_epoch

    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"epoch": 0, "auroc": -1.0, "weights": {}}
    average = _copy(model.backbone.state_dict()) if training.ema else None
    seconds = 0.0
    if state := checkpoint.load():
        model.backbone.load_state_dict(state["weights"])
        along.load_state_dict(state["along"])
        optimizer.load_state_dict(state["optimizer"])
        history, best, seconds, average = state["history"], state["best"], state["seconds"], state["average"]
        average = average and {name: value.to(device) for name, value in average.items()}
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])

    for epoch in range(len(history), training.epochs):
        if training.patience and epoch - best["epoch"] >= training.patience:
            break
        start = perf_counter()
        torch.manual_seed(seed * 1_000_003 + epoch + accelerator.process_index * 104_729)  # each its own dropout
        order = np.random.default_rng([seed, epoch]).permutation(len(rows))
        view = epoch if views is None else epoch % views
        sums: dict[str, float] = {}
        model.train()
        batches = [order[i * batch_size : (i + 1) * batch_size] for i in range(per_epoch)]
        # A GPU must not wait for the next batch; on a CPU a reader would only take a core from the network.
        turn = read_ahead if device.type == "cuda" else map
        for i, (ids, known, pixels, drawn) in enumerate(turn(partial(read, view=view), batches)):
            step = epoch * per_epoch + i
            learning_rate = training.learning_rate * learning_rate_factor(step, steps, training.warmup)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            batch = Batch(ids, view, known)
            with memory():
                images = render_views(pixels, drawn)
                with accelerator.autocast():
                    logits, features = network(images.contiguous(memory_format=torch.channels_last), with_map=True)
                maps = partial(model.class_maps, features, logits=logits)
                terms = objective(logits.float(), replace(batch, images=images, features=features, class_maps=maps))
                accelerator.backward(terms["loss"])
                values = torch.stack([value.detach().float() for value in terms.values()])
                for parameter in along.parameters():  # outside of the network, whose gradients are averaged already
                    parameter.grad = accelerator.reduce(parameter.grad, "mean")
                norm = accelerator.clip_grad_norm_([*model.parameters(), *along.parameters()], training.clip_norm)
                # But for maps and live teachers the one time in a step that a GPU is waited for: it has the whole
                # backward pass to do by now.
                reported = dict(zip(terms, accelerator.reduce(values, "mean").tolist(), strict=True))
                if not math.isfinite(reported["loss"]):
                    _refuse_loss(dict(zip(terms, values.tolist(), strict=True)), logits, batch, epoch + 1, i + 1)
                if accelerator.scaler is None and not math.isfinite(norm):  # a scaler tries again with a smaller scale
                    _refuse_gradient(reported, batch, epoch + 1, i + 1)
                optimizer.step()
                optimizer.zero_grad()
            if average is not None:
                _follow(average, model.backbone.state_dict(), min(training.ema, (1 + step) / (10 + step)))
            for name, value in reported.items():
                sums[name] = sums.get(name, 0.0) + value
            on_step(
                {
                    "epoch": epoch + 1,
                    "step": step + 1,
                    "steps": steps,
                    "images": batch_size,
                    "loss": reported["loss"],
                    "learning_rate": learning_rate,
                    "val_macro_auroc": [[row["epoch"], row["val_macro_auroc"]] for row in history],
                }
            )
        trained = perf_counter() - start
        trained_weights = None
        if average is not None:
            trained_weights = _copy(model.backbone.state_dict())
            model.backbone.load_state_dict(average)
        val_auroc = 0.0
        if accelerator.is_main_process:
            with memory():
                answers = predict(model, dataset, val, batch_size=2 * batch_size)
            _require_finite_answers(answers, val["image_id"], epoch + 1)
            if dataset.task.exclusive:  # a constant added to an image's logits says nothing, and would rank it
                answers = log_softmax(answers, axis=1)
            val_auroc = mean_auroc(val_targets, answers, measured)
        if processes > 1:  # batch norm has other statistics in each: all must agree on the best epoch, and on the end
            val_auroc = broadcast(torch.tensor(val_auroc, dtype=torch.float64, device=device)).item()
        seconds += perf_counter() - start
        history.append(
            {
                "epoch": epoch + 1,
                "step": (epoch + 1) * per_epoch,
                "learning_rate": learning_rate,
                **{f"train_{name}": value / per_epoch for name, value in sums.items()},
                "val_macro_auroc": val_auroc,
                "images_per_second": per_epoch * batch_size / trained,
            }
        )
        if val_auroc > best["auroc"]:
            best = {"epoch": epoch + 1, "auroc": val_auroc, "weights": _copy(model.backbone.state_dict())}
        if trained_weights is not None:
            model.backbone.load_state_dict(trained_weights)
        if accelerator.is_main_process:
            checkpoint.save(
                {
                    "weights": model.backbone.state_dict(),
                    "along": along.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "history": history,
                    "best": best,
                    "average": average,
                    "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
                    "seconds": seconds,
                }
            )
        accelerator.wait_for_everyone()
    model.backbone.load_state_dict(best["weights"])
    return Fit(pd.DataFrame(history), best["epoch"], best["auroc"], seconds)


def training_rows(dataset: Dataset, unlabelled: bool) -> pd.DataFrame:
    """Rows of the training split: those with a label that is known, or all.

    Raises:
        UserError: none has a label.
    """
    rows = dataset.split("train")
    labelled = ~np.isnan(dataset.targets(rows)).all(axis=1)
    if not labelled.any():
        raise UserError(f"{dataset.folder / 'manifest.parquet'}: no image of the train split has a label")
    return rows if unlabelled else rows[labelled].reset_index(drop=True)


def measured_labels(targets: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    """Indices of the labels that choose the best epoch: the eligible ones, as in evaluation.

    In a set too small for any, those that have both classes at all.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
        group_ids: (N,), the group of each image.
    """
    eligible = [label for label in range(targets.shape[1]) if ineligibility(targets[:, label], group_ids) is None]
    if eligible:
        return np.array(eligible)
    return np.flatnonzero((targets == 1).any(axis=0) & (targets == 0).any(axis=0))


def mean_auroc(targets: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean AUROC over `labels` (indices); `targets` and `logits` (N, L), NaN targets are left out."""
    return float(np.mean([auroc(targets[:, label], logits[:, label]) for label in labels]))


def _accelerator(training: Training) -> Accelerator:
    this_process()
    try:
        accelerator = Accelerator(mixed_precision=training.precision)
    except ValueError as error:
        if "already been initialized" in str(error):
            raise UserError("training.precision: this process has trained with another one; start a new one") from None
        raise UserError(f"params.yaml: training.precision: {' '.join(str(error).split())}") from None
    if training.precision == "fp16" and accelerator.scaler is None:  # it would train in float32 without a word
        raise UserError('params.yaml: training.precision: fp16 needs a GPU; set bf16 or "no"')
    return accelerator


@contextlib.contextmanager
def say_what_to_lower(model: Classifier, dataset: Dataset, batch_size: str = "") -> Iterator[None]:
    """Say what to lower where memory runs out, and what to raise where a batch is too small for batch norm.

    Args:
        model: its `input_size`, where it has one, is what decides; else the data set's image size.
        dataset: what it sees.
        batch_size: the other setting, with its value: `training.batch_size lower than 16`.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError("batch norm needs two images at once; raise training.batch_size, or train on more") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = f"data.image_size lower than {dataset.image_size}"
        if model.input_size is not None:
            size = f"input_size lower than {model.input_size}"
        raise UserError(f"memory has run out; set {' or '.join(filter(None, (batch_size, size)))}") from None


def _refuse_loss(terms: dict[str, float], logits: Tensor, batch: Batch, epoch: int, step: int) -> NoReturn:
    """Say which term and which images make a loss that is not finite."""
    if math.isfinite(terms["loss"]):
        raise UserError(f"the loss of another process is not finite in epoch {epoch}, step {step}; it says more")
    bad = [name for name, value in terms.items() if name != "loss" and not math.isfinite(value)]
    names = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    guilty = (~torch.isfinite(logits)).any(1).tolist()
    images = [image for image, is_guilty in zip(batch.image_ids, guilty, strict=True) if is_guilty or not any(guilty)]
    raise UserError(
        f"the loss is not finite in epoch {epoch}, step {step}, for {' and '.join(bad) or 'the sum'} ({names});"
        f" lower learning_rate or look at images {', '.join(images)}"
    )


def _refuse_gradient(terms: dict[str, float], batch: Batch, epoch: int, step: int) -> NoReturn:
    """Stop before the weights are lost, while the step and its images can still be named."""
    names = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    raise UserError(
        f"the loss is finite in epoch {epoch}, step {step} ({names}), but its gradient is not; lower learning_rate or"
        f" look at images {', '.join(batch.image_ids)}"
    )


def _require_finite_answers(answers: np.ndarray, image_ids: pd.Series, epoch: int) -> None:
    bad = ~np.isfinite(answers).all(axis=1)
    if bad.any():
        raise UserError(
            f"after epoch {epoch} the network's logits of {int(bad.sum())} validation images are not finite, first"
            f" {image_ids[bad].iloc[0]}; lower learning_rate"
        )


def _follow(average: dict[str, Tensor], state: dict[str, Tensor], decay: float) -> None:
    """Move a moving average towards the weights; counters are copied."""
    for name, value in state.items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


@torch.inference_mode()
def predict(model: Classifier, dataset: Dataset, rows: pd.DataFrame, *, batch_size: int = 64) -> np.ndarray:
    """Logits of `rows` without augmentation: float32 (N, L), in the order of `rows`."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    out = []
    for start in range(0, len(rows), batch_size):
        pixels = torch.from_numpy(dataset.images(rows.iloc[start : start + batch_size])).to(device)
        out.append(model(render_plain(pixels).contiguous(memory_format=torch.channels_last)).float().cpu())
    model.train(was_training)
    return torch.cat(out).numpy()
