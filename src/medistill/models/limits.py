"""What a network may be at most: arguments may ask for one that would be built for hours, or of nothing."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules import module

from medistill.errors import UserError

MODULES = 30_000
NUMBERS = 5_000_000_000
"""Parameters and buffers: 20 GB as float32."""


@contextlib.contextmanager
def bounded(arch: str) -> Iterator[None]:
    """Stop the building of a network of `arch` within this block as soon as it has more than any network has.

    Raises:
        UserError: it has.
    """
    modules = numbers = 0

    def count_module(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > MODULES:
            raise UserError(f"params.yaml: {arch} has more than {MODULES:,} layers with these args; set them lower")

    def count_tensor(parent: nn.Module, name: str, tensor: nn.Parameter | None) -> None:
        nonlocal numbers
        numbers += 0 if tensor is None else tensor.numel()
        if numbers > NUMBERS:
            raise UserError(f"params.yaml: {arch} has more than {NUMBERS:,} numbers with these args; set them lower")

    with contextlib.ExitStack() as hooks:
        for register, count in (
            (module.register_module_module_registration_hook, count_module),
            (module.register_module_parameter_registration_hook, count_tensor),
            (module.register_module_buffer_registration_hook, count_tensor),
        ):
            hooks.callback(register(count).remove)
        yield
