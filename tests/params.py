"""The repository's params.yaml with several teachers and students in its run, from random weights: quicker to build."""

import copy
from pathlib import Path
from typing import Any

import yaml

from medistill.params import Params, load_params

ROOT = Path(__file__).resolve().parents[1]
SEVERAL = {"teachers": ["densenet", "efficientnet_lite2"], "students": ["eeea_net_c2", "tf_efficientnet_lite0"]}


def with_several() -> dict[str, Any]:
    """The settings; the student that starts from another network starts from nothing."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["run"] |= copy.deepcopy(SEVERAL)
    params["students"]["eeea_net_c2"].pop("init_from", None)
    return params


def written(params: dict[str, Any], folder: Path) -> Params:
    """The settings as they are read from params.yaml in `folder`."""
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    return load_params(file)
