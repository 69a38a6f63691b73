"""Prefect's server on this machine, closed to web pages and to other users of the machine.

By default Prefect's server needs no key and lets every web page read and change it, and a deployment's pull steps are
shell commands. Here each start draws a key, without which the API answers only health checks; no foreign origin is
allowed, and no host but this machine's own. Programs get the key from the environment or from a file that only the user
can read, never on a command line.
"""

import base64
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_API_AUTH_STRING,
    PREFECT_SERVER_API_PORT,
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
    temporary_settings,
)

from medistill import front_door
from medistill.errors import UserError
from pipeline.processes import answers, server

HOST, PORT = "127.0.0.1", 4200
LOCAL_API = f"http://{HOST}:{PORT}/api"


def key_file() -> Path:
    """Where the key of the running server is, for the user and for programs of other terminals."""
    return Path(PREFECT_HOME.value()) / "medistill.key"


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Let Prefect use the user's server, else ours if it runs, else a temporary one that also has a key."""
    key = None if PREFECT_API_URL.value() else _key_of_ours()
    if PREFECT_API_URL.value():
        settings = {}
    elif key:
        settings = {PREFECT_API_URL: LOCAL_API, PREFECT_API_AUTH_STRING: key}
    else:
        key = _new_key()
        settings = {
            PREFECT_API_AUTH_STRING: key,
            PREFECT_SERVER_API_AUTH_STRING: key,
            PREFECT_SERVER_CORS_ALLOWED_ORIGINS: f"http://{HOST}",
        }
    with temporary_settings(settings):
        yield


@contextlib.contextmanager
def scheduling(root: Path) -> Iterator[None]:
    """Like `connected`, but starts our server if none runs: the temporary server does not schedule.

    Raises:
        UserError: a server that is not ours is at our address, or ours does not come up.
    """
    with contextlib.ExitStack() as stack:
        if not PREFECT_API_URL.value() and not _key_of_ours():
            stack.enter_context(started(root))
            print(f"Prefect: http://{HOST}:{PORT}; it asks for the key in {key_file()}", flush=True)
        stack.enter_context(connected())
        yield


@contextlib.contextmanager
def started(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server while the block runs; its key is in `key_file()` for as long.

    Raises:
        UserError: something is at our address already, or the server does not come up.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, PORT))
        except OSError:
            raise UserError(
                f"port {PORT} is used by a program that medistill did not start; end it, or, if it is a Prefect"
                " server that you trust, set PREFECT_API_URL, and PREFECT_API_AUTH_STRING if it has a key"
            ) from None
    key = _new_key()
    environment = {
        "PREFECT_SERVER_API_AUTH_STRING": key,
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(PORT),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{PORT},http://localhost:{PORT}",
        "PREFECT_SERVER_UI_API_URL": LOCAL_API,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    command = [sys.executable, "-m", "pipeline.prefect_server"]
    with server(command, f"{LOCAL_API}/health", root, environment=environment) as process:
        _write_key(key)
        try:
            yield process
        finally:
            key_file().unlink(missing_ok=True)


def serve_prefect(root: Path) -> None:
    """Run the server and its UI until Ctrl-C or SIGTERM.

    Raises:
        UserError: it runs already, something else is at its address, or it does not come up.
    """
    if _key_of_ours():
        raise UserError(f"Prefect runs already at http://{HOST}:{PORT}; it asks for the key in {key_file()}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with started(root) as process:
            print(f"Prefect: http://{HOST}:{PORT}; it asks for the key in {key_file()} (Ctrl-C ends it)", flush=True)
            process.wait()
        raise UserError(f"Prefect's server ended with code {process.returncode}")
    except KeyboardInterrupt:
        print("Prefect ended")


def _new_key() -> str:
    return f"medistill:{secrets.token_urlsafe(32)}"


def _write_key(key: str) -> None:
    path = key_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)


def _key_of_ours() -> str | None:
    """The key of the server at our address; None if no server there accepts the key in the file."""
    try:
        key = key_file().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    token = base64.b64encode(key.encode()).decode()
    request = urllib.request.Request(f"{LOCAL_API}/version", headers={"Authorization": f"Basic {token}"})
    return key if answers(request) else None


def main() -> None:
    """Run Prefect's own server in this process, by the settings in the environment."""
    import uvicorn
    from prefect.server.api import collections
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    if not PREFECT_SERVER_API_AUTH_STRING.value():
        raise UserError("PREFECT_SERVER_API_AUTH_STRING is not set; run `python -m pipeline prefect`")
    # Its lists of worker and block types come with the package; without an address it asks GitHub for no newer ones.
    collections.KNOWN_VIEWS.update(dict.fromkeys(collections.KNOWN_VIEWS, ""))
    # A page whose name leads to this machine (DNS rebinding) has that name in the header, and browsers do not let it be
    # forged.
    app = TrustedHostMiddleware(_with_policy(create_app(final=True)), [HOST, "localhost"], www_redirect=False)
    uvicorn.run(app, host=HOST, port=PREFECT_SERVER_API_PORT.value(), log_level="warning")


def _with_policy(app: Any) -> Any:
    """Tell browsers to let the UI speak to this server alone, and to show it in no other page.

    The UI contacts Amplitude about recording a session before it checks whether that is allowed.
    """
    own = [
        f"{kind}://{name}:{PREFECT_SERVER_API_PORT.value()}" for kind in ("http", "ws") for name in (HOST, "localhost")
    ]
    policy = (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
        f"connect-src 'self' {' '.join(own)}; frame-ancestors 'self'"
    )

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", policy.encode())]
            await send(message)

        await app(scope, receive, send_with_policy)

    return answer


if __name__ == "__main__":
    front_door.run(main)
