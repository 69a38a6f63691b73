"""The processes that train together."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def this_process() -> PartialState:
    """This process among those that train together, and its device.

    accelerate takes processes without a GPU for one only where it is told so before anything else asks.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
