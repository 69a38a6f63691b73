"""A headless Chromium that tests drive over the DevTools protocol."""

import base64
import contextlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--no-first-run", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)
PATIENCE = 60
"""Seconds that a test waits for the browser."""


class Tab:
    """One page; `events` has what the browser has said of it so far."""

    def __init__(self, socket, profile: Path):
        self.socket, self.profile, self.events, self.number = socket, profile, [], 0
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters) -> dict:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def run(self, code: str):
        """The value of a JavaScript expression, awaited."""
        how = {"awaitPromise": True, "returnByValue": True, "allowUnsafeEvalBlockedByCSP": False}
        result = self.send("Runtime.evaluate", expression=code, **how)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, code: str, seconds: float = PATIENCE):
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(code)):
            assert time.monotonic() < end, f"{code} is {value!r}; the page says: {self.run('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def go(self, address: str) -> None:
        self.send("Page.navigate", url=address)
        self.until(f"location.href.startsWith({json.dumps(address)}) && document.readyState === 'complete'")

    def choose(self, selector: str, files: list[Path]) -> None:
        """Choose files as a user does."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            key_of = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            self.send("Input.dispatchKeyEvent", type=kind, **key_of, **({"text": text} if kind == "keyDown" else {}))

    def look(self, file: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Save a picture of the page at a window's size."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def memory(self) -> int:
        """Bytes that the processes of pages hold, workers and buffers included."""
        self.send("HeapProfiler.collectGarbage")
        return sum(_resident(path, self.profile) for path in Path("/proc").glob("[0-9]*"))

    def said(self, method: str) -> list[dict]:
        """What events of one kind said."""
        self.run("0")
        return [event["params"] for event in self.events if event.get("method") == method]


@contextlib.contextmanager
def open_tab(profile: Path) -> Iterator[Tab]:
    """A tab of a new browser, which ends with the block."""
    client = pytest.importorskip("websockets.sync.client", reason="needs websockets, which Prefect brings")
    with subprocess.Popen(
        [*CHROMIUM, f"--user-data-dir={profile}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as browser:
        try:
            port = _port(profile / "DevToolsActivePort", browser)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
                pages = [entry for entry in json.load(answer) if entry["type"] == "page"]
            with client.connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Tab(socket, profile)
        finally:
            browser.terminate()


def _port(file: Path, browser: subprocess.Popen) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and browser.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text().split()[0])
        time.sleep(0.05)
    raise AssertionError("Chromium does not start")


def _resident(process: Path, profile: Path) -> int:
    """Resident bytes of a process if it draws pages of this profile's browser."""
    with contextlib.suppress(OSError):
        command = (process / "cmdline").read_bytes()
        if b"--type=renderer" in command and os.fsencode(profile) in command:
            pages = int((process / "statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
