"""The server of a model's web page, for this machine alone."""

from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from medistill.errors import UserError, remedy, system_error
from medistill.layout import ExportFolder
from medistill.runtime.bundle import DISCLAIMER, read_bundle
from medistill.text import printable

HOST = "127.0.0.1"

_PAGE = "index.html"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy: nothing but the page's own files, and no address to which anything could be sent."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # is asked for again, and sent again only where it has changed
}

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
"""Media types by suffix; those of the machine's own table differ from machine to machine."""


class PageHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD with the files of one folder."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "medistill", ""

    def __init__(self, folder: Path, *arguments: object) -> None:
        """Serve `folder`, an absolute path without links."""
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]  # as the server calls it

    def do_GET(self) -> None:
        """Send a file."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send what GET would, without the file."""
        self._answer(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: names of files are in no request, and the terminal is the user's."""

    def end_headers(self) -> None:
        """Add what every answer has, errors too."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _answer(self, *, with_body: bool) -> None:
        if not self._is_own_host():
            self.send_error(HTTPStatus.FORBIDDEN, "this page has no such host")
            return
        path = self._file()
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND, "no such file")
            return
        status = path.stat()
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.send_header("ETag", tag)
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", KINDS.get(path.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", tag)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _is_own_host(self) -> bool:
        """Whether the request names this server: another name may be a foreign site's that points here."""
        port = self.connection.getsockname()[1]
        return self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")

    def _file(self) -> Path | None:
        """The file that is asked for; None where it is none of the folder's."""
        name = unquote(urlsplit(self.path).path)
        if not name.startswith("/") or "\0" in name:
            return None
        path = (self.folder / name[1:]).resolve() if name != "/" else self.folder / _PAGE
        return path if path.is_relative_to(self.folder) and path.is_file() else None


def open_server(model: Path, port: int) -> ThreadingHTTPServer:
    """A server of the page of an exported model, on 127.0.0.1; it answers as soon as `serve_forever` is called.

    Args:
        model: a folder that the export stage wrote.
        port: its port; 0: any that is free.

    Raises:
        UserError: the folder is not valid or has no page, or the port is taken.
    """
    bundle = read_bundle(model)
    web = ExportFolder(model).web
    if not (web / _PAGE).is_file():
        raise UserError(f"{web}: there is no page; build it: make web MODEL={bundle.name}")
    try:
        return ThreadingHTTPServer((HOST, port), partial(PageHandler, web.resolve()))
    except OSError as error:
        known = system_error(error)
        reason = remedy(known) if known else error.strerror
        raise UserError(f"port {port}: {reason}; choose another by --port") from None


def serve(model: Path, port: int) -> None:
    """Serve the page of an exported model until Ctrl+C.

    Raises:
        UserError: as for `open_server`.
    """
    with open_server(model, port) as server:
        print(f"{printable(model.name)}: {DISCLAIMER}", flush=True)
        print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl+C ends it)", flush=True)
        server.serve_forever()
