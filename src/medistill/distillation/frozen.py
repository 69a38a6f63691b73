"""Teachers with weights of their own, which are not trained here."""

from pathlib import Path

from medistill.data.dataset import Dataset, label_columns
from medistill.distillation.settings import OutsideTeacher, Teacher
from medistill.errors import UserError
from medistill.files import sha256
from medistill.models.build import create_classifier
from medistill.models.classifier import Classifier, feature_shape
from medistill.models.settings import Network
from medistill.models.weights import read_beside
from medistill.training.outputs import write_outputs
from medistill.training.run import ids_of_weights
from medistill.training.spec import fingerprint


def import_teacher(folder: Path, name: str, network: Teacher, dataset: Dataset, *, batch_size: int = 64) -> None:
    """Write the folder of a frozen teacher, with its logits on val and test.

    Args:
        folder: the model's folder, replaced as a whole.
        name: of the model.
        network: its architecture, the file of its weights, and the labels of its outputs, in their order; None: those
            of config.json beside the weights, else the data set's.
        dataset: whose images it answers.
        batch_size: images that it answers at once.

    Raises:
        UserError: the weights are missing, do not fit, were trained at another size or normalisation, or on images or
            groups of the val or test split; or none of the labels is the data set's.
    """
    seen = ids_of_weights(network.file, dataset)
    model = load_frozen_teacher(network, dataset)
    facts = {"role": "teacher", "name": name, "seed": network.seed, "teachers": []}
    facts |= {"network": network.model_dump(mode="json"), "weights_sha256": sha256(network.file)}
    facts["fingerprint"] = fingerprint(facts | {"labels": model.config["labels"]})
    write_outputs(folder, model, dataset, None, facts, seen, batch_size=batch_size)


def load_frozen_teacher(network: Teacher, dataset: Dataset) -> Classifier:
    """A teacher with its own weights and labels, in evaluation mode.

    Raises:
        UserError: as for `import_teacher`, except about the images that it was trained on.
    """
    beside = read_beside(network.own_weights)
    labels = labels_of(network, dataset)
    label_columns(labels, dataset.labels, "labels")
    arch = str(beside.arch or network.arch)
    if arch.split(".")[0] != network.arch.split(".")[0]:  # some networks have another's tensors, and answer otherwise
        raise UserError(f"{network.weights}: config.json beside it says that it is of {arch}; set arch: {arch}")
    if network.input_size is None:  # who types a size may want another
        _require_same(network, "input_size", beside.input_size or beside.image_size, dataset.image_size)
    model = create_classifier(network, labels=labels, image_size=dataset.image_size).eval()
    config = model.config
    for key, there, here in (
        ("args", beside.args, config["args"]),
        ("mean", beside.mean, config["mean"]),
        ("std", beside.std, config["std"]),
    ):
        _require_same(network, key, there, here)
    if beside.task not in (None, dataset.task):
        raise UserError(
            f"{network.weights}: config.json beside it says that it was trained for a {beside.task} task, and this"
            f" data set's is {dataset.task}: its answers have another meaning; use another teacher"
        )
    feature_shape(model, dataset.image_size)
    return model


def labels_of(network: Network | OutsideTeacher, dataset: Dataset) -> list[str]:
    """Labels of a network's outputs, in order: one that is not trained here has its own, all others the data set's."""
    if isinstance(network, OutsideTeacher):
        return network.named
    if not isinstance(network, Teacher) or not network.is_frozen:
        return dataset.labels
    return list(network.labels or read_beside(network.own_weights).labels or dataset.labels)


def _require_same(network: Network, key: str, there: object, here: object) -> None:
    """Refuse to build or ask a network otherwise than it was trained: it would answer all the same, and worse."""
    if there is not None and there != here:
        raise UserError(
            f"{network.weights}: config.json beside it says that it was trained with {key} {there}, not {here};"
            f" set {key}: {there} beside arch"
        )
