"""What a foreign web page can do with Prefect's and MLflow's servers, and what the user can."""

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fake_graph
import pytest
from waiting import free_port, until

pytestmark = pytest.mark.slow

FOREIGN = "http://evil.example"
"""Origin of a page that the user has open in another tab."""
JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
"""A page may send this to any server without asking first; a browser calls it a simple request."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def may_read(self, origin: str) -> bool:
        """Whether a browser shows this answer to a page from `origin`."""
        return self.headers.get("access-control-allow-origin") in ("*", origin)


def ask(
    port: int, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request to 127.0.0.1 with exactly these headers, also `Host` and `Origin`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = None if body is None else json.dumps(body).encode()
    connection.request(method or ("GET" if body is None else "POST"), path, content, headers or {})
    with contextlib.closing(connection), connection.getresponse() as response:
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())


def preflight(port: int, path: str, origin: str) -> Answer:
    """The request by which a browser asks before it sends a page's request that is not simple."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    return ask(port, path, method="OPTIONS", headers={"Origin": origin, **asked})


def answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(port, path).status == 200
    return False


@contextlib.contextmanager
def running(root: Path, environment: dict[str, str], *command: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(120)  # on a busy machine a server takes a while to end, and stays if its parent is killed
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def command_lines() -> str:
    """The command lines that `ps` shows to every user of the machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(found)


def in_chromium(address: str) -> str | None:
    """The page after its scripts have run; None without a browser."""
    browser = shutil.which("chromium")
    if browser is None:
        return None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    return subprocess.run([browser, *options, address], capture_output=True, text=True, timeout=180).stdout


# Prefect


DEPLOYMENTS = "/api/deployments/filter"
PORT = 4200


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], str]]:
    """Prefect's server as `python -m pipeline prefect` starts it: the environment, and the key."""
    if answers(PORT, "/api/health"):
        pytest.skip(f"something is at port {PORT} already")
    root = fake_graph.build(tmp_path_factory.mktemp("prefect") / "root")
    environment = {**fake_graph.environment(), "PREFECT_HOME": str(root / "home")}
    with running(root, environment, "pipeline", "prefect") as process:
        said = process.stdout.readline()
        file = root / "home/medistill.key"
        assert said == f"Prefect: http://127.0.0.1:{PORT}; it asks for the key in {file} (Ctrl-C ends it)\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        yield environment, file.read_text()
    assert not file.exists()
    assert not answers(PORT, "/api/health")


def authorized(key: str) -> dict[str, str]:
    return JSON | {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}


def test_a_foreign_page_can_read_and_change_what_prefect_starts_by_its_defaults(tmp_path: Path) -> None:
    """Shows that the tests below could fail."""
    port = free_port()
    environment = {**fake_graph.environment(), "PREFECT_HOME": str(tmp_path)}
    start = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    with running(tmp_path, environment, *start):
        assert until(lambda: answers(port, "/api/health"))
        read = ask(port, DEPLOYMENTS, {}, headers=JSON | {"Origin": FOREIGN})
        assert (read.status, read.may_read(FOREIGN)) == (200, True)
        assert preflight(port, DEPLOYMENTS, FOREIGN).status == 200
        made = ask(port, "/api/flows/", {"name": "theirs"}, headers=JSON | {"Origin": FOREIGN})
        assert made.status == 201
        assert ask(port, DEPLOYMENTS, {}, headers=JSON | {"Host": f"evil.example:{port}"}).status == 200


def test_serve_starts_a_server_that_wants_a_key_and_ends_it(finished_repository: Path, tmp_path: Path) -> None:
    if answers(PORT, "/api/health"):
        pytest.skip(f"something is at port {PORT} already")
    root = fake_graph.copy(finished_repository, tmp_path / "root")
    environment = {**fake_graph.environment(), "PREFECT_HOME": str(tmp_path / "home")}
    with running(root, environment, "pipeline", "serve", "--cron", "0 2 * * *") as process:
        said = process.stdout.readline()
        assert said == f"Prefect: http://127.0.0.1:{PORT}; it asks for the key in {tmp_path}/home/medistill.key\n"
        key = (tmp_path / "home/medistill.key").read_text()
        assert ask(PORT, DEPLOYMENTS, {}, headers=TEXT | {"Origin": FOREIGN}).status == 401
        assert until(lambda: ask(PORT, DEPLOYMENTS, {}, headers=authorized(key)).body != b"[]")
    assert not (tmp_path / "home/medistill.key").exists()
    assert until(lambda: not answers(PORT, "/api/health"), 10)


CHANGES = {
    "read deployments": (DEPLOYMENTS, {}),
    "make a flow": ("/api/flows/", {"name": "theirs"}),
    "read settings": ("/api/admin/settings", None),
    "read the schema": ("/api/openapi.json", None),
    "a path through an open one": ("/api/health/../flows/", {"name": "theirs"}),
    "a path that ends as an open one": ("/api/variables/name/health", None),
}


@pytest.mark.parametrize(("path", "body"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        TEXT | {"Origin": FOREIGN},
        JSON | {"Origin": FOREIGN},
        JSON | {"Origin": "null"},
        JSON | {"Origin": f"http://127.0.0.1:{PORT}"},  # another program on this machine may send this origin
        JSON | {"Origin": FOREIGN, "Authorization": "Basic bm90OnRoZWtleQ=="},
        JSON | {"Origin": FOREIGN, "Authorization": "nonsense"},
    ],
    ids=["simple", "not simple", "null", "own origin", "another key", "no key"],
)
def test_without_the_key_prefect_says_nothing_and_does_nothing(
    prefect: tuple[dict[str, str], str], headers: dict[str, str], path: str, body: Any
) -> None:
    refused = ask(PORT, path, body, headers=headers)

    assert refused.status == 401
    assert refused.body == b'{"exception_message":"Unauthorized"}'
    assert not refused.may_read(FOREIGN)
    assert not refused.may_read("null")
    flows = ask(PORT, "/api/flows/filter", {}, headers=authorized(prefect[1]))
    assert "theirs" not in flows.body.decode()


@pytest.mark.parametrize("origin", [FOREIGN, "null", f"http://127.0.0.1.evil.example:{PORT}", "http://127.0.0.1:8000"])
def test_prefect_lets_no_foreign_page_send_what_is_not_simple(prefect: tuple[dict[str, str], str], origin: str) -> None:
    refused = preflight(PORT, DEPLOYMENTS, origin)

    assert refused.status == 400
    assert "access-control-allow-origin" not in refused.headers
    read = ask(PORT, DEPLOYMENTS, {}, headers=authorized(prefect[1]) | {"Origin": origin})
    assert "access-control-allow-origin" not in read.headers


@pytest.mark.parametrize("host", [f"evil.example:{PORT}", "evil.example", f"127.0.0.1.evil.example:{PORT}", "10.0.0.1"])
@pytest.mark.parametrize("path", ["/", "/ui-settings", "/api/health", DEPLOYMENTS])
def test_prefect_answers_to_no_other_name(prefect: tuple[dict[str, str], str], host: str, path: str) -> None:
    """DNS rebinding: the page's host name resolves to this machine, so the browser treats the server as its origin."""
    for headers in (authorized(prefect[1]), JSON):
        refused = ask(PORT, path, {} if path == DEPLOYMENTS else None, headers=headers | {"Host": host})
        assert (refused.status, refused.body) == (400, b"Invalid host header")


def websocket(headers: dict[str, str]) -> bytes:
    """The first answer of Prefect's stream of events to `auth` with a wrong key."""
    wanted = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    wanted |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Host": f"127.0.0.1:{PORT}", **headers}
    request = "GET /api/events/out HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in wanted.items()) + "\r\n"
    text = json.dumps({"type": "auth", "token": "no:key"}).encode()
    frame = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text  # masked by zeros
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as connection:
        connection.sendall(request.encode())
        first = connection.recv(4096)
        if first.startswith(b"HTTP/1.1 101"):
            connection.sendall(frame)
            first += connection.recv(4096)
        return first


def test_prefects_streams_want_the_key_as_well(prefect: tuple[dict[str, str], str]) -> None:
    """Browsers ask no server before a page opens a stream."""
    assert websocket({"Origin": FOREIGN}).startswith(b"HTTP/1.1 403")
    assert b"Invalid token" in websocket({"Origin": FOREIGN, "Sec-WebSocket-Protocol": "prefect"})
    foreign = websocket({"Host": f"evil.example:{PORT}", "Sec-WebSocket-Protocol": "prefect"})
    assert not foreign.startswith(b"HTTP/1.1 101")


def test_the_user_sees_prefects_ui_and_with_the_key_its_api(prefect: tuple[dict[str, str], str]) -> None:
    _, key = prefect
    page = ask(PORT, "/", headers={"Accept": "text/html", "Host": f"localhost:{PORT}"})
    assert page.status in (200, 307)
    page = ask(PORT, page.headers.get("location", "/"))
    assert page.status == 200
    scripts = re.findall(r'src="([^"]+\.js)"', page.body.decode())
    assert scripts
    assert all(ask(PORT, script).status == 200 for script in scripts)
    settings = json.loads(ask(PORT, "/ui-settings").body)
    assert (settings["api_url"], settings["auth"]) == (f"http://127.0.0.1:{PORT}/api", "BASIC")
    for name in ("127.0.0.1", "localhost"):
        origin = f"http://{name}:{PORT}"
        assert preflight(PORT, DEPLOYMENTS, origin).headers["access-control-allow-origin"] == origin
        answer = ask(PORT, DEPLOYMENTS, {}, headers=authorized(key) | {"Origin": origin, "Host": f"{name}:{PORT}"})
        assert (answer.status, answer.body, answer.may_read(origin)) == (200, b"[]", True)
    # The metadata in the package: newer ones are not looked up.
    workers = ask(PORT, "/api/collections/views/aggregate-worker-metadata", headers=authorized(key))
    assert "process" in json.loads(workers.body)["prefect"]
    shown = in_chromium(f"http://127.0.0.1:{PORT}/")
    assert shown is None or "Login" in shown


def test_prefects_ui_speaks_to_this_server_alone_and_is_shown_in_no_other_page(
    prefect: tuple[dict[str, str], str],
) -> None:
    """Prefect's UI asks Amplitude how to record a session before it checks whether it may."""
    policy = ask(PORT, "/v2/").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    assert rules["frame-ancestors"] == "'self'"
    for rule in rules.values():
        hosts = {word.split("://")[1] for word in rule.split() if "://" in word}
        assert hosts <= {f"127.0.0.1:{PORT}", f"localhost:{PORT}"}
    assert rules["default-src"].startswith("'self'")


def test_the_key_is_on_no_command_line(prefect: tuple[dict[str, str], str]) -> None:
    assert "pipeline.prefect_server" in command_lines()
    assert prefect[1].removeprefix("medistill:") not in command_lines()
    assert len(prefect[1]) > 40


def test_a_second_one_is_told_where_the_first_is(prefect: tuple[dict[str, str], str], tmp_path: Path) -> None:
    environment, _ = prefect
    root = fake_graph.build(tmp_path / "root")
    command = [sys.executable, "-m", "pipeline", "prefect"]
    again = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=100)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: Prefect runs already at http://127.0.0.1:4200; it asks for the key in ")

    other = environment | {"PREFECT_HOME": str(tmp_path / "home")}  # another user does not know the server's key
    for arguments in (["prefect"], ["serve", "--cron", "0 2 * * *"]):
        done = subprocess.run([*command[:3], *arguments], cwd=root, env=other, capture_output=True, text=True)
        assert done.returncode == 2
        assert re.fullmatch(r"error: port 4200 is used by a program that medistill did not start; .*\n", done.stderr)


def test_retrain_and_serve_find_the_server_by_its_key(
    prefect: tuple[dict[str, str], str], finished_repository: Path, tmp_path: Path
) -> None:
    environment, key = prefect
    root = fake_graph.copy(finished_repository, tmp_path / "root")
    shutil.copytree(fake_graph.REPOSITORY / "pipeline", root / "pipeline")
    command = [sys.executable, "-m", "pipeline", "retrain"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "temporary server" not in done.stderr
    assert key.removeprefix("medistill:") not in done.stdout + done.stderr

    runs = json.loads(ask(PORT, "/api/flow_runs/filter", {}, headers=authorized(key)).body)
    assert [run["state"]["name"] for run in runs] == ["Completed"]
    with running(root, environment, "pipeline", "serve", "--cron", "30 3 * * *"):

        def served() -> list[Any]:
            return json.loads(ask(PORT, DEPLOYMENTS, {}, headers=authorized(key)).body)

        assert until(served)
        (deployment,) = served()
        assert deployment["schedules"][0]["schedule"]["cron"] == "30 3 * * *"
        # The run is started by the user, through the API, and its process has the key from the environment.
        asked = ask(PORT, f"/api/deployments/{deployment['id']}/create_flow_run", {}, headers=authorized(key))
        run = json.loads(asked.body)["id"]

        def state() -> str:
            return json.loads(ask(PORT, f"/api/flow_runs/{run}", headers=authorized(key)).body)["state"]["name"]

        assert until(lambda: state() in ("Completed", "Failed", "Crashed"), 240), state()
        assert state() == "Completed"
        assert key.removeprefix("medistill:") not in command_lines()


def test_the_temporary_server_of_a_run_wants_a_key_as_well(finished_repository: Path, tmp_path: Path) -> None:
    root = fake_graph.copy(finished_repository, tmp_path / "root")
    environment = {**fake_graph.environment(), "PREFECT_HOME": str(tmp_path / "home")}
    seen: list[Answer] = []

    def asked() -> bool:
        for port in re.findall(r"create_app --host 127\.0\.0\.1 --port (\d+)", command_lines()):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(int(port), "/api/health").status == 200:
                    seen.append(ask(int(port), "/api/flows/filter", {}, headers=TEXT | {"Origin": FOREIGN}))
        return bool(seen)

    with running(root, environment, "pipeline", "retrain") as process:
        assert until(asked)
        said = process.stdout.read()
        assert process.wait(300) == 0, said
    assert [(answer.status, answer.may_read(FOREIGN)) for answer in seen] == [(401, False)]


# MLflow


@pytest.fixture(scope="module")
def mlflow(finished_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """MLflow's server as `python -m pipeline ui` starts it; its port."""
    root = fake_graph.copy(finished_repository, tmp_path_factory.mktemp("mlflow") / "root")
    port = free_port()
    with running(root, fake_graph.environment(), "pipeline", "ui", "--port", str(port)):
        assert until(lambda: answers(port, "/health"))
        yield port


SEARCH = "/ajax-api/2.0/mlflow/runs/search"
RUNS = {"experiment_ids": ["1"], "max_results": 10}


def experiments(port: int) -> list[str]:
    found = ask(port, "/api/2.0/mlflow/experiments/search", {"max_results": 100}, headers=JSON)
    return [item["name"] for item in json.loads(found.body)["experiments"]]


@pytest.mark.parametrize("content", [TEXT, JSON], ids=["simple", "not simple"])
@pytest.mark.parametrize("origin", [FOREIGN, "null", "https://127.0.0.1.evil.example"])
def test_mlflow_lets_no_foreign_page_read_or_change(mlflow: int, origin: str, content: dict[str, str]) -> None:
    before = experiments(mlflow)

    for path, body in (
        (SEARCH, RUNS),
        ("/api/2.0/mlflow/experiments/create", {"name": "theirs"}),
        ("/ajax-api/2.0/mlflow/experiments/create", {"name": "theirs"}),
        ("/ajax-api/2.0/mlflow/registered-models/alias", {"name": "medistill", "alias": "champion", "version": "1"}),
    ):
        refused = ask(mlflow, path, body, headers=content | {"Origin": origin})
        assert refused.status == 403
        assert not refused.may_read(origin)
        assert preflight(mlflow, path, origin).status == 400
    read = ask(mlflow, "/ajax-api/2.0/mlflow/experiments/get?experiment_id=1", headers={"Origin": origin})
    assert not read.may_read(origin)
    for path in ("/graphql", "/v1/traces"):  # MLflow does not check the origin here, but takes no simple requests
        assert ask(mlflow, path, {}, headers=TEXT | {"Origin": origin}).status in (400, 422)
        assert preflight(mlflow, path, origin).status == 400
    assert experiments(mlflow) == before


@pytest.mark.parametrize("host", ["evil.example", "10.evil.example:{}", "192.168.evil.example", "127.0.0.1:1"])
def test_mlflow_answers_to_no_other_name(mlflow: int, host: str) -> None:
    """MLflow's own default admits any name that begins like a private address: `10.evil.example`."""
    for path in ("/", SEARCH, "/ajax-api/3.0/mlflow/assistant/config"):
        headers = JSON | {"Host": host.format(mlflow)}
        assert ask(mlflow, path, RUNS if path == SEARCH else None, headers=headers).status == 403


def test_the_user_sees_mlflows_ui_and_its_api(mlflow: int) -> None:
    page = ask(mlflow, "/")
    assert page.status == 200
    assert page.headers["x-frame-options"] == "SAMEORIGIN"
    scripts = re.findall(r'src="\.?/?(static-files/[^"]+\.js)"', page.body.decode())
    assert scripts
    assert all(ask(mlflow, f"/{script}").status == 200 for script in scripts)
    for name in ("127.0.0.1", "localhost"):
        origin = f"http://{name}:{mlflow}"
        headers = JSON | {"Origin": origin, "Host": f"{name}:{mlflow}"}
        found = json.loads(ask(mlflow, SEARCH, RUNS, headers=headers).body)
        assert sorted(run["info"]["run_name"] for run in found["runs"]) == ["big", "small-baseline-0", "small-kd-0"]
    telemetry = json.loads(ask(mlflow, "/ajax-api/3.0/mlflow/ui-telemetry").body)
    assert telemetry["disable_ui_telemetry"] is True
    shown = in_chromium(f"http://127.0.0.1:{mlflow}/#/experiments/1/runs")
    assert shown is None or "small-kd-0" in shown


def test_the_address_of_a_database_is_on_no_command_line(mlflow: int) -> None:
    assert f"--port {mlflow}" in command_lines()
    assert "sqlite:" not in command_lines()
