"""The processes that train together."""

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def this_process() -> PartialState:
    """This process among those that train together, and its device.

    accelerate must be told about processes without a GPU before anything else uses it.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
