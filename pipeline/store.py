"""MLflow's store: its address, whether it can be used, and its errors as one line.

Without `MLFLOW_TRACKING_URI` it is the SQLite file mlflow.db with the folder mlruns beside it. Both can be deleted at
any time: `track` and `promote` make them again from DVC's outputs and registry/history.jsonl.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from medistill.errors import UserError, remedy, system_error
from medistill.layout import Layout
from medistill.text import shortened

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 15.0
"""Seconds to wait for a process that has locked the SQLite file."""
REBUILT = "delete mlflow.db and mlruns; they are rebuilt from DVC's outputs and registry/history.jsonl"
REASON = 300
"""Most characters of a library's message about a store; a web server may answer with a whole page."""


def is_users() -> bool:
    """Whether the user has named a store, which no message must advise to delete."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def tracking_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the SQLite file mlflow.db in `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Layout(root.resolve()).mlflow_database}"


def shown_uri(root: Path) -> str:
    """The store as it may be printed: without a password."""
    return _without_password(root, tracking_uri(root))


def open_store(root: Path) -> "MlflowClient":
    """A client of the store of `root`; the schema of a new SQLite file is created here.

    Call it while the lock `mlflow` is held: two processes that create the schema at once break it.

    Raises:
        UserError: the store cannot be used; the message says why and what to do.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # a server that is not there is said in seconds,
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # and one that does not answer in minutes
    uri, theirs = tracking_uri(root), is_users()
    new = not theirs and not Layout(root).mlflow_database.exists()
    _require_address(root, uri)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs, it raises as well
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        if not theirs:
            os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it; the next call would take it for the user's
        client = mlflow.MlflowClient(uri, uri)
        client.search_experiments(max_results=1)  # creates or checks the schema, or speaks to the server
    except Exception as error:  # libraries raise many kinds of errors for an unusable address or file
        if new:  # an incomplete schema is useless
            Layout(root).mlflow_database.unlink(missing_ok=True)
        raise _unusable(root, error) from error
    return client


def local_folder(address: str) -> Path | None:
    """The folder on this machine in which a run or a model keeps its files; None where a server keeps them."""
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") and not parts.netloc else None


@contextlib.contextmanager
def store_errors(root: Path) -> Iterator[None]:
    """Turn errors in using the store into one line that names it (`UserError`)."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:  # those of `requests` are OSErrors
        raise _unusable(root, error) from error


def _unusable(root: Path, error: Exception) -> UserError:
    said = " ".join(_innermost(error).split())
    reason = shortened(_without_password(root, said), REASON)
    named = f"MLflow at {shown_uri(root)}: {reason or type(error).__name__}"
    if is_users():
        return UserError(f"{named}; check $MLFLOW_TRACKING_URI")
    if "locked" in reason:
        return UserError(f"{named}; another process uses it; wait until it ends, and try again")
    if (known := system_error(error)) is not None:
        return UserError(f"{known.filename or f'MLflow at {shown_uri(root)}'}: {remedy(known)}")
    if "disk is full" in reason:
        return UserError(f"{named}; make room and run it again")
    if isinstance(error, PermissionError) or "readonly" in reason:
        return UserError(f"{named}; make it writable, or {REBUILT}")
    if isinstance(error, OSError):  # about a file, not about the content of the store
        return UserError(named)
    return UserError(f"{named}; {REBUILT}")


def _innermost(error: BaseException) -> str:
    """The database's own message, without the statement and MLflow's additions; else the message of `error`."""
    within: BaseException | None = error
    while within is not None:
        if (database := getattr(within, "orig", None)) is not None:
            return str(database)
        within = within.__cause__ or within.__context__
    return str(error)


def _without_password(root: Path, text: str) -> str:
    """A text that may hold the store's address, without its password."""
    with contextlib.suppress(ValueError):
        password = urlsplit(tracking_uri(root)).password
        if password:
            return text.replace(f":{password}@", ":***@")
    return text


def _require_address(root: Path, uri: str) -> None:
    """Refuse an address without a host, which MLflow would guess, and a database that cannot be used.

    MLflow itself would try again for minutes, and then say more than one line.
    """
    kind = uri.partition(":")[0].partition("+")[0]
    try:
        if kind in ("http", "https") and not urlsplit(uri).hostname:
            raise ValueError("it has no host")
        if kind not in ("sqlite", "postgresql", "mysql", "mssql"):
            return
        import sqlalchemy

        _be_patient()
        if kind == "sqlite":
            path = sqlalchemy.make_url(uri).database
            if path in (None, "", ":memory:"):
                raise ValueError("it names no file, so nothing would be saved")
            if Path(path).exists():
                _require_sqlite(Path(path))
                return
            if not Path(path).parent.is_dir():  # MLflow makes it
                return
        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()
    except Exception as error:  # no driver, no host, no password, no such file: each library raises its own errors
        raise _unusable(root, error) from error


def _require_sqlite(path: Path) -> None:
    """Open an existing SQLite file for writing, as soon as no other process uses it.

    Raises:
        sqlite3.Error: it is not an SQLite file, is damaged, or is locked for longer than `PATIENCE`.
        PermissionError: it cannot be written.
    """
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):  # beside it SQLite writes its journal
        raise PermissionError("it cannot be written")
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", timeout=PATIENCE, uri=True)) as file:
        file.isolation_level = None
        file.execute("BEGIN IMMEDIATE")
        (said,) = file.execute("PRAGMA quick_check(1)").fetchone()
        file.execute("ROLLBACK")
    if said != "ok":
        raise sqlite3.DatabaseError(said)


def _be_patient() -> None:
    """Let every connection to an SQLite file of this process wait for others, however MLflow opens it."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "connect", _wait_for_others):
        event.listen(Engine, "connect", _wait_for_others)


def _wait_for_others(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")
