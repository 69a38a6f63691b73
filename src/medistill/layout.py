"""Every path of a checkout, from one root; only dvc.yaml and the documentation spell them, too.

`Layout()` has them from the current folder, as the stages do; `Layout(root)` from another one. A folder with files of
its own, such as that of a model, is a class of its own: a library function that is given such a folder, wherever it
lies, finds the files in it by the same names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataFolder:
    """What `ingest` writes: an ingested data set."""

    folder: Path

    @property
    def record(self) -> Path:
        """What the data set is, and the checksums of its files."""
        return self.folder / "dataset.json"

    @property
    def manifest(self) -> Path:
        """One row per image."""
        return self.folder / "manifest.parquet"

    @property
    def boxes(self) -> Path:
        """One row per box."""
        return self.folder / "boxes.parquet"

    @property
    def quarantine(self) -> Path:
        """One row per entry of the source that was left out."""
        return self.folder / "quarantine.csv"

    def images(self, shard: int) -> Path:
        """Pixels of one shard."""
        return self.folder / f"images-{shard:05d}.npy"

    def masks(self, shard: int) -> Path:
        """Masks of one shard."""
        return self.folder / f"masks-{shard:05d}.npy"

    def lungs(self, shard: int) -> Path:
        """Lung masks of one shard."""
        return self.folder / f"lungs-{shard:05d}.npy"


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a trained model, or the user's own weights with the files beside them."""

    folder: Path

    @property
    def config(self) -> Path:
        """The model's architecture and training, and the checksums of its files."""
        return self.folder / "config.json"

    @property
    def weights(self) -> Path:
        """The tensors."""
        return self.folder / "model.safetensors"

    @property
    def onnx(self) -> Path:
        """The network of a teacher in an ONNX file, as one file."""
        return self.folder / "model.onnx"

    @property
    def answers(self) -> Path:
        """The logits of a teacher that is a table of answers."""
        return self.folder / "answers.parquet"

    @property
    def metrics(self) -> Path:
        """Figures measured by the training."""
        return self.folder / "metrics.json"

    @property
    def history(self) -> Path:
        """One row per epoch; a frozen teacher has none."""
        return self.folder / "history.csv"

    @property
    def predictions(self) -> Path:
        """Logits on validation and test."""
        return self.folder / "predictions.parquet"

    @property
    def train_ids(self) -> Path:
        """Hashes of what the model was trained on."""
        return self.folder / "train_ids.npz"

    @property
    def licenses(self) -> Path:
        """What a user's own weights descend from, beside them; no stage writes it."""
        return self.folder / "licenses.json"


@dataclass(frozen=True)
class KnowledgeFolder:
    """What `teach` writes: one teacher's answers."""

    folder: Path

    @property
    def record(self) -> Path:
        """What the answers depend on, and their checksums."""
        return self.folder / "knowledge.json"

    @property
    def progress(self) -> Path:
        """The number of answers so far; removed when all are complete."""
        return self.folder / "progress.json"

    @property
    def image_ids(self) -> Path:
        """The images that were answered, in order."""
        return self.folder / "image_ids.npy"

    @property
    def train_ids(self) -> Path:
        """Hashes of what the teacher was trained on."""
        return self.folder / "train_ids.npz"

    @property
    def calibration(self) -> Path:
        """How the teacher's logits are calibrated where a recipe asks for it."""
        return self.folder / "calibration.json"

    def answers(self, kind: str) -> Path:
        """The answers of one kind: logits, attention, …"""
        return self.folder / f"{kind}.npy"


@dataclass(frozen=True)
class ExportFolder:
    """What `export` writes: the files for the device, and the proofs of parity and latency."""

    folder: Path

    @property
    def onnx(self) -> Path:
        """The network."""
        return self.folder / "model.onnx"

    @property
    def explain_onnx(self) -> Path:
        """The network with the finer heat maps of labels that are asked for, where it can have them."""
        return self.folder / "model.explain.onnx"

    @property
    def bundle(self) -> Path:
        """The model's description, and the checksums of the other files."""
        return self.folder / "bundle.json"

    @property
    def parity(self) -> Path:
        """How far ONNX Runtime's logits are from torch's."""
        return self.folder / "parity.json"

    @property
    def train_ids(self) -> Path:
        """Hashes of what the model was trained on."""
        return self.folder / "train_ids.npz"

    @property
    def latency(self) -> Path:
        """How long a prediction takes."""
        return self.folder / "latency.json"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / "MODEL_CARD.md"

    @property
    def applied_card(self) -> Path:
        """The same for programs, by CHAI's schema."""
        return self.folder / "model_card.xml"

    @property
    def web(self) -> Path:
        """Folder of its web page, where `make web` has built one; no stage reads it."""
        return self.folder / "web"


@dataclass(frozen=True)
class ExplainFolder:
    """What `explain` writes."""

    folder: Path

    @property
    def record(self) -> Path:
        """The checksums of the other files."""
        return self.folder / "record.json"

    @property
    def metrics(self) -> Path:
        """How well each model's maps meet the boxes."""
        return self.folder / "metrics.json"

    @property
    def choice(self) -> Path:
        """How the way to make maps was chosen."""
        return self.folder / "choice.json"

    @property
    def gallery(self) -> Path:
        """The findings that pages show, with their pictures."""
        return self.folder / "gallery.json"

    @property
    def second_look(self) -> Path:
        """Labels that the teachers contradict."""
        return self.folder / "second_look.csv"

    @property
    def page(self) -> Path:
        """The gallery."""
        return self.folder / "index.html"


@dataclass(frozen=True)
class StressFolder:
    """What `stress` writes."""

    folder: Path

    @property
    def record(self) -> Path:
        """The checksums of the other files."""
        return self.folder / "stress.json"

    @property
    def metrics(self) -> Path:
        """Each model under shifts and before images of other kinds."""
        return self.folder / "metrics.json"

    def unlike(self, student: str) -> Path:
        """What a student's features of training images are like, by which others are told from them."""
        return self.folder / f"{student}.safetensors"


@dataclass(frozen=True)
class ReportsFolder:
    """Reports on data and models."""

    folder: Path

    @property
    def audit(self) -> Path:
        """Issues that the audit found in the data."""
        return self.folder / "validation" / "audit.json"

    @property
    def validation(self) -> Path:
        """The verdict on the data."""
        return self.folder / "validation" / "validation.json"

    @property
    def data_docs(self) -> Path:
        """Folder of Great Expectations' pages."""
        return self.folder / "validation" / "data_docs"

    @property
    def evaluation_record(self) -> Path:
        """The checksums of all files that `evaluate` writes."""
        return self.folder / "evaluation.json"

    @property
    def metrics(self) -> Path:
        """The figures of every model."""
        return self.folder / "metrics.json"

    @property
    def comparisons(self) -> Path:
        """Paired differences between models."""
        return self.folder / "comparisons.csv"

    @property
    def evaluations(self) -> Path:
        """Folder of all figures of each model."""
        return self.folder / "evaluation"

    def evaluation(self, model: str) -> Path:
        """All figures of one model."""
        return self.evaluations / f"{model}.json"

    @property
    def rocs(self) -> Path:
        """Folder of the ROC curves."""
        return self.folder / "roc"

    def roc(self, model: str) -> Path:
        """Macro-average ROC curve of one model on test."""
        return self.rocs / f"{model}.csv"

    @property
    def all_licenses(self) -> Path:
        """Folder of what each model descends from."""
        return self.folder / "licenses"

    def licenses(self, model: str) -> Path:
        """What one model descends from, and the licence of each."""
        return self.all_licenses / f"{model}.json"

    @property
    def explain(self) -> ExplainFolder:
        """Where the models look."""
        return ExplainFolder(self.folder / "explain")

    @property
    def stress(self) -> StressFolder:
        """How the models answer when images change."""
        return StressFolder(self.folder / "stress")

    @property
    def gate(self) -> Path:
        """The verdict on every student."""
        return self.folder / "gate.json"

    @property
    def promotion(self) -> Path:
        """The outcome of the last `promote`."""
        return self.folder / "promotion.json"

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "index.html"

    @property
    def checklists(self) -> Path:
        """What a publication must report, filled where the run knows it."""
        return self.folder / "tripod-ai.md"

    @property
    def live(self) -> Path:
        """Folder of the curves of the trainings that are at work."""
        return self.folder / "live"


@dataclass(frozen=True)
class Layout:
    """Every path of a checkout; `root` is its folder."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        """The settings."""
        return self.root / "params.yaml"

    @property
    def params_before(self) -> Path:
        """The settings before a preset."""
        return self.root / "params.yaml.before"

    @property
    def dvc_lock(self) -> Path:
        """DVC's record of the stages that ran."""
        return self.root / "dvc.lock"

    @property
    def dvc(self) -> Path:
        """DVC's own folder."""
        return self.root / ".dvc"

    @property
    def phantom(self) -> Path:
        """The built-in data set, in its source's own layout."""
        return self.root / "data" / "raw" / "phantom"

    @property
    def unlabelled(self) -> Path:
        """Images without labels, where `data.unlabelled` names no other folder; it need not be there."""
        return self.root / "data" / "unlabelled"

    @property
    def processed(self) -> DataFolder:
        """The ingested data set."""
        return DataFolder(self.root / "data" / "processed")

    def teacher(self, name: str) -> ModelFolder:
        """A trained teacher or assistant; one of several seeds, `teacher.seed`, is within the folder of all."""
        return ModelFolder(self.root / "models" / "teachers" / Path(*name.split(".")))

    def student(self, name: str) -> ModelFolder:
        """A trained student; its name is `student-recipe-seed`."""
        return ModelFolder(self.root / "models" / "students" / name)

    def model(self, name: str) -> ModelFolder:
        """A trained model: names of students have a hyphen, those of teachers cannot have one."""
        return self.student(name) if "-" in name else self.teacher(name)

    def is_written_model(self, file: Path) -> bool:
        """Whether a file lies where the graph itself writes models."""
        folders = (self.root / "models", self.root / "exports")
        return any(file.resolve().is_relative_to(folder.resolve()) for folder in folders)

    def knowledge(self, teacher: str) -> KnowledgeFolder:
        """The answers of a teacher that is no assistant."""
        return KnowledgeFolder(self.root / "data" / "knowledge" / Path(*teacher.split(".")))

    def assistant_knowledge(self, assistant: str) -> KnowledgeFolder:
        """The answers of an assistant: separate, since they depend on the folder of the other teachers' answers."""
        return KnowledgeFolder(self.root / "data" / "assistants" / Path(*assistant.split(".")))

    def export(self, name: str) -> ExportFolder:
        """An exported student."""
        return ExportFolder(self.root / "exports" / name)

    def exports(self) -> Iterator[ExportFolder]:
        """Every exported student, by name, including those of earlier runs."""
        folders = (onnx.parent for onnx in (self.root / "exports").glob("*/model.onnx"))
        return map(ExportFolder, sorted(folders))

    @property
    def reports(self) -> ReportsFolder:
        """Reports on data and models."""
        return ReportsFolder(self.root / "reports")

    @property
    def history(self) -> Path:
        """Which student was champion when, and which were refused."""
        return self.root / "registry" / "history.jsonl"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's runs and registry, where there is no server for them."""
        return self.root / "mlflow.db"

    @property
    def mlflow_files(self) -> Path:
        """Folder of MLflow's files, where there is no server for them."""
        return self.root / "mlruns"

    @property
    def version_files(self) -> Path:
        """Where the files of a version are collected: one at a time, under the lock, so leftovers can be deleted."""
        return self.dvc / "tmp" / "version"

    def lock(self, name: str) -> Path:
        """The file whose lock a command holds while no other may run."""
        return self.dvc / "tmp" / f"{name}.lock"

    @property
    def checkpoints(self) -> Path:
        """States of unfinished trainings, and copies of the last trained models."""
        return self.root / ".checkpoints"

    def unfinished_knowledge(self, teacher: str) -> KnowledgeFolder:
        """The answers of a teacher that is still being asked."""
        return KnowledgeFolder(self.checkpoints / "teach" / teacher)

    @property
    def decoded(self) -> Path:
        """Decoded images, so that the next ingest need not decode them."""
        return self.root / ".cache" / "ingest"

    @property
    def exportable(self) -> Path:
        """Networks that are known to be exportable, so that not every stage tries."""
        return self.root / ".cache" / "export"

    def written_by_stages(self) -> tuple[Path, ...]:
        """The folders in which stages write; none of them may hold the user's own data set."""
        data = (self.root / "data" / name for name in ("processed", "knowledge", "assistants"))
        return (*data, *(self.root / name for name in ("models", "reports", "exports")))


HERE = Layout()
"""The checkout in which a command was started."""


def member_name(teacher: str, seed: int) -> str:
    """The name of a teacher's network where it has several seeds; names in params.yaml have no dot."""
    return f"{teacher}.{seed}"


def student_name(student: str, recipe: str, seed: int) -> str:
    """The name of a trained student: of its folder, stage and run."""
    return f"{student}-{recipe}-{seed}"
