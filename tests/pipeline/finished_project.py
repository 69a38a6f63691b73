"""A small project in which all stages have really run, in this process."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from medistill.data.ingest import ingest
from medistill.layout import HERE
from medistill.params import load_params
from medistill.phantom.write import write_phantom
from medistill.records.audit import Audit
from pipeline.stages import distill, evaluate, explain, export, licenses, report, stress, teach, train_teacher
from tests.filled import validation
from tests.params import with_several

ROOT = Path(__file__).resolve().parents[2]
TEACHER = "big"
STUDENTS = (["small", "baseline", "0"], ["small", "kd", "0"])


def write_params(root: Path, **sections: dict) -> None:
    """Write a params.yaml with one teacher and one student that train in a second, and `sections` changed."""
    params = with_several()
    params["phantom"] |= {"images": 160, "size": 32}
    params["data"] |= {"image_size": 32, "workers": 1, "val_fraction": 0.4}  # enough images for a validation figure
    params["training"] |= {"epochs": 2, "batch_size": 16}
    params["teachers"] = {TEACHER: {"arch": "test_resnet"}}
    params["students"] = {"small": {"arch": "test_resnet"}}
    params["recipes"]["kd"]["teachers"] = [TEACHER]
    params["run"] |= {"teachers": [TEACHER], "students": ["small"]}
    params["teach"]["views"] = 2
    params["evaluate"]["resamples"] = 100
    params["explain"] |= {"gallery": 3, "max_images": 4}
    params["stress"] = {"images": 200}
    params["export"] |= {"parity_images": 2, "latency_runs": 5}
    for section, values in sections.items():
        params[section] |= values
    (root / "params.yaml").unlink(missing_ok=True)  # it may be a link
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def build(root: Path) -> None:
    """Run all stages in `root`, one export for all.

    `audit` and `validate` take longer than all others together: their outputs are made up and report no findings.
    """
    (root / "data" / "unlabelled").mkdir(parents=True)  # as in a checkout, empty
    write_params(root)
    with inside(root):
        params = load_params()
        write_phantom(HERE.phantom, **params.phantom.model_dump())
        ingest(params.data, HERE.processed.folder, HERE.decoded)
        Audit(findings=[], near_duplicates=[], shortcuts=[]).write(HERE.reports.audit)
        validation([]).write(HERE.reports.validation)
        train_teacher.main([TEACHER])
        teach.main([TEACHER])
        for student in STUDENTS:
            distill.main(student)
        licenses.main([])
        evaluate.main([])
        explain.main([])
        stress.main([])
        export.main(STUDENTS[1])
        report.main([])


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Make `folder` the current folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
