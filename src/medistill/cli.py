"""The `medistill` command.

Nothing heavy is imported at the top: each command imports what it needs, so that `--help` answers at once.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from medistill import __version__, front_door
from medistill.errors import UserError
from medistill.images.limits import LARGEST_SIZE
from medistill.runtime.bundle import DEFAULT_POINT, DISCLAIMER
from medistill.text import pluralise, printable, to_json

if TYPE_CHECKING:
    from medistill.records.evaluation import Compared

Item = TypeVar("Item")

app = typer.Typer(
    name="medistill",
    help="Compact medical-image classifiers. Research use only, not a medical device.",
    epilog="medistill COMMAND --help shows a command's options and examples.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Prevalence(StrEnum):
    """How often the phantom's labels occur."""

    BALANCED = "balanced"
    NIH = "nih"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"medistill {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  medistill phantom data/raw/phantom --images 1000 --size 128\n"
    "  medistill phantom rare --images 5000 --size 224 --prevalence nih --seed 1\n"
)
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must be empty, absent, or a phantom.")],
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 1000,
    size: Annotated[int, typer.Option(min=32, max=LARGEST_SIZE, help="Height and width in pixels.")] = 128,
    prevalence: Annotated[
        Prevalence, typer.Option(help="How often findings occur: balanced, or as in ChestX-ray14 (nih).")
    ] = Prevalence.BALANCED,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
) -> None:
    """Draw a data set of chest X-rays.

    They show 14 kinds of findings, with boxes, and lie in ChestX-ray14's layout on disk.
    """
    from medistill.phantom.write import write_phantom

    try:
        write_phantom(out, images=images, size=size, seed=seed, prevalence=prevalence.value, progress=_bar)
    except ValueError as error:
        raise UserError(str(error)) from error
    print(f"{printable(str(out))}: {images} images of {size}x{size} px")


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  medistill predict chest.png --model exports/eeea_net_c2-kd-0\n"
    "  medistill predict films/*.png --model exports/eeea_net_c2-kd-0 --json > answers.json\n"
    "  medistill predict chest.png --model exports/eeea_net_c2-kd-0 --at sensitivity:0.9\n\n"
    "Exit code 2 if an image could not be read or the model gave no number for it; the others are still predicted."
)
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files (PNG, JPEG, TIFF, ...).")],
    model: Annotated[Path, typer.Option(help="Folder of an exported model, exports/NAME.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="KIND:PROMISED", help="Mark what is called at these thresholds, such as sensitivity:0.9."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object per image.")] = False,
    heatmaps: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a picture there for each label that is called: where the model looks."),
    ] = None,
    timeout: Annotated[
        int,
        typer.Option(
            min=1, max=86_400, metavar="SECONDS", help="Give up if the model does not answer within this time."
        ),
    ] = 600,
) -> None:
    """Predict the labels of images.

    With an exported model, on the CPU. Research use only, not a medical device.
    """
    from medistill.runtime.overlay import HeatMaps
    from medistill.runtime.predictor import Predictor
    from medistill.runtime.words import as_json_object, in_words

    limit = f"{model}: no answer within {timeout} s; if the machine is just slow, raise --timeout"
    with _time_limit(timeout, limit):
        predictor = Predictor(model)
    name = predictor.bundle.name
    asked = at or (None if heatmaps is None else DEFAULT_POINT)
    point = None if asked is None else predictor.bundle.point(asked)
    drawn = None if heatmaps is None or point is None else HeatMaps(heatmaps, predictor.bundle, point)
    if not as_json:
        print(f"{name}: {DISCLAIMER}")
    if point is not None and not as_json:
        print(f"*: called; in the mean over patients like those of validation, {point}; ?: no threshold")
    failed = False
    answers = []
    predictions = predictor.predict(images, maps=drawn is not None)
    while True:
        with _time_limit(timeout, limit):
            prediction = next(predictions, None)
        if prediction is None:
            break
        if prediction.error is not None:
            failed = True
            print(f"error: {printable(f'{prediction.image}: {prediction.error}')}", file=sys.stderr)
        elif drawn is not None:
            drawn.write(prediction)
        if as_json:
            answers.append(as_json_object(prediction, name, point))
        elif prediction.probabilities is not None:
            print(in_words(prediction, point))
    if as_json:
        print(to_json(answers))
    raise typer.Exit(2 if failed else 0)


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  medistill check /data/ChestX-ray14 --format chestxray14\n"
    "  medistill check /data/CheXpert-v1.0-small --format chexpert --set uncertainty=ones --json > check.json\n"
    "  medistill check /data/lung_colon_image_set --format lc25000 --write-splits splits\n\n"
    "Exit code 1 if there is an error that would stop ingest or validate, 2 if the data set could not be read."
    " Decoded images are kept for the next run in --cache, which may be deleted."
)
def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The data set's folder.")],
    format: Annotated[str, typer.Option(help="Its format, as data.format in params.yaml.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the format; may be repeated.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="official or patient; official by default if the data set has official splits.")
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of your own groups.csv and sides.csv, if any; by default that of --write-splits, or splits.",
        ),
    ] = None,
    write_splits: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write sides.csv (stratified), and groups.csv if copies were found, into this folder, and audit "
            "these splits.",
        ),
    ] = None,
    find_groups: Annotated[
        bool, typer.Option("--find-groups", help="Look for augmented copies (turned, mirrored, zoomed) in any format.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = os.cpu_count() or 1,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keeps decoded images.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Check a data set before anything is trained on it.

    Reads it as `ingest` would, and reports entries that are left out, images or patients in two splits,
    near-duplicates, and labels that can be predicted from view, size, source or the border; and applies the rules of
    the stage `validate`: empty splits, constant labels, odd ages and views, blank, white or inverted images. Where
    there is no official split and no sides.csv, patients are dealt 65 % to train, 15 % to val and 20 % to test;
    params.yaml is not read.
    """
    try:
        from medistill.audit import command
    except ModuleNotFoundError as error:
        raise UserError(f"check needs {error.name}: pip install 'medistill[train]'") from None

    request = command.Request(
        root,
        format,
        _cache_of(cache),
        options=command.parse_options(settings or []),
        split=split,
        splits=splits,
        write_splits=write_splits,
        find_groups=find_groups,
        workers=workers,
    )
    report = command.check(request)
    print(to_json(report.to_json()) if as_json else command.report_text(report))
    raise typer.Exit(1 if any(found.severity == "error" for found in report.audited.findings) else 0)


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  medistill models\n"
    "  medistill models --labels 5 --size 64 --json > models.json\n\n"
    "Any other network of timm that ends in a feature map can be a teacher or a student as well."
)
def models(
    labels: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of labels; the number of parameters depends on it.")
    ] = 14,
    size: Annotated[
        int, typer.Option(min=32, max=LARGEST_SIZE, help="Height and width of the images in pixels.")
    ] = 224,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object per network.")] = False,
) -> None:
    """List the teachers and students of systems A and B, and compact networks to compare with.

    A is arXiv 2305.06244, B arXiv 2508.15251. Parameters, multiply-accumulates of one image and the size of the last
    feature map are counted; the last columns say what to start it from.
    """
    try:
        from medistill.models import systems
    except ModuleNotFoundError as error:
        raise UserError(f"models needs {error.name}: pip install 'medistill[train]'") from None

    measured = []
    for network in systems.NETWORKS:
        try:
            measured.append(systems.measure(network, labels=labels, size=size))
        except UserError as error:  # a network that does not take this size
            print(f"note: {printable(str(error))}; the network is left out", file=sys.stderr)
    print(to_json(measured) if as_json else systems.models_table(measured))


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  medistill provenance train_val_list.txt --format chestxray14 --out weights/train_ids.npz\n"
    "  medistill provenance mimic-cxr-2.0.0-split.csv.gz --format mimic --out weights/train_ids.npz --json\n\n"
    "A list has names, no pixels: copies of its images under other names are not found. docs/data.md says more."
)
def provenance(
    listing: Annotated[
        Path, typer.Argument(metavar="LIST", help="The published list, text or CSV, packed (.gz) or not.")
    ],
    format: Annotated[str, typer.Option(help="Of the data set: chestxray14, chexpert, mimic or padchest.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="train_ids.npz, to lie beside the model's weights.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Say what a model was trained on, from a published list of its training images.

    Writes the train_ids.npz by which a model that has seen the validation or test split is refused: as a teacher, as
    a start, and by the gate. Lists name images (one per line, or columns Image Index, Path, ImageID, dicom_id) and
    patients (by those names, or columns Patient ID, PatientID, subject_id).
    """
    try:
        from medistill.data import published
        from medistill.data.provenance import FILE
    except ModuleNotFoundError as error:
        raise UserError(f"provenance needs {error.name}: pip install 'medistill[train]'") from None

    published.require_new(out)
    found = published.read_published(listing, format)
    published.write_published(out, found)
    counts = {"images": found.images, "patients": found.patients, "held_out": found.held_out}
    if as_json:
        print(to_json({"list": str(listing), "format": found.format, **counts, "written": str(out)}))
        return
    left = f"; {pluralise(found.held_out, 'image')} of its test split left out" if found.held_out else ""
    print(printable(f"{listing}: {pluralise(found.images, 'image')} of {pluralise(found.patients, 'patient')}{left}"))
    print(printable(f"wrote {out}" + ("" if out.name == FILE else f"; it is read as {FILE}")))


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  medistill compare mine.csv --truth test.csv --group patient_id\n"
    "  medistill compare old.csv new.csv --truth test.csv --group patient_id --by sex,view --json > figures.json\n\n"
    "Each table has a column of image ids and one of probabilities for each label, named as in the truth, whose labels"
    " are 1, 0, or empty where unknown. Other files are compared with the first. docs/figures.md says what the figures"
    " are."
)
def compare(
    predictions: Annotated[list[Path], typer.Argument(metavar="FILE", help="Tables of predictions, one per model.")],
    truth: Annotated[Path, typer.Option(metavar="FILE", help="The table of the truth.")],
    id: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Image ids, in all tables; by default the truth's first column."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Patients, in the truth: their images are drawn together.")
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="COLUMNS", help="Groups to compare, in the truth: sex, age, view, source.")
    ] = "",
    exclusive: Annotated[bool, typer.Option("--exclusive", help="An image has exactly one of the labels.")] = False,
    logits: Annotated[bool, typer.Option("--logits", help="The tables hold logits, not probabilities.")] = False,
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="Of the bootstrap over patients.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page as well.")] = None,
) -> None:
    """Measure anybody's predictions, and compare them.

    With intervals over patients, in the same resamples for every model, and p adjusted for what is compared (Holm).
    Neither a checkout nor a network is needed.
    """
    try:
        from medistill.evaluation import command
    except ModuleNotFoundError as error:
        raise UserError(f"compare needs {error.name}: pip install 'medistill[train]'") from None

    _require_writable(html)
    names = [name.strip() for name in by.split(",") if name.strip()]
    request = command.Request(predictions, truth, id, group, names, exclusive, logits, resamples, seed)
    compared = command.compare_tables(request)
    _show_compared(compared, as_json, html)


@app.command(
    epilog="Examples:\n\n"
    "\b\n"
    "  medistill evaluate exports/eeea_net_c2-kd-0 /data/PadChest --format padchest\n"
    "  medistill evaluate exports/new /data/site --format csv --set labels=[fluid] --map Effusion=fluid\n"
    "  medistill evaluate exports/new /data/CheXpert --format chexpert --against exports/old --html found.html\n\n"
    "All images of the data set are measured but those that a model was trained on. Nothing is fitted: thresholds are"
    " those of the export. docs/external.md says more. Decoded images are kept in --cache, which may be deleted."
)
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="EXPORT", help="Folder of an exported model, exports/NAME.")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The data set's folder.")],
    format: Annotated[str, typer.Option(help="Its format, as data.format in params.yaml.")],
    renamed: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OURS=THEIRS", help="What the data set calls a label; may be repeated."),
    ] = None,
    against: Annotated[
        list[Path] | None, typer.Option(metavar="EXPORT", help="An export to compare it with; may be repeated.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the format; may be repeated.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your own groups.csv: what is of one patient.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, max=100_000, help="Of the bootstrap over patients.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = os.cpu_count() or 1,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keeps decoded images.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page as well.")] = None,
) -> None:
    """Evaluate an exported model on a data set from elsewhere.

    With ONNX Runtime alone, by the labels that both know, with intervals over patients, the thresholds of the export,
    and a plain verdict. Research use only, not a medical device.
    """
    _require_writable(html)
    names = {}
    for pair in renamed or []:
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours or not theirs or ours in names:
            raise UserError(f"--map {pair}: must be OURS=THEIRS, once for each label of the model")
        names[ours] = theirs
    try:
        from medistill.audit.command import parse_options
        from medistill.evaluation import external
        from medistill.evaluation.foreign import Place
    except ModuleNotFoundError as error:
        raise UserError(f"evaluate needs {error.name}: pip install 'medistill[train]'") from None

    options = parse_options(settings or [])
    place = Place(root, format, _cache_of(cache), options, splits, workers)
    found = external.evaluate(external.Request(model, place, names, against or [], resamples, seed))
    _show_compared(found, as_json, html)


@app.command(epilog="Example:\n\n\b\n  medistill web exports/eeea_net_c2-kd-0\n")
def web(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of an exported model, exports/NAME.")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0: any that is free.")] = 8765,
) -> None:
    """Serve a model's web page, which `make web` builds, to browsers of this machine."""
    from medistill.web.serve import serve

    serve(model, port)


def _cache_of(given: Path | None) -> Path:
    """Where decoded images are kept."""
    return given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medistill"


def _require_writable(html: Path | None) -> None:
    """Refuse a page that cannot be written, before minutes of work."""
    if html is not None and (html.is_dir() or not html.parent.is_dir()):
        raise UserError(f"--html {html}: {'is a folder' if html.is_dir() else f'{html.parent} is no folder'}")


def _show_compared(found: "Compared", as_json: bool, html: Path | None) -> None:
    """Print what was found, and write the page."""
    from medistill.report.compared import as_text

    if html is not None:
        from medistill.report.compared_page import write_page

        write_page(html, found)
    print(to_json(found.to_json()) if as_json else as_text(found))


@contextlib.contextmanager
def _time_limit(seconds: float, message: str) -> Iterator[None]:
    """End the process with one line and exit code 2 where the block takes longer: native code cannot be interrupted.

    ONNX Runtime before 1.31 blocks all threads while it opens a model: with these versions only predictions are
    limited.
    """

    def give_up() -> None:
        try:
            print(f"error: {printable(message)}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        finally:
            os._exit(2)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _bar(items: Iterable[Item], total: int) -> Iterator[Item]:
    """Pass `items` on, with a bar on stderr (share, time left, rate) where that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    start = time.perf_counter()
    with typer.progressbar(items, length=total, file=sys.stderr, show_pos=True) as bar:
        bar.item_show_func = lambda _: f"{bar.pos / (time.perf_counter() - start):.0f} images/s"
        yield from bar


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and exit code 2."""
    front_door.run(app)


if __name__ == "__main__":
    main()
