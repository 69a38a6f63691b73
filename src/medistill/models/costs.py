"""What a network costs: parameters and multiply-accumulates, counted and not looked up."""

import copy

import torch
from torch import nn

from medistill.models.classifier import Classifier
from medistill.models.deploy import deployed


def costs(classifier: Classifier, size: int) -> dict[str, int]:
    """Costs of the deployed network, on one RGB image of `size` pixels.

    Returns:
        `params` and `macs`; where they are more in training, `params_in_training` and `macs_in_training` as well.
    """
    with torch.device("meta"):  # shapes are enough
        trained = copy.deepcopy(classifier).to("meta")
        running = deployed(trained)
    found = {"params": count_params(running), "macs": count_macs(running, size)}
    if running is not trained:
        found |= {"params_in_training": count_params(trained), "macs_in_training": count_macs(trained, size)}
    return found


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, size: int) -> int:
    """Multiply-accumulates of one RGB image of `size` pixels: convolutions, linear layers and attention products."""
    from torch.utils.flop_counter import FlopCounterMode

    # Shapes without numbers: on a CPU attention is an operation of its own, which PyTorch does not count.
    shapes = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.zeros(1, 3, size, size, device="meta"))
    operations: int = counter.get_total_flops()
    return operations // 2  # a multiply-accumulate is two operations
