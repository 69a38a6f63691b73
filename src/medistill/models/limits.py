"""Limits of a network, whose arguments may ask for one that takes hours to build, or for layers of width 0."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules import module

from medistill.errors import UserError

MODULES = 5_000
NUMBERS = 5_000_000_000
"""Parameters and buffers: 20 GB as float32. timm's largest network has 1.4 billion, its deepest 2,500 modules."""


@contextlib.contextmanager
def bounded(arch: str) -> Iterator[None]:
    """Stop the building of a network of `arch` within this block as soon as it exceeds a limit.

    Raises:
        UserError: it does.
    """
    modules = numbers = 0

    def count_module(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > MODULES:
            raise UserError(f"params.yaml: {arch} has more than {MODULES:,} layers with these args; lower them")

    def count_tensor(parent: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal numbers
        numbers += 0 if tensor is None else tensor.numel()
        if numbers > NUMBERS:
            raise UserError(f"params.yaml: {arch} has more than {NUMBERS:,} weights with these args; lower them")

    def count_parameter(parent: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        count_tensor(parent, name, parameter)
        if parameter is not None and parameter.numel() == 0:
            layer = f"{type(parent).__name__} with a {name} of the shape {list(parameter.shape)}"
            raise UserError(f"params.yaml: {arch} has a layer of width 0 with these args: {layer}; set them higher")

    with contextlib.ExitStack() as hooks:
        for register, count in (
            (module.register_module_module_registration_hook, count_module),
            (module.register_module_parameter_registration_hook, count_parameter),
            (module.register_module_buffer_registration_hook, count_tensor),
        ):
            hooks.callback(register(count).remove)
        yield
