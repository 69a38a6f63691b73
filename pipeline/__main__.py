"""`python -m pipeline`: tracking, registry and scheduled runs of this repository's graph."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medistill import front_door
from medistill.errors import UserError
from medistill.text import pluralise, printable, to_json

if TYPE_CHECKING:
    from medistill.records.gate import Promotion

REFUSED = 3
"""Exit code of `promote` where no student passed."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Track, promote and schedule the models of this repository; run it in the repository's root.

    \b
    Examples:
      dvc repro                                   train and evaluate, one stage after the other
      python -m pipeline retrain --workers 2      the same graph in parallel, then track and promote
      python -m pipeline ui                       compare all models in the browser
      python -m pipeline promote --dry-run        which student would be promoted, and why not the others
    """,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Workers = Annotated[
    int,
    typer.Option(min=1, help="Number of stages that run at once; those that need the accelerator run one at a time."),
]


@app.command()
def preset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="paper-a-chestxray14, paper-b-lc25000 …; see below.")],
    root: Annotated[Path | None, typer.Option(metavar="ROOT", help="The data set's folder.")] = None,
) -> None:
    """Write params.yaml for a paper's system or for the phantom; the old file is kept as params.yaml.before.

    \b
    paper-a-chestxray14, paper-a-chexpert, paper-a-padchest   EEEA-Net-C2 taught by five teachers
    paper-b-covid-qu-ex, paper-b-lc25000                      OFA-595 taught by three
    phantom                                                   the built-in data set
      python -m pipeline preset paper-a-chestxray14 --root /data/ChestX-ray14
    """
    from pipeline.presets import BEFORE, write_preset

    kept = write_preset(name, root, Path.cwd())
    typer.echo("wrote params.yaml" + (f"; the old file is now {BEFORE}" if kept else ""))


@app.command()
def check() -> None:
    """Check params.yaml and build its networks before anything runs; `make repro` does this first.

    \b
    Checks that need the data run before the first training.
      python -m pipeline check
    """
    from medistill.layout import HERE
    from medistill.params import load_params

    params = load_params()
    for key, folder in {"splits": "splits", "unlabelled": HERE.unlabelled}.items():
        if key not in params.data.model_fields_set or getattr(params.data, key) is None:
            raise UserError(f"params.yaml: data.{key} is missing, and dvc.yaml needs it; add `{key}: {folder}`")

    from pipeline.preflight import require_networks

    require_networks(params)
    typer.echo(
        f"params.yaml is valid: {pluralise(len(params.run.all_teachers), 'teacher')},"
        f" {pluralise(len(params.student_models()), 'student')} to train"
    )


@app.command()
def track() -> None:
    """Bring MLflow to the state of the graph: one run per trained model.

    \b
    A second call changes nothing. The store is mlflow.db here, or $MLFLOW_TRACKING_URI.
      python -m pipeline track
    """
    _track(Path.cwd())


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000) -> None:
    """Track, then serve the MLflow UI on 127.0.0.1 until Ctrl-C.

    \b
      python -m pipeline ui --port 5001
    """
    from pipeline.locks import exclusive
    from pipeline.store import open_store
    from pipeline.tracking import serve_ui

    with exclusive(Path.cwd(), "mlflow", wait=True):
        open_store(Path.cwd())  # a server could not show the store either
    try:
        _track(Path.cwd())
    except UserError as error:  # a half-finished graph must not hide existing runs
        typer.echo(f"warning: MLflow is not up to date: {printable(str(error))}", err=True)
    serve_ui(Path.cwd(), port)


@app.command()
def promote(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen without writing anything.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the best student that passes every rule the champion; exit code 3 if none passes.

    \b
    Rules and limits are in params.yaml under promote; the verdict goes to reports/promotion.json.
      python -m pipeline promote --dry-run
    """
    from medistill.params import load_params
    from pipeline.registry import promote

    promotion = promote(load_params(), Path.cwd(), dry_run=dry_run)
    if as_json:
        typer.echo(to_json(promotion.to_json()))
    else:
        _show(promotion)
    if promotion.outcome == "refused":
        raise typer.Exit(REFUSED)


@app.command()
def history(as_json: Json = False) -> None:
    """Show past champions and refused candidates.

    \b
      python -m pipeline history --json
    """
    from pipeline.history import LOOKS, looks, read_history

    lines = read_history(Path.cwd())
    count = looks(lines)
    if as_json:
        typer.echo(to_json({"history": [line.model_dump(exclude_unset=True) for line in lines], "looks": count}))
        return
    if not lines:
        typer.echo("nothing has been promoted or refused yet; run `python -m pipeline promote`")
    for line in lines:
        champion = line.champion
        version = f" (version {champion.version})" if champion and champion.version else ""
        name = f"{champion.model}{version}" if champion else "no champion"
        typer.echo(f"{line.time}  {line.action:<11}  {name}")
        for reason in line.refused:
            typer.echo(f"    refused  {printable(reason)}")
    if count > LOOKS:
        typer.echo(
            f"warning: {count} different sets of models were judged on this data; "
            "its test set has been used too often to count as unseen",
            err=True,
        )


@app.command()
def rollback(as_json: Json = False) -> None:
    """Make the previous champion the champion again.

    \b
    The withdrawn model is never promoted again; a retrained model is a different one.
      python -m pipeline rollback
    """
    from pipeline.registry import rollback

    champion, withdrawn = rollback(Path.cwd())
    if as_json:
        typer.echo(to_json({"champion": champion.model_dump(), "withdrawn": withdrawn.model_dump()}))
    else:
        typer.echo(
            f"champion: {champion.model} (version {champion.version}); "
            f"withdrawn: {withdrawn.model} (version {withdrawn.version})"
        )


@app.command()
def retrain(workers: Workers = 2) -> None:
    """Run the graph of dvc.yaml in parallel as a Prefect flow, then track and promote.

    \b
    Stages that did not change are skipped, as by `dvc repro`. Where `python -m pipeline prefect` runs, its UI shows the
    run; $PREFECT_API_URL selects another server; otherwise a temporary one is started.
      python -m pipeline retrain --workers 4
    """
    _prepare_prefect()
    from pipeline.flow import run_here

    if not run_here(Path.cwd(), workers):
        raise typer.Exit(1)


@app.command()
def prefect() -> None:
    """Serve Prefect's UI on 127.0.0.1:4200 until Ctrl-C; `retrain` and `serve` use it while it runs.

    \b
    Web pages cannot use it: its UI asks for the key, which only you can read, in a file that this command names.
      python -m pipeline prefect
    """
    from pipeline.prefect_server import serve_prefect

    serve_prefect(Path.cwd())


@app.command()
def serve(
    cron: Annotated[str, typer.Option(help='When to retrain, in UTC: minute hour day month weekday, "0 2 * * *".')],
    workers: Workers = 2,
) -> None:
    """Retrain on a schedule, in this process, until Ctrl-C.

    \b
      python -m pipeline serve --cron "0 2 * * *"
    For a work pool instead see prefect.yaml.
    """
    _prepare_prefect()
    from pipeline.flow import serve

    serve(Path.cwd(), cron, workers)


def _track(root: Path) -> None:
    from medistill.params import load_params
    from pipeline.registry import mend_champion
    from pipeline.store import shown_uri
    from pipeline.tracking import track

    tracked = track(load_params(), root)
    if lost := mend_champion(root):
        typer.echo(f"warning: {lost}", err=True)
    typer.echo(
        f"{len(tracked.created)} created, {len(tracked.updated)} updated, {len(tracked.unchanged)} unchanged "
        f"in {printable(shown_uri(root))}"
    )


def _show(promotion: "Promotion") -> None:
    from pipeline.registry import promotion_lines

    for line in promotion_lines(promotion):
        typer.echo(printable(line))


def _prepare_prefect() -> None:
    """Settings that Prefect reads when it is imported."""
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "60")


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    front_door.run(app)


if __name__ == "__main__":
    main()
