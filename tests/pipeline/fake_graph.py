"""A miniature repository with the graph's stages, names and files; its stages write made-up outputs in a moment.

`build` makes it; inside, `make.py STAGE [MODEL]` is every stage's command. The numbers it writes are in `fake.yaml`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.params import with_several

REPOSITORY = Path(__file__).resolve().parents[2]

NUMBERS: dict[str, Any] = {
    "fingerprint": "f" * 64,
    "big": {"val": 0.85, "test": 0.84, "params": 9_000, "macs": 90_000},
    "small-baseline-0": {"val": 0.80, "test": 0.79, "params": 1_000, "macs": 10_000},
    "small-kd-0": {"val": 0.83, "test": 0.81, "params": 1_000, "macs": 10_000, "difference_baseline": 0.03},
}
"""Fields of a model: val and test macro AUROC, params and macs; ece, parity, difference_teacher_lower and
difference_baseline have defaults. `fail: REASON` ends its training with an error; `hang: FILE` makes it hang, with a
child whose process id is in the file."""

PROMOTE = {
    "max_params": 5_000,
    "max_macs": 50_000,
    "max_onnx_mb": 1.0,
    "margin_teacher": 0.1,
    "max_ece": 0.15,
    "require_baseline": True,
    "require_parity": True,
}

DVC_YAML = """
stages:
  ingest:
    cmd: python make.py ingest
    params: [{fake.yaml: [fingerprint]}]
    outs: [data/processed]
  train_teacher:
    matrix: {teacher: "${run.teachers}"}
    cmd: python make.py train_teacher ${item.teacher}
    params: [augmentation, training, "teachers.${item.teacher}", {fake.yaml: ["${item.teacher}"]}]
    deps: [data/processed]
    outs: ["models/teachers/${item.teacher}"]
    meta: {retries: 1, timeout_seconds: 60, resource: accelerator}
  distill:
    matrix: {student: "${run.students}", recipe: "${run.recipes}", seed: "${run.seeds}"}
    cmd: python make.py distill ${item.student}-${item.recipe}-${item.seed}
    params:
      - augmentation
      - training
      - teach
      - students.${item.student}
      - recipes.${item.recipe}
      - fake.yaml: ["${item.student}-${item.recipe}-${item.seed}"]
    deps: [data/processed]
    outs: ["models/students/${item.student}-${item.recipe}-${item.seed}"]
    meta: {resource: accelerator}
  evaluate:
    cmd: python make.py evaluate
    params: [evaluate, run]
    deps: [data/processed, models/teachers, models/students]
    metrics:
      - reports/metrics.json: {cache: false}
    outs: [reports/evaluation, reports/evaluation.json, reports/comparisons.csv, reports/roc]
  explain:
    cmd: python make.py explain
    deps: [models/teachers, models/students]
    outs: [reports/explain]
  export:
    matrix: {student: "${run.students}", recipe: "${run.recipes}", seed: "${run.seeds}"}
    cmd: python make.py export ${item.student}-${item.recipe}-${item.seed}
    deps: ["models/students/${item.student}-${item.recipe}-${item.seed}"]
    outs: ["exports/${item.student}-${item.recipe}-${item.seed}"]
"""

MAKE_PY = """
import json
import subprocess
import sys
from pathlib import Path

import yaml

from medistill.layout import HERE
from medistill.records.base import Sealed, write_each
from medistill.records.models import ModelRecord, TrainingMetrics
from tests.filled import dataset_info, gallery, latency, model_maps, model_record, parity
from tests.seal import seal

stage, model = sys.argv[1], sys.argv[-1]
fake = yaml.safe_load(Path("fake.yaml").read_text())
params = yaml.safe_load(Path("params.yaml").read_text())


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=2))


def trained():
    return sorted(path.parent for path in Path("models").glob("*/*/config.json"))


if stage == "ingest":
    HERE.processed.folder.mkdir(parents=True, exist_ok=True)
    seal(HERE.processed.record, dataset_info(name="fake", fingerprint=fake["fingerprint"]))
elif stage in ("train_teacher", "distill"):
    numbers = fake[model]
    if "fail" in numbers:
        sys.exit("error: " + numbers["fail"])
    if "hang" in numbers:  # with a child of its own, as a data loader would be
        child = subprocess.Popen(["sleep", "600"])
        Path(numbers["hang"]).write_text(str(child.pid))
        child.wait()
    files, about = HERE.model(model), {}
    if stage == "distill":
        student, recipe, seed = model.split("-")
        settings = params["recipes"][recipe]
        role = "distilled" if settings.get("teachers") else "baseline"
        about = {"role": role, "student": student, "recipe": recipe, "seed": int(seed), "combine": "mean",
                 "teachers": settings.get("teachers", []), "terms": settings.get("terms", [])}
    costs = {"params": numbers["params"], "macs": numbers["macs"]}
    history = "epoch,step,train_loss,val_macro_auroc\\n1,10,0.7,0.6\\n2,20,0.5,{val}\\n"
    write(files.history, history.format(**numbers))
    write(files.folder / "numbers.json", numbers)
    TrainingMetrics(**costs, best_epoch=2, train_seconds=1.5, val_macro_auroc=0.1).write(files.metrics)
    seal(files.config, model_record(
        name=model, arch="tiny", args={"width": 2}, labels=["A", "B"], image_size=8,
        dataset_fingerprint=fake["fingerprint"], **costs, **about,
    ))
elif stage == "evaluate":
    metrics, reports = {}, HERE.reports
    for folder in trained():
        trained_as = ModelRecord.read(HERE.model(folder.name).config)
        numbers, name = json.loads((folder / "numbers.json").read_text()), folder.name
        metrics[name] = {"params": trained_as.params, "macs": trained_as.macs}
        for split in ("val", "test"):
            auroc = numbers[split]
            figures = {"macro_auroc": auroc, "macro_auroc_lower": auroc - 0.05, "macro_auroc_upper": auroc + 0.05,
                       "macro_auprc": 0.4, "macro_ece": numbers.get("ece", 0.05), "eligible_labels": 2}
            if trained_as.role != "teacher":
                lower = numbers.get("difference_teacher_lower", -0.06)
                figures |= {"difference_teacher": lower + 0.04, "difference_teacher_lower": lower,
                            "difference_teacher_upper": lower + 0.08}
            if "difference_baseline" in numbers:
                gain = numbers["difference_baseline"]
                figures |= {"difference_baseline": gain, "difference_baseline_lower": gain - 0.02,
                            "difference_baseline_upper": gain + 0.02}
            metrics[name][split] = figures
        write(reports.evaluation(name), {"val": {}, "test": {}, "resamples": params["evaluate"]})
        write(reports.roc(name), "fpr,tpr\\n0,0\\n1,1\\n")
    write(reports.metrics, metrics)
    write(reports.comparisons, "split,student,reference\\n")
    files = [*reports.evaluations.iterdir(), *reports.rocs.iterdir(), reports.metrics, reports.comparisons]
    Sealed().write(reports.evaluation_record, files)
elif stage == "explain":
    write_each(HERE.reports.explain.metrics, {folder.name: model_maps(conclusive=False) for folder in trained()})
    gallery("student", "teacher").write(HERE.reports.explain.gallery)
    seal(HERE.reports.explain.record, {})
elif stage == "export":
    from onnx import TensorProto, helper, save

    numbers = json.loads((HERE.model(model).folder / "numbers.json").read_text())
    bias = helper.make_tensor("bias", TensorProto.FLOAT, [1], [numbers["val"]])
    size = helper.make_tensor("shape", TensorProto.INT64, [2], [0, 64])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["flat"]),
        helper.make_node("ReduceMean", ["flat", "axes"], ["mean"], keepdims=1),
        helper.make_node("Add", ["mean", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, model,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [bias, size, axes],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(network, {"model": model})
    files = HERE.export(model)
    files.folder.mkdir(parents=True)
    save(network, files.onnx)
    difference = numbers.get("parity", 1e-6)
    parity(images=4, max_abs_logit_difference=difference, passed=difference <= 1e-4).write(files.parity)
    write(files.card, "# " + model + "\\nNot a medical device.\\n")
    seal(files.bundle, {"name": model})
    latency().write(files.latency)
"""


def build(root: Path, numbers: dict[str, Any] = NUMBERS) -> Path:
    """Write the repository to `root` and put it under git and DVC; nothing has run yet."""
    root.mkdir(parents=True)
    params = with_several()
    params |= {
        "teachers": {"big": {"arch": "tiny"}},
        "students": {"small": {"arch": "tiny", "training": {"epochs": 2}}},
        "recipes": {"baseline": {}, "kd": {"teachers": ["big"], "terms": [{"loss": "sigmoid_kd", "temperature": 2.0}]}},
        "run": {
            "teachers": ["big"],
            "assistants": [],
            "students": ["small"],
            "recipes": ["baseline", "kd"],
            "seeds": [0],
        },
        "promote": PROMOTE,
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (root / "fake.yaml").write_text(yaml.safe_dump(numbers), encoding="utf-8")
    (root / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (root / "make.py").write_text(MAKE_PY, encoding="utf-8")
    run(root, "git", "init", "--quiet")
    run(root, "dvc", "init", "--quiet")
    (root / ".dvc/config").write_text((REPOSITORY / ".dvc/config").read_text(encoding="utf-8"), encoding="utf-8")
    return root


def copy(source: Path, target: Path) -> Path:
    """A copy of a repository, its history and cache included."""
    return Path(shutil.copytree(source, target, symlinks=True))


def repro(root: Path, *stages: str) -> str:
    """Run `dvc repro`; its output."""
    return run(root, "dvc", "repro", *stages)


def environment() -> dict[str, str]:
    """This process's environment, with the tests' interpreter first on the path, and with this code."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    extra = {"PATH": path, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PREFECT_"))}
    return {**kept, **extra}


def run(root: Path, *command: str) -> str:
    """Run a command in the repository; its standard output.

    Raises:
        AssertionError: it failed; the message contains its output.
    """
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pipeline(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline` in the repository."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, timeout=300)


def set_numbers(root: Path, **changes: dict[str, Any]) -> None:
    """Change fields of models in fake.yaml: `set_numbers(root, **{"small-kd-0": {"val": 0.7}})`."""
    path = root / "fake.yaml"
    numbers = yaml.safe_load(path.read_text(encoding="utf-8"))
    for model, fields in changes.items():
        numbers[model] = {**numbers[model], **fields} if isinstance(fields, dict) else fields
    path.write_text(yaml.safe_dump(numbers), encoding="utf-8")


def set_params(root: Path, section: str, **changes: Any) -> None:
    """Change keys of a section of params.yaml."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params[section] |= changes
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
