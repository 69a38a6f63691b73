"""What the tables of `benchmarks.results` need of each trained model, small enough to be kept in the repository.

So the tables can be checked, or computed otherwise, without hours of training, and the training can be spread over
machines. A file holds one network and recipe, one row per seed and fold; images are in the test split's order, unnamed.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medistill.files import atomic

FOLDER = Path(__file__).resolve().parent / "outcomes"


@dataclass(frozen=True)
class Outcome:
    """One trained model.

    Attributes:
        settings: hash of all that decides the model except the code: network, training, data, teachers.
        code: hash of the code that trained it, torch's version included.
        initialisation: in words.
        params: number of parameters.
        macs: multiply-accumulates of one image.
        seconds: duration of the training.
        val: validation macro AUROC.
        logits: on the test split, float32 (n, L); tables of five seeds keep them as float16.
        val_pairs: of each label, the pairs of validation images of one stratum that are in order, and all such pairs,
            float64 (2, L); None in tables of three seeds.
    """

    settings: str
    code: str
    initialisation: str
    params: int
    macs: int
    seconds: float
    val: float
    logits: NDArray
    val_pairs: NDArray | None = None


def read_outcomes(file: Path) -> dict[str, Outcome]:
    """The outcomes of a file by their settings; none if the file is not there."""
    if not file.exists():
        return {}
    outcomes = {}
    for row in pd.read_parquet(file).to_dict("records"):
        labels = row.pop("labels")
        logits = np.frombuffer(row.pop("logits"), row.pop("dtype", "float32")).reshape(-1, labels)
        pairs = np.frombuffer(row.pop("val_pairs", b"")).reshape(2, -1)
        own = {name: row[name] for name in Outcome.__dataclass_fields__ if name in row}
        outcomes[row["settings"]] = Outcome(**own, logits=logits, val_pairs=pairs if pairs.size else None)
    return outcomes


def write_outcomes(file: Path, outcomes: list[tuple[int, int, Outcome]]) -> None:
    """Write seed, fold and outcome of models, atomically; the same content gives the same bytes."""
    rows = []
    for seed, fold, outcome in sorted(outcomes, key=lambda item: item[:2]):
        logits = np.ascontiguousarray(outcome.logits)
        own = asdict(outcome) | {"labels": logits.shape[1], "logits": logits.tobytes()}
        if own.pop("val_pairs") is not None:
            own |= {"val_pairs": outcome.val_pairs.tobytes(), "dtype": str(logits.dtype)}
        rows.append({"seed": seed, "fold": fold} | own)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary:
        pd.DataFrame(rows).to_parquet(temporary, index=False)
