"""Training by a recipe from Python, in a folder that is no checkout."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd

from medistill.data.dataset import Dataset

NO_CHECKOUT = "import importlib.util\nassert importlib.util.find_spec('pipeline') is None, 'this is a checkout'\n"


def test_the_example_of_the_documentation_trains_a_student(root, tmp_path):
    text = (root / "docs" / "distillation.md").read_text(encoding="utf-8")
    example = text.partition("<!-- example: begin -->\n```python\n")[2].partition("```\n<!-- example: end -->")[0]
    (tmp_path / "example.py").write_text(NO_CHECKOUT + example)
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-W", "ignore", "example.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("best after epoch") == 2
    dataset = Dataset.open(tmp_path / "data")
    history = pd.read_csv(tmp_path / "models/small/history.csv")
    assert {"train_binary_cross_entropy", "train_sigmoid_kd"} <= set(history)
    predictions = pd.read_parquet(tmp_path / "models/small/predictions.parquet")
    assert len(predictions) == sum(len(dataset.split(name)) for name in ("val", "test"))
    assert np.isfinite(predictions.filter(like="logit:")).all(axis=None)
