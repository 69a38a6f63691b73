"""MLflow's store: a fault is one line that says what to do, and a busy store is waited for."""

import contextlib
import http.server
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_graph
import mlflow
import pytest
import sqlalchemy

from medistill.errors import UserError
from pipeline import store
from pipeline.store import REBUILT, open_store, shown_uri, store_errors


@pytest.fixture
def root(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def run_sql(root: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as file:
        file.execute(statement)
        file.commit()


def in_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / "mlflow.db").write_bytes(change((root / "mlflow.db").read_bytes()))


def folder(root: Path) -> None:
    (root / "mlflow.db").unlink()
    (root / "mlflow.db").mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage": (in_bytes(lambda whole: b"garbage" * 1000), "file is not a database"),
    "cut": (in_bytes(lambda whole: whole[: len(whole) // 2]), "malformed"),
    "zeros in the middle": (in_bytes(lambda whole: whole[:40_960] + bytes(40_960) + whole[81_920:]), "Page"),
    "a folder": (folder, "unable to open database file"),
    "of a newer MLflow": (lambda root: run_sql(root, "update alembic_version set version_num = 'f0'"), "schema"),
    "of an older MLflow": (
        lambda root: run_sql(root, "update alembic_version set version_num = '451aebb31d03'"),
        "schema",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_and_what_to_do(root: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(root)

    with pytest.raises(UserError) as said:
        open_store(root)

    assert re.fullmatch(rf"MLflow at sqlite:///{root}/mlflow.db: .*{reason}.*; {REBUILT}", str(said.value))
    assert len(str(said.value)) < 600


def test_an_empty_file_becomes_a_store(root: Path) -> None:
    (root / "mlflow.db").write_bytes(b"")

    assert open_store(root).search_experiments(max_results=1)


@contextlib.contextmanager
def locked(root: Path, seconds: float) -> Iterator[None]:
    """Let another process lock the store for so many seconds."""
    code = (
        "import sqlite3, sys, time; file = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "file.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); time.sleep(float(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(root / "mlflow.db"), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.kill()


def test_a_short_lock_is_waited_for(root: Path) -> None:
    with locked(root, 2):
        start = time.monotonic()
        assert open_store(root).search_experiments(max_results=1)
        assert time.monotonic() - start > 1


def test_a_long_lock_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PATIENCE", 0.5)

    with locked(root, 60), pytest.raises(UserError, match=r"locked; another process uses it; wait until it"):
        open_store(root)


@pytest.mark.slow
def test_a_lock_of_half_a_minute_while_a_command_is_at_work_is_one_line(repository: Path) -> None:
    with locked(repository, 60):
        done = fake_graph.pipeline(repository, "track")

    assert done.returncode == 2
    assert re.fullmatch(r"error: MLflow at .*mlflow.db: database is locked; another process .*\n", done.stderr)
    assert "3 created" in fake_graph.pipeline(repository, "track").stdout


@pytest.mark.slow
def test_a_lock_that_comes_after_the_store_was_opened_is_waited_for(root: Path) -> None:
    """SQLite itself gives up after five seconds."""
    client = open_store(root)
    with locked(root, 7):
        assert client.create_experiment("while it is locked")


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_named(repository: Path) -> None:
    """Root may write to any file, so this right is taken away."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not here")
    (repository / "mlflow.db").chmod(0o444)
    command = ["setpriv", "--bounding-set=-dac_override", sys.executable, "-m", "pipeline", "track"]
    done = subprocess.run(command, cwd=repository, env=fake_graph.environment(), capture_output=True, text=True)
    if "setpriv: " in done.stderr:
        pytest.skip(f"rights cannot be taken away here: {done.stderr}")

    assert done.returncode == 2
    assert re.fullmatch(r"error: MLflow at .*mlflow.db: .*; make it writable, or delete mlflow.db .*\n", done.stderr)


ADDRESSES = {
    "postgresql://me:secret@127.0.0.1/x": "No module named 'psycopg2'",
    "postgresql+nonsense://127.0.0.1/x": "Can't load plugin",
    "sqlite://": "it names no file, so nothing would be saved",
    "sqlite:x": "Could not parse SQLAlchemy URL",
    "http://": "it has no host",
    "http://[::1": "Invalid IPv6 URL",
    "http://me:secret@127.0.0.1:99999": r"Invalid url: http://me:\*\*\*@127",
    "http://127.0.0.1:9": "Connection refused|Failed to establish",
    "nonsense": "maintenance mode",
    "file:/nowhere": "maintenance mode",
    "foo://bar": "unsupported URI 'foo://bar'",
    "sqlite:////proc/x.db": "unable to open database file",  # MLflow itself would try for two minutes
    "sqlite:///file:x?mode=ro&uri=true": "unable to open database file",
}


@pytest.mark.parametrize(("address", "reason"), ADDRESSES.items(), ids=ADDRESSES)
def test_a_bad_address_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, reason: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()

    with pytest.raises(UserError, match=reason) as said:
        open_store(tmp_path)

    assert time.monotonic() - start < 60
    assert str(said.value).startswith("MLflow at ")
    assert str(said.value).endswith("; check $MLFLOW_TRACKING_URI")
    assert "secret" not in str(said.value)
    assert "\n" not in str(said.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_mlflow_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{other.server_port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(UserError, match=r"failed with error code 501.*; check \$MLFLOW_TRACKING_URI") as said:
            open_store(tmp_path)
        other.shutdown()

    assert len(str(said.value)) < 500


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@db:5432/x?sslmode=require", "postgresql://me:***@db:5432/x?sslmode=require"),
        ("https://me:secret@[::1]:5000/mlflow", "https://me:***@[::1]:5000/mlflow"),
        ("sqlite:////tmp/a b.db", "sqlite:////tmp/a b.db"),
    ],
)
def test_a_password_is_never_printed(monkeypatch: pytest.MonkeyPatch, address: str, shown: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    assert shown_uri(Path()) == shown


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "mlruns/1/a"), "mlruns/1/a: No space left on device; make room and"),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device")]), "MLflow at .*: No space left on device; "),
        (sqlite3.OperationalError("database or disk is full"), "MLflow at .*: database or disk is full; make room and"),
        (OSError(30, "Read-only file system", "mlruns/1/a"), "mlruns/1/a: Read-only file system; make it writable, or"),
    ],
)
def test_a_full_disk_is_no_reason_to_delete_the_store(root: Path, error: Exception, said: str) -> None:
    if isinstance(error, sqlite3.Error):  # wrapped as MLflow passes it on
        within = sqlalchemy.exc.OperationalError("INSERT INTO metrics VALUES (?)", {}, error)
        error = mlflow.exceptions.MlflowException(f"a long text: {within}")
        error.__cause__ = within
    with pytest.raises(UserError, match=f"^{said}") as caught, store_errors(root):
        raise error
    assert "delete" not in str(caught.value)
    assert "INSERT" not in str(caught.value)


@pytest.mark.slow
def test_a_disk_that_fills_while_the_store_is_made_leaves_no_half_of_one(small_disk: Callable[[int], Path]) -> None:
    folder = small_disk(300)
    code = "import sys; from pathlib import Path; from medistill import front_door\n"
    code += "from pipeline.store import open_store\n"
    code += "front_door.run(lambda: open_store(Path(sys.argv[1])).search_experiments() and None)"
    command = [sys.executable, "-c", code, str(folder)]

    full = subprocess.run(command, env=fake_graph.environment(), capture_output=True, text=True)
    assert full.returncode == 2
    assert re.fullmatch(r"error: MLflow at .*: database or disk is full; make room and run it again\n", full.stderr)
    assert list(folder.iterdir()) == []

    subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
    again = subprocess.run(command, env=fake_graph.environment(), capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")
