"""Nothing leaves the machine: every command runs in a network without a way out, which records every attempt.

The commands run without the environment variables of continuous integration and of pytest, which make several
libraries keep silent.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Project, clone

pytestmark = pytest.mark.slow

LISTENER = Path(__file__).with_name("network.py")
ONNX = """
import sys
{first}
import numpy, onnx, onnxruntime, time
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
session = onnxruntime.InferenceSession(network.SerializeToString())
session.run(None, {{"x": numpy.zeros(1, numpy.float32)}})
time.sleep(15)
"""
"""A user's own script that runs long enough for ONNX Runtime to look its host up."""


class Quiet:
    """A clone of the repository in a network of its own."""

    def __init__(self, project: Project, home: Path, log: Path, namespace: int) -> None:
        self.project, self.home, self._log, self._namespace = project, home, log, namespace
        home.mkdir()

    def enter(self, *command: str) -> dict:
        """Arguments of `subprocess` for a command in this network, with a user's environment."""
        enter = ["nsenter", f"--target={self._namespace}", "--user", "--net", "--preserve-credentials", "--"]
        environment = {
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.project.folder / "src"),
        }
        return {"args": [*enter, *command], "cwd": self.project.folder, "env": environment}

    def run(self, *command: str) -> str:
        done = subprocess.run(**self.enter(*command), capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def running(self, *command: str, seconds: float) -> Iterator[None]:
        """Run a server, for so many seconds after it has said that it is ready."""
        process = subprocess.Popen(
            **self.enter(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        try:
            for line in process.stdout:
                if "http://127.0.0.1" in line:
                    break
            yield
            time.sleep(seconds)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()

    def get(self, address: str) -> str:
        """What a server in this network answers."""
        return self.run("python", "-c", f"import urllib.request as u; print(u.urlopen({address!r}).read())")

    def browse(self, address: str) -> None:
        """Open a page in Chromium, if it is installed; look-ups of its maker's hosts are not the page's."""
        browser = shutil.which("chromium")
        if browser is None:
            return
        profile = self.home / "profile"
        before = len(self.seen())
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
        options += ["--disable-background-networking", "--disable-component-update"]
        page = self.run(browser, *options, f"--user-data-dir={profile}", address)
        assert "<script" in page
        shutil.rmtree(profile, ignore_errors=True)
        asked = {item["name"] for item in self.seen()[before:]}
        own = (".google.com", ".googleapis.com", ".gvt1.com")
        assert not {name for name in asked if not (name or "").endswith(own)}
        self._log.write_text("".join(self._log.read_text().splitlines(keepends=True)[:before]))

    def seen(self) -> list[dict]:
        """All attempts to leave so far."""
        time.sleep(0.5)
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture(scope="module")
def quiet(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quiet]:
    folder = tmp_path_factory.mktemp("quiet")
    log = folder / "packets"
    log.touch()
    command = ["unshare", "--map-root-user", "--net", sys.executable, str(LISTENER), str(log)]
    try:
        listener = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("unshare (util-linux) is not here")
    try:
        if listener.stdout.readline() != "listening\n":
            pytest.skip(f"no network of one's own can be made here: {listener.stderr.read().strip()}")
        yield Quiet(clone(root, folder / "my project"), folder / "home", log, listener.pid)
    finally:
        listener.kill()
        listener.communicate()  # closes its pipes


def test_a_look_up_and_a_connection_are_seen(quiet: Quiet) -> None:
    """Shows that the tests below could fail."""
    before = len(quiet.seen())
    quiet.run("python", "-c", "import socket\ntry: socket.getaddrinfo('example.org', 80)\nexcept OSError: pass")
    looked_up = quiet.seen()[before:]
    if not looked_up:
        pytest.skip("names are looked up by another way here than by packets")
    assert {(item["port"], item["name"]) for item in looked_up} == {(53, "example.org")}
    for kind, address in (("AF_INET", "203.0.113.7"), ("AF_INET6", "2001:db8:1::7")):
        before = len(quiet.seen())
        connect = f"s = socket.socket(socket.{kind}); s.settimeout(0.5); s.connect(('{address}', 443))"
        quiet.run("python", "-c", f"import socket\ntry: {connect}\nexcept OSError: pass")
        assert {(item["to"], item["port"]) for item in quiet.seen()[before:]} == {(address, 443)}


def test_onnx_runtime_by_itself_looks_its_host_up_and_with_medistill_does_not(quiet: Quiet) -> None:
    before = len(quiet.seen())
    quiet.run("python", "-c", ONNX.format(first=""))
    assert "mobile.events.data.microsoft.com" in {item["name"] for item in quiet.seen()[before:]}
    assert (quiet.home / ".cache/Microsoft").exists()
    before = len(quiet.seen())
    subprocess.run(["rm", "-r", quiet.home / ".cache/Microsoft"], check=True)
    quiet.run("python", "-c", ONNX.format(first="import medistill"))
    assert quiet.seen()[before:] == []
    assert not (quiet.home / ".cache/Microsoft").exists()


def test_no_command_looks_anything_up_or_connects_to_anything_but_this_machine(quiet: Quiet) -> None:
    before = len(quiet.seen())
    python = ("python", "-m", "pipeline")

    quiet.run(*python, "check")
    quiet.run("dvc", "repro")
    quiet.run(*python, "track")
    quiet.run(*python, "promote")
    quiet.run(*python, "retrain")
    quiet.run(*python, "history")
    image = next((quiet.project.folder / "data/raw/phantom/images").glob("*.png"))
    quiet.run("medistill", "predict", str(image), "--model", "exports/eeea_net_c2-kd-0")
    quiet.run("medistill", "check", "data/raw/phantom", "--format", "chestxray14")
    quiet.run("medistill", "models")
    with quiet.running(*python, "ui", "--port", "5055", seconds=20):
        assert "medistill" in quiet.get("http://127.0.0.1:5055/ajax-api/2.0/mlflow/experiments/get?experiment_id=1")
        quiet.browse("http://127.0.0.1:5055/#/experiments/1/runs")
    with quiet.running(*python, "serve", "--cron", "0 2 * * *", seconds=30):
        key = (quiet.home / ".prefect/medistill.key").read_text()
        code = f"""
import base64, json, urllib.request as u
headers = {{"Authorization": "Basic " + base64.b64encode({key!r}.encode()).decode()}}
for view in ("aggregate-worker-metadata", "aggregate-block-metadata", "aggregate-flow-metadata", "demo-flows"):
    try:
        u.urlopen(u.Request("http://127.0.0.1:4200/api/collections/views/" + view, headers=headers)).read()
    except u.HTTPError as error:
        assert error.code >= 400
"""
        quiet.run("python", "-c", code)
        quiet.browse("http://127.0.0.1:4200/")

    assert quiet.seen()[before:] == []
    assert not (quiet.home / ".cache/Microsoft").exists()
