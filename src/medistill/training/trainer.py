"""One explicit training loop, the same for teachers, baselines and distilled students."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import NoReturn, TypedDict

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.models.classifier import Classifier
from medistill.training.batches import Batch, Batches, Drawn
from medistill.training.checkpoint import Best, Checkpoint, TrainingState
from medistill.training.memory import explain_out_of_memory
from medistill.training.processes import this_process
from medistill.training.settings import Training
from medistill.training.spec import TrainingSpec
from medistill.training.validation import Validation

Objective = Callable[[Tensor, Batch], dict[str, Tensor]]
"""Logits (N, L) and their batch to named scalars; `loss` is the one that is minimised.

One that is a module with parameters, such as projections of features, is trained along.
"""


class StepReport(TypedDict):
    """Progress of a training; `val_macro_auroc` has a pair (epoch, value) for each epoch that was validated."""

    epoch: int
    step: int
    steps: int
    images: int
    loss: float
    learning_rate: float
    val_macro_auroc: list[list[float]]


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training; its model has the weights of the best epoch.

    Attributes:
        history: one row per epoch: `epoch`, `step`, `learning_rate`, `train_<term>`, `val_macro_auroc`,
            `images_per_second`; of a recipe with stages also `stage` (from 1), and the macro AUROC of the last stage
            alone.
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


class Learner(nn.Module):
    """A network together with its objective and that one's projections of features: from a batch to its losses."""

    def __init__(
        self, model: Classifier, objective: Objective, autocast: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Join them; the network computes within `autocast()`, the objective in float32."""
        super().__init__()
        self.model, self.objective, self._autocast = model, objective, autocast

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The objective's named losses, and the logits (N, L)."""
        with self._autocast():
            assert batch.images is not None  # they are rendered
            images = batch.images.contiguous(memory_format=torch.channels_last)
            logits, features = self.model(images, with_map=True)
        maps = partial(self.model.class_maps, features, logits=logits)
        seen = replace(batch, features=features, pool=self.model.pooled, class_maps=maps)
        return self.objective(logits.float(), seen), logits

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """What an optimiser trains; biases, norms and what the network itself exempts do not decay."""
        exempt: set[str] = getattr(
            self.model.backbone, "no_weight_decay", set
        )()  # by timm's own word, such as position tables
        groups = param_groups_weight_decay(
            self.model, weight_decay, no_weight_decay_list=[f"backbone.{name}" for name in exempt]
        )
        own = list(self.objective.parameters()) if isinstance(self.objective, nn.Module) else []
        return [*groups, {"params": own, "weight_decay": weight_decay}] if own else groups


class WeightAverage:
    """An exponential moving average of a network's weights, which is validated and kept instead of them."""

    def __init__(self, backbone: nn.Module, decay: float) -> None:
        """Start at the weights of `backbone`."""
        self._backbone, self._decay, self.weights = backbone, decay, _copy(backbone.state_dict())

    def follow(self, step: int) -> None:
        """Move towards the weights after `step` (from 0), at first faster; counters are copied."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._backbone.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the network within the block, and its own weights back afterwards."""
        trained = _copy(self._backbone.state_dict())
        self._backbone.load_state_dict(self.weights)
        yield
        self._backbone.load_state_dict(trained)


class Trainer:
    """Trains a network on the training split and keeps the weights of the epoch that is best on validation.

    A training that was interrupted goes on after its last finished epoch, with the same result as if it had not been:
    order, views and dropout of an epoch depend on seed and epoch only.

    A recipe with stages has a training per stage, one after the other: with its own losses, projections and images, its
    own schedule of the learning rate and a new optimiser, as in FitNets and in pretraining by distillation. (Moments of
    gradients that the new losses do not have, and a learning rate near 0, would only hold the classifier back.) Only
    the last stage is validated, as before it the classifier may not have been taught; each other one hands on its last
    weights.

    Under `accelerate launch` each process trains on its part of every batch, `batch_size` being that of all together.
    Batch norm and losses that compare the images of a batch see only a part, and each process draws its own dropout;
    everything else is as with one process.
    """

    def __init__(
        self,
        model: Classifier,
        objectives: Objective | Sequence[Objective],
        dataset: Dataset,
        spec: TrainingSpec,
        checkpoint: Checkpoint,
        *,
        on_step: Callable[[StepReport], None] = lambda report: None,
    ) -> None:
        """Prepare the training of `model`, which ends up with the best weights.

        Args:
            model: what is trained, in place.
            objectives: loss of a batch; one for each stage of a recipe that has stages.
            dataset: its training split is trained on, its validation split chooses the epoch.
            spec: seeds, views, images and settings of the training; its `network` is not used here.
            checkpoint: where the state after each epoch is kept.
            on_step: called after each step.

        Raises:
            UserError: memory runs out, the precision is not to be had here, no image has a label, or no label has both
                classes on validation.
            ValueError: there is not one objective for each stage.
        """
        self._spec, self._training, self._model, self._dataset = spec, spec.training, model, dataset
        self._stages = spec.stages
        self._objectives = objectives if isinstance(objectives, Sequence) else [objectives]
        if len(self._objectives) != len(self._stages):
            raise ValueError(f"{len(self._stages)} stages need as many objectives, not {len(self._objectives)}")
        self._checkpoint, self._on_step = checkpoint, on_step
        self._accelerator = _accelerator(spec.training)
        processes = self._accelerator.num_processes
        if spec.training.batch_size < processes:
            size = spec.training.batch_size
            raise UserError(f"training.batch_size is {size}, but {processes} processes share each batch")
        self._begin(0)
        self._validation = Validation(dataset)
        lower = f"training.batch_size lower than {spec.training.batch_size}"
        self._memory = partial(explain_out_of_memory, model, dataset, lower)
        self._steps = spec.training.epochs * self._batches.per_epoch
        self._history: list[dict[str, float]] = []
        self._best: Best = {"epoch": 0, "auroc": -1.0, "weights": {}}
        self._seconds = 0.0

    def _begin(self, stage: int) -> None:
        """Open the images of a stage (from 0), and let its losses train the network as it is now."""
        if stage:  # what belongs to the stage before must be gone, or its optimiser would scale the gradients, too
            del self._batches, self._learner, self._network, self._optimizer
            self._accelerator.free_memory()
        device, processes = self._accelerator.device, self._accelerator.num_processes
        self._stage, part = stage, slice(self._accelerator.process_index, None, processes)
        now, size = self._stages[stage], self._model.input_size
        with explain_out_of_memory(self._model, self._dataset):
            self._batches: Batches = Batches(self._dataset, self._spec, now, input_size=size, device=device, part=part)
        self._learner: Learner = Learner(self._model, self._objectives[stage], self._accelerator.autocast)
        self._learner.to(device).to(memory_format=torch.channels_last)
        self._network: nn.Module = self._learner
        if processes > 1:
            untaught = not now.recipe.teaches_classifier
            self._network = DistributedDataParallel(self._learner, find_unused_parameters=untaught)
        groups = self._learner.parameter_groups(self._training.weight_decay)
        # fused is a tenth faster on CPU, too
        optimizer = torch.optim.AdamW(groups, lr=self._training.learning_rate, fused=True)
        self._optimizer: torch.optim.Optimizer = self._accelerator.prepare(optimizer)
        averages = self._training.ema and self._is_last
        self._average = WeightAverage(self._model.backbone, self._training.ema) if averages else None

    @property
    def _is_last(self) -> bool:
        """Whether this is the stage that chooses the best epoch."""
        return self._stage == len(self._stages) - 1

    def _stage_of(self, epoch: int) -> int:
        """The stage of an epoch (from 0)."""
        return max(number for number, stage in enumerate(self._stages) if stage.first <= epoch)

    def fit(self) -> TrainingResult:
        """Train to the end, from the last state that the checkpoint has.

        Raises:
            UserError: the loss, its gradient or a logit on validation is not finite, or memory runs out.
        """
        if state := self._checkpoint.load():
            self.load_state(state)
        patience = self._training.patience
        for epoch in range(len(self._history), self._training.epochs):
            if patience and epoch - max(self._best["epoch"], self._stages[-1].first) >= patience:
                break
            if self._stage_of(epoch) != self._stage:
                self._begin(self._stage_of(epoch))
            self.epoch(epoch)
            if self._accelerator.is_main_process:
                self._checkpoint.save(self.state())
            self._accelerator.wait_for_everyone()
        self._model.backbone.load_state_dict(self._best["weights"])
        return TrainingResult(pd.DataFrame(self._history), self._best["epoch"], self._best["auroc"], self._seconds)

    def epoch(self, epoch: int) -> None:
        """Train on the batches of an epoch (from 0), validate it in the last stage, and add the row of history."""
        start = perf_counter()
        # each process its own dropout
        torch.manual_seed(self._spec.seed * 1_000_003 + epoch + self._accelerator.process_index * 104_729)
        self._learner.train()
        first, sums = epoch * self._batches.per_epoch, dict[str, float]()
        for step, drawn in enumerate(self._batches.of_epoch(epoch), start=first):
            for name, value in self.step(drawn, step).items():
                sums[name] = sums.get(name, 0.0) + value
        trained = perf_counter() - start
        validated = self._validate_epoch(epoch) if self._is_last else {}
        self._seconds += perf_counter() - start
        self._history.append(
            {
                "epoch": epoch + 1,
                **({"stage": self._stage + 1} if len(self._stages) > 1 else {}),
                "step": first + self._batches.per_epoch,
                "learning_rate": self._learning_rate(first + self._batches.per_epoch - 1),
                **{f"train_{name}": value / self._batches.per_epoch for name, value in sums.items()},
                **validated,
                "images_per_second": self._batches.per_epoch * self._batches.size / trained,
            }
        )

    def step(self, drawn: Drawn, step: int) -> dict[str, float]:
        """Learn from a batch, at `step` (from 0) of all; its losses, the mean over the processes."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        with self._memory():
            batch = drawn.render()
            losses, logits = self._network(batch)
            self._accelerator.backward(losses["loss"])
            values = torch.stack([value.detach().float() for value in losses.values()])
            norm = self._accelerator.clip_grad_norm_(list(self._learner.parameters()), self._training.clip_norm)
            # The only wait for a GPU in a step, except for maps and live teachers; by now the whole backward pass is
            # queued on it.
            reported = dict(zip(losses, self._accelerator.reduce(values, "mean").tolist(), strict=True))
            if not math.isfinite(reported["loss"]):
                _refuse_loss(dict(zip(losses, values.tolist(), strict=True)), logits, batch, self._at(step))
            if self._accelerator.scaler is None and not math.isfinite(
                norm
            ):  # a scaler tries again with a smaller scale
                _refuse_gradient(reported, batch, self._at(step))
            self._optimizer.step()
            self._optimizer.zero_grad()
        if self._average:
            self._average.follow(step - self._first_step)
        self._report(step, reported["loss"])
        return reported

    def _validate_epoch(self, epoch: int) -> dict[str, float]:
        """The column of history about an epoch (from 0), whose weights are kept if they are the best so far."""
        with self._average.applied() if self._average else contextlib.nullcontext():
            auroc = self.validate(epoch)
            if auroc > self._best["auroc"]:
                self._best = {"epoch": epoch + 1, "auroc": auroc, "weights": _copy(self._model.backbone.state_dict())}
        return {"val_macro_auroc": auroc}

    def validate(self, epoch: int) -> float:
        """Macro AUROC on validation after an epoch (from 0), on which all processes agree."""
        auroc = 0.0
        if self._accelerator.is_main_process:
            with self._memory():
                auroc = self._validation.macro_auroc(self._model, batch_size=2 * self._batches.size, epoch=epoch + 1)
        if self._accelerator.num_processes > 1:  # batch norm has other statistics in each
            said = torch.tensor(auroc, dtype=torch.float64, device=self._accelerator.device)
            auroc = broadcast(said).item()
        return auroc

    def state(self) -> TrainingState:
        """All that the next epoch depends on: tensors, numbers, strings, lists and dicts."""
        scaler = self._accelerator.scaler
        return {
            "learner": self._learner.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "history": self._history,
            "best": self._best,
            "average": self._average.weights if self._average else None,
            "scaler": scaler and scaler.state_dict(),
            "seconds": self._seconds,
        }

    def load_state(self, state: TrainingState) -> None:
        """Go on from what `state` has returned."""
        stage = self._stage_of(len(state["history"]) - 1)
        if stage != self._stage:
            self._begin(stage)
        self._learner.load_state_dict(state["learner"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._history, self._best, self._seconds = state["history"], state["best"], state["seconds"]
        if self._average:
            device, weights = self._accelerator.device, state["average"] or {}
            self._average.weights = {name: value.to(device) for name, value in weights.items()}
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    @property
    def _first_step(self) -> int:
        """The first step of the stage, from 0."""
        return self._stages[self._stage].first * self._batches.per_epoch

    def _learning_rate(self, step: int) -> float:
        steps = self._stages[self._stage].epochs * self._batches.per_epoch
        factor = learning_rate_factor(step - self._first_step, steps, self._training.warmup)
        return self._training.learning_rate * factor

    def _at(self, step: int) -> str:
        """`epoch 2, step 7`, both from 1."""
        epoch, place = divmod(step, self._batches.per_epoch)
        return f"epoch {epoch + 1}, step {place + 1}"

    def _report(self, step: int, loss: float) -> None:
        self._on_step(
            {
                "epoch": step // self._batches.per_epoch + 1,
                "step": step + 1,
                "steps": self._steps,
                "images": self._batches.size,
                "loss": loss,
                "learning_rate": self._learning_rate(step),
                "val_macro_auroc": [
                    [row["epoch"], row["val_macro_auroc"]] for row in self._history if "val_macro_auroc" in row
                ],
            }
        )


def _accelerator(training: Training) -> Accelerator:
    this_process()
    try:
        accelerator = Accelerator(mixed_precision=training.precision)
    except ValueError as error:
        if "already been initialized" in str(error):
            raise UserError(
                "training.precision: this process has already trained with another precision; start a new process"
            ) from None
        raise UserError(f"params.yaml: training.precision: {' '.join(str(error).split())}") from None
    if training.precision == "fp16" and accelerator.scaler is None:  # it would silently train in float32
        raise UserError('params.yaml: training.precision: fp16 needs a GPU; set bf16 or "no"')
    return accelerator


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _refuse_loss(terms: dict[str, float], logits: Tensor, batch: Batch, at: str) -> NoReturn:
    """Name the term and the images of a loss that is not finite."""
    if math.isfinite(terms["loss"]):
        raise UserError(f"the loss of another process is not finite in {at}; see its message")
    bad = [name for name, value in terms.items() if name != "loss" and not math.isfinite(value)]
    names = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    guilty = (~torch.isfinite(logits)).any(1).tolist()
    images = [image for image, is_guilty in zip(batch.image_ids, guilty, strict=True) if is_guilty or not any(guilty)]
    raise UserError(
        f"the loss is not finite in {at}, for {' and '.join(bad) or 'the sum'} ({names});"
        f" lower learning_rate or look at images {', '.join(images)}"
    )


def _refuse_gradient(terms: dict[str, float], batch: Batch, at: str) -> NoReturn:
    """Stop before the weights are lost, while the step and its images can still be named."""
    names = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    raise UserError(
        f"the loss is finite in {at} ({names}), but its gradient is not; lower learning_rate or"
        f" look at images {', '.join(batch.image_ids)}"
    )
