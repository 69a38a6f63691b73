"""The whole of System B, on real tiles: `python -m benchmarks.system_b --data FOLDER`.

Runs the preset `paper-b-lc25000` in a copy of this repository, .cache/system_b/, from ingest to `promote --dry-run`:
OFA-595, taught by VGG19 and Visformer-S. The tiles are three classes of the lung; networks start from random weights
and train at 64 px for a few epochs, about an hour on two cores. Writes its table into docs/papers.md.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.page import write_between
from medistill.gate.facts import read_metrics
from medistill.layout import Layout
from medistill.records.estimate import Estimate
from medistill.records.gate import Gate

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / ".cache" / "system_b"
VAL, TEST = 10, 3
"""Source pictures of each class in the splits val and test; a class is eligible with ten or more."""


def prepare(folder: Path, tiles: Path) -> None:
    """Copy the tracked files, write the preset with smaller inputs and fewer epochs, and draw up the splits."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if name != "dvc.lock" or not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    (folder / "params.yaml.before").unlink(missing_ok=True)  # `preset` does not overwrite an earlier backup
    run(folder, sys.executable, "-m", "pipeline", "preset", "paper-b-lc25000", "--root", str(tiles))
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    (folder / "params.yaml").write_text(yaml.safe_dump(shrink(params), sort_keys=False), encoding="utf-8")
    splits = draw_splits(pd.read_csv(tiles / "groups.csv"))
    splits.to_csv(folder / "splits" / "sides.csv", index=False, lineterminator="\n")


def shrink(params: dict[str, Any]) -> dict[str, Any]:
    """The preset's params, shrunk to what two cores can train, and without the teacher AutoFormer."""
    params["data"] |= {"image_size": 96, "workers": 2}
    params["training"] |= {"epochs": 16, "batch_size": 16, "learning_rate": 0.001, "precision": "no", "patience": None}
    params["teachers"] = {
        "vgg19": {"arch": "vgg19_bn", "input_size": 64, "training": {"epochs": 6}},
        "visformer_s": {"arch": "visformer_small", "input_size": 64, "training": {"epochs": 8}},
    }
    params["students"]["ofa_595"]["input_size"] = 64
    del params["recipes"]["kd_autoformer_v2_t"]
    params["recipes"]["kd_all"]["teachers"] = ["vgg19", "visformer_s"]
    params["run"] |= {"teachers": ["vgg19", "visformer_s"], "recipes": list(params["recipes"])}
    params["explain"]["max_images"] = 100
    return params


def draw_splits(groups: pd.DataFrame) -> pd.DataFrame:
    """`group_id` and `split` of each source picture, balanced over classes, drawn with a fixed seed.

    Args:
        groups: `label` and `group_id` of each tile.
    """
    rows = []
    for _, part in groups.groupby("label"):
        names = sorted(part["group_id"].unique())
        random.Random(0).shuffle(names)
        rows += [(name, "val" if k < VAL else "test" if k < VAL + TEST else "train") for k, name in enumerate(names)]
    return pd.DataFrame(rows, columns=["group_id", "split"])


def run(folder: Path, *command: str, codes: tuple[int, ...] = (0,)) -> str:
    """The output of a command run in the copy, with the copy's own code."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}")
    return done.stdout


def table(folder: Path) -> str:
    """One row per model, in Markdown."""
    reports = Layout(folder).reports
    verdicts = {judged.model: judged for judged in Gate.read(reports.gate, "run the benchmark again").candidates}
    lines = [
        "| model | parameters | MACs | test accuracy | validation accuracy | validation macro AUROC"
        " | validation macro AUROC − better baseline | gate |",
        "|---|---:|---:|---|---|---|---|---|",
    ]
    for name, numbers in read_metrics(reports).items():
        verdict = verdicts.get(name)
        refused = [rule.rule for rule in verdict.rules if rule.verdict == "failed"] if verdict else []
        cells = [
            name,
            f"{numbers.params / 1e6:.2f} M",
            f"{numbers.macs / 1e6:.0f} M",
            interval(numbers.figure("test", "accuracy")),
            interval(numbers.figure("val", "accuracy")),
            interval(numbers.figure("val", "macro_auroc")),
            interval(numbers.figure("val", "difference_baseline"), sign="+"),
            "" if verdict is None else f"refused by {', '.join(refused)}" if refused else "passes",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(figure: Estimate, sign: str = "") -> str:
    """A figure with its 95 % interval, as text; empty where it is undefined."""
    if figure.estimate is None:
        return ""
    text = f"{figure.estimate:{sign}.3f}"
    return text if figure.lower is None else f"{text} [{figure.lower:{sign}.3f}, {figure.upper:{sign}.3f}]"


def main() -> None:
    """Run the graph and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the real data sets, a folder each")
    tiles = parser.parse_args().data.resolve() / "lc25000_lung_96"  # the lung half, with groups.csv
    prepare(COPY, tiles)
    run(COPY, "dvc", "repro")
    run(COPY, sys.executable, "-m", "pipeline", "track")
    print(run(COPY, sys.executable, "-m", "pipeline", "promote", "--dry-run", codes=(0, 3)))
    write_between("docs/papers.md", "system b", table(COPY))


if __name__ == "__main__":
    main()
