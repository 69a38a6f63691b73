"""The web page's server: this folder's files, to this machine's browsers, and nothing else."""

import http.client
import signal
import socket
import subprocess
import sys
import threading

import pytest

from medistill.errors import UserError
from medistill.layout import ExportFolder
from medistill.web.serve import open_server

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KINDS = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "vendor/run.mjs": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "model.json": "application/json",
    "vendor/run.wasm": "application/wasm",
    "manifest.webmanifest": "application/manifest+json",
    "icon.svg": "image/svg+xml",
    "model.onnx": "application/octet-stream",
}


@pytest.fixture
def page(make_bundle):
    """The folder of a model's page, each file with its own name in it."""
    folder = ExportFolder(make_bundle()).web
    for name in KINDS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def ask(page):
    """A function that sends one request to the page's server, as it is written."""
    with open_server(page.parent, 0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        port = server.server_address[1]

        def ask(path: str, method: str = "GET", **headers: str):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.putrequest(method, path, skip_host=True)
            for name, value in ({"Host": f"127.0.0.1:{port}"} | headers).items():
                connection.putheader(name.replace("_", "-"), value.format(port=port))
            connection.endheaders()
            answer = connection.getresponse()
            answer.body = answer.read().decode()
            connection.close()
            return answer

        yield ask
        server.shutdown()


@pytest.mark.parametrize("name", KINDS)
def test_each_file_has_its_media_type_and_the_policy(ask, name):
    answer = ask(f"/{name}")
    assert (answer.status, answer.body) == (200, name)
    assert answer.headers["Content-Type"] == KINDS[name]
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_itself_stands_at_the_root(ask):
    assert ask("/").body == "index.html"
    assert ask("/?from=menu").body == "index.html"


@pytest.mark.parametrize(
    "path",
    [
        *("/vendor", "/vendor/", "/nothing.js", "/../bundle.json", "/%2e%2e/bundle.json", "/..%2fbundle.json"),
        *("//etc/passwd", "/%00", "/vendor/../../bundle.json", "/.", "http://example.org/", "*"),
    ],
)
def test_there_is_nothing_but_files_of_the_folder(ask, page, path):
    assert (page.parent / "bundle.json").is_file()
    answer = ask(path)
    assert (answer.status, "linear" in answer.body) == (200 if path.startswith("http") else 404, False)


def test_a_link_out_of_the_folder_is_no_file(ask, page):
    (page / "link.json").symlink_to(page.parent / "bundle.json")
    assert ask("/link.json").status == 404


@pytest.mark.parametrize("host", ["example.org", "example.org:{port}", "127.0.0.1", "127.0.0.1:1", ""])
def test_another_host_is_refused(ask, host):
    answer = ask("/model.json", Host=host)
    assert (answer.status, "model.json" in answer.body) == (403, False)
    assert answer.headers["Content-Security-Policy"] == POLICY


def test_localhost_is_this_machine(ask):
    assert ask("/", Host="localhost:{port}").status == 200


def test_a_file_is_sent_again_only_if_it_has_changed(ask, page):
    tag = ask("/page.js").headers["ETag"]
    again = ask("/page.js", If_None_Match=tag)
    assert (again.status, again.body) == (304, "")
    (page / "page.js").write_text("changed")
    assert ask("/page.js", If_None_Match=tag).body == "changed"


def test_head_sends_no_body_and_other_methods_are_none(ask):
    head = ask("/page.js", "HEAD")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "7", "")
    assert ask("/page.js", "POST").status == 501


def test_a_model_without_a_page_says_how_to_build_it(make_bundle):
    with pytest.raises(UserError, match=r"there is no page; build it: make web MODEL=linear-kd-0"):
        open_server(make_bundle(), 0)


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"not an exported model, bundle\.json is missing"):
        open_server(tmp_path, 0)


def test_a_taken_port_is_one_line(page):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port}: Address already in use; choose another by --port"):
            open_server(page.parent, port)


def test_the_command_says_where_the_page_is(page):
    command = [sys.executable, "-m", "medistill.cli", "web", str(page.parent), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first, second = process.stdout.readline(), process.stdout.readline()
        address = second.split()[0].removeprefix("http://").rstrip("/")
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/model.json")
        assert connection.getresponse().read().decode() == "model.json"
        connection.close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert first == "linear-kd-0: Research use only, not a medical device\n"
    assert (process.returncode, errors) == (130, "")
    assert address.startswith("127.0.0.1:")
