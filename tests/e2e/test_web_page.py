"""The web page in Chromium answers as Python's runtime does, and tells nobody."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from matplotlib import colormaps
from onnx import TensorProto, helper
from PIL import Image
from pydicom import Dataset, uid

from medistill.runtime.predictor import Predictor
from medistill.web.build import build
from medistill.web.serve import open_server
from tests.browser import Tab, open_tab
from tests.dicoms import dataset, save
from tests.source import ROOT
from tests.unit.runtime.conftest import graph_model
from tests.unit.web.conftest import make_bundle  # noqa: F401  # a fixture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm"),
]
SIZE = 96
LABELS = ["Effusion", "Mass", "Pleural_Thickening"]
THRESHOLDS = {"Effusion": 0.3, "Mass": 0.5, "Pleural_Thickening": None}
DONE = "document.getElementById('status').textContent.includes(' done')"
READY = "!document.getElementById('files').disabled"


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> Path:
    """The libraries of package.json: those that `make web` has installed, or else a copy of its own."""
    kept = ROOT / ".cache" / "web" / "node_modules"
    if kept.is_dir():
        return kept
    folder = tmp_path_factory.mktemp("npm")
    shutil.copy(ROOT / "src" / "medistill" / "web" / "package.json", folder)
    command = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install the page's libraries: {done.stderr.splitlines()[-1:]}")
    return folder / "node_modules"


def pixel_model(channels: int, maps: bool) -> bytes:
    """Logits in which each pixel has a weight of its own, so that no shift or blur of the frame goes unseen."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(channels * SIZE * SIZE, len(LABELS))).astype(np.float32) / SIZE
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    image = ("image", TensorProto.UINT8, ["batch", channels, SIZE, SIZE])
    outputs = [("logits", TensorProto.FLOAT, ["batch", len(LABELS)])]
    constants = {"scale": np.array([4 / 255], np.float32), "weights": weights}
    if (
        maps
    ):  # of 6x6 cells: how bright each is, times a weight per label; an image is unlike the others if it is bright
        nodes += [
            helper.make_node("AveragePool", ["scaled"], ["cells"], kernel_shape=[16, 16], strides=[16, 16]),
            helper.make_node("Mul", ["cells", "evidence"], ["saliency_map"]),
            helper.make_node("ReduceMax", ["saliency_map", "axes"], ["saliency_max"], keepdims=0),
            helper.make_node("ReduceMean", ["scaled", "all"], ["unlike"], keepdims=0),
        ]
        outputs += [("saliency_map", TensorProto.FLOAT, ["batch", len(LABELS), 6, 6])]
        outputs += [
            ("saliency_max", TensorProto.FLOAT, ["batch", len(LABELS)]),
            ("unlike", TensorProto.FLOAT, ["batch"]),
        ]
        constants["evidence"] = np.array([1, 0.5, 0], np.float32).reshape(1, 3, 1, 1)
        constants |= {"axes": np.array([2, 3]), "all": np.array([1, 2, 3])}
    return graph_model(nodes, [image], outputs, constants)


@pytest.fixture
def export(make_bundle, packages):  # noqa: F811
    """A function that writes a model with its page."""

    def write(channels: int = 1, fit: str = "pad", *, maps: bool = False, thresholds: Any = THRESHOLDS) -> Path:
        point = {"kind": "sensitivity", "promised": 0.9, "thresholds": thresholds}
        shape = {"image_size": SIZE, "channels": channels, "fit": fit, "mean": [0] * 3, "std": [1] * 3}
        model = make_bundle(
            f"pixels-{fit}-{channels}",
            content=pixel_model(channels, maps),
            labels=LABELS,
            preprocessing=shape,
            operating_points=[point],
            map_scale=dict.fromkeys(LABELS, 4.0 if maps else 0.0),  # a white cell of the first label
        )
        build(model, packages)
        return model

    return write


class Visit:
    """A model's page in a browser."""

    def __init__(self, tab: Tab, model: Path):
        self.tab, self.model = tab, model
        self.server = open_server(model, 0)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        tab.events.clear()
        tab.go(self.address)
        tab.until(READY)

    def leave(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, files: list[Path]) -> None:
        """Choose files and wait for all answers."""
        self.tab.run("document.getElementById('clear').click()")
        self.tab.choose("#files", files)
        self.tab.until(DONE)

    def probabilities(self) -> list[dict[str, float] | str]:
        """Of each line of the list the probabilities, or the text of an error."""
        code = """JSON.stringify([...document.querySelectorAll('#images li')].map((line) => {
          const choice = line.querySelector('input');
          if (!choice) return line.innerText.split('\\n').at(-1);
          choice.click();
          const rows = [...document.querySelectorAll('#bars tr')];
          return Object.fromEntries(rows.map((row) =>
            [row.querySelector('th').textContent, Number(row.querySelector('data').value)]));
        }))"""
        return json.loads(self.tab.run(code))


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[Tab]:
    with open_tab(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture
def visit(tab):
    """A function that opens a model's page."""
    visits = []

    def open_page(model: Path) -> Visit:
        visits.append(Visit(tab, model))
        return visits[-1]

    yield open_page
    for each in visits:
        each.leave()


def film(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with fine grain, float64 (height, width), 0..1."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 3, height))
    smooth = 0.5 + 0.4 * np.sin(x * (1 + seed)) * np.cos(y * 2 - seed)
    return np.clip(smooth + random.normal(scale=0.05, size=(height, width)), 0, 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, list[Path]]:
    """PNG and JPEG of many kinds and shapes, by how they are coded."""
    folder = tmp_path_factory.mktemp("pictures")
    grey = Image.fromarray((film(640, 500) * 255).astype(np.uint8))
    colour = Image.merge("RGB", [Image.fromarray((film(301, 403, k) * 255).astype(np.uint8)) for k in range(3)])
    alpha = Image.fromarray((film(301, 403, 5) * 255).astype(np.uint8))
    coded = {
        "grey.png": grey,
        "small.png": grey.resize((40, 23)),
        "same.png": grey.resize((SIZE, SIZE)),
        "large.png": grey.resize((2311, 1703)),
        "thin.png": grey.resize((900, 7)),
        "sixteen.png": Image.fromarray((film(433, 640) * 4095 + 300).astype(np.uint16)),
        "bits.png": grey.convert("1"),
        "palette.png": colour.quantize(60),
        "few.png": colour.quantize(4),
        "colour.png": colour,
        "alpha.png": Image.merge("RGBA", [*colour.split(), alpha]),
        "grey-alpha.png": Image.merge("LA", [colour.getchannel("R"), alpha]),
    }
    for name, image in coded.items():
        image.save(folder / name)
    grey.save(folder / "black.png", transparency=128)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(folder / "grey.jpg", quality=90)
    colour.save(folder / "colour.jpg", quality=85)
    colour.save(folder / "turned.jpg", quality=85, exif=exif)
    grey.save(folder / "progressive.jpg", progressive=True)
    return {kind: sorted(folder.glob(f"*.{kind}")) for kind in ("png", "jpg")}


def worst(found: list, model: Path, files: list[Path]) -> float:
    """Largest distance of probabilities from those of Python's runtime."""
    expected = [prediction.probabilities for prediction in Predictor(model, threads=1).predict(files)]
    assert len(found) == len(expected)
    return max(abs(page[label] - ours[label]) for page, ours in zip(found, expected, strict=True) for label in ours)


@pytest.mark.parametrize(("channels", "fit"), [(1, "pad"), (3, "crop"), (1, "squash")])
def test_the_page_answers_as_the_runtime_does(export, visit, pictures, channels, fit):
    model = export(channels, fit)
    page = visit(model)
    for kind, limit in (("png", 1e-3), ("jpg", 2e-2)):
        page.answer(pictures[kind])
        found = page.probabilities()
        assert worst(found, model, pictures[kind]) <= limit, (kind, found)
    spread = [answer[label] for answer in found for label in LABELS]
    assert max(spread) - min(spread) > 0.3  # or else any answers would agree


def test_the_page_agrees_on_real_xrays(export, visit, real_data):
    files = sorted((real_data / "nih1000_256" / "images").glob("*.png"))[:12]
    files += sorted((real_data / "kermany_224").rglob("*.jpeg"))[:6]
    files += [file for file in (real_data / "dicom").glob("*.dcm") if "html" not in file.name]
    model = export()
    page = visit(model)
    page.answer(files)
    assert worst(page.probabilities(), model, files) <= 1e-3


def scans(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """DICOM files that the page reads, and those that it does not, with what it says of them."""
    grey, colour = (film(260, 300) * 255).astype(np.uint8), (film(90, 80) * 255).astype(np.uint8)
    twelve, signed = (film(260, 300) * 3000 + 400).astype(np.uint16), (film(260, 300) * 3000 - 1500).astype(np.int16)
    colour = np.stack([colour, colour[::-1], 255 - colour], axis=-1)
    window = {"WindowCenter": "1800", "WindowWidth": "2000"}
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], bytes(np.sqrt(np.linspace(0, 255**2, 4096)).astype(np.uint8))
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    lossless = [imagecodecs.ljpeg_encode(pixels, bitspersample=bits) for pixels, bits in ((grey, 8), (twelve, 12))]
    runs = [dataset(grey), dataset(twelve, bits=12, **window), dataset(colour)]
    for made in runs:
        made.compress(uid.RLELossless)
    read = [
        dataset(grey),
        dataset(twelve, bits=12),
        dataset(twelve, uid.ImplicitVRLittleEndian, bits=12, **window),
        dataset(twelve, uid.ExplicitVRBigEndian, bits=12, **window),
        dataset(twelve, uid.DeflatedExplicitVRLittleEndian, bits=12, **window),
        dataset(twelve << 2, bits=12, HighBit=13, **window),
        dataset(twelve, bits=12, photometric="MONOCHROME1", **window),
        dataset(twelve, bits=12, VOILUTFunction="SIGMOID", **window),
        dataset(twelve, bits=12, VOILUTFunction="LINEAR_EXACT", **window),
        dataset(twelve, bits=12, VOILUTSequence=[table]),
        dataset(twelve, bits=12, ModalityLUTSequence=[table]),
        dataset(twelve, bits=12, PixelPaddingValue=int(twelve.max())),
        dataset(signed, RescaleSlope="2", RescaleIntercept="-10"),
        dataset(colour),
        *runs,
        dataset(grey, uid.JPEGBaseline8Bit, frame=imagecodecs.jpeg8_encode(grey, level=95)),
        dataset(
            colour, uid.JPEGBaseline8Bit, frame=imagecodecs.jpeg8_encode(colour, level=95), photometric="YBR_FULL_422"
        ),
        dataset(grey, uid.JPEGLosslessSV1, frame=lossless[0]),
        dataset(twelve, uid.JPEGLossless, frame=lossless[1], bits=12),
    ]
    jpeg12 = imagecodecs.jpeg8_encode(twelve, level=95, bitspersample=12)
    refused = {
        "DICOM with JPEG of 12 bits is not read": dataset(twelve, uid.JPEGExtended12Bit, frame=jpeg12, bits=12),
        "DICOM in JPEG 2000 is not read": dataset(grey, uid.JPEG2000Lossless, frame=b"none"),
        "DICOM in JPEG-LS is not read": dataset(grey, uid.JPEGLSLossless, frame=b"none"),
        "DICOM with 3 frames; only single ones are read": dataset(grey, NumberOfFrames=3),
        "DICOM photometric interpretation PALETTE COLOR": dataset(grey, photometric="PALETTE COLOR"),
        "DICOM with a RescaleSlope of 0": dataset(grey, RescaleSlope="0"),
        "DICOM that is MONOCHROME1 with": dataset(grey, photometric="MONOCHROME1", PresentationLUTShape="IDENTITY"),
    }
    for number, made in enumerate(read):
        save(folder / f"{number:02}.dcm", made)
    why = {save(folder / f"refused{number}.dcm", made): text for number, (text, made) in enumerate(refused.items())}
    cut = folder / "cut.dcm"
    cut.write_bytes((folder / "01.dcm").read_bytes()[:40_000])
    return sorted(folder.glob("[0-9]*.dcm")), {**why, cut: "cannot be decoded: "}


def test_dicom_is_shown_as_by_the_runtime_or_refused_by_name(export, visit, tmp_path):
    read, refused = scans(tmp_path)
    model = export()
    page = visit(model)
    page.answer([*read, *refused])
    found = page.probabilities()
    assert worst(found[: len(read)], model, read) <= 1e-3
    for line, why in zip(found[len(read) :], refused.values(), strict=True):
        assert line.startswith(why)
        assert "object" not in line


def lit(path: Path, row: int, column: int, level: int = 40) -> Path:
    """A picture of 96 px whose cell (row, column) of 6x6 is white."""
    pixels = np.full((SIZE, SIZE), level, np.uint8)
    pixels[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = 255
    Image.fromarray(pixels).save(path)
    return path


HEAT = """(() => {
  const canvas = document.getElementById('heat');
  const at = (x, y) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data];
  return JSON.stringify({hidden: canvas.hidden, peak: at(72, 24), far: at(24, 72)});
})()"""


def test_the_heat_map_lies_where_the_evidence_is_and_is_red_only_for_what_is_called(export, visit, tmp_path):
    called = {"Effusion": 0.0, "Mass": 1.5, "Pleural_Thickening": 0.0}
    page = visit(export(maps=True, thresholds=called))
    page.answer([lit(tmp_path / "lit.png", 1, 4)])
    tab = page.tab

    def heat_of(label: str) -> dict:
        choose = f"""(() => {{
          const select = document.getElementById('heat-label');
          select.selectedIndex = [...select.options].findIndex((option) => option.text.startsWith('{label}'));
          select.dispatchEvent(new Event('change'));
        }})()"""
        tab.run(choose)
        return json.loads(tab.run(HEAT)) | {"says": tab.run("document.getElementById('heat-legend').textContent")}

    red, blue, none = heat_of("Effusion"), heat_of("Mass"), heat_of("Pleural")
    share = 0.96875**2 + (1 - 0.96875**2) * 40 / 255  # half a pixel of 16 beside the middle of the cell, both ways
    assert red["peak"][:3] == pytest.approx([255 * part for part in colormaps["inferno"](0.3 + 0.7 * share)[:3]], abs=8)
    assert red["peak"][3] == pytest.approx(191 * np.sqrt(share), abs=2)
    assert red["far"][3] == pytest.approx(191 * np.sqrt(40 / 255), abs=2)
    assert blue["peak"][2] > blue["peak"][0] + 80
    assert blue["peak"][3] == pytest.approx(191 * np.sqrt(share / 2), abs=2)  # half the evidence of Effusion
    assert "its peak has 50 % of the strongest evidence" in blue["says"]
    assert (none["peak"][3], none["says"]) == (0, "No place speaks for Pleural_Thickening.")
    assert heat_of("nothing")["hidden"]


def test_an_image_unlike_the_others_is_dimmed_and_says_why(export, visit, tmp_path):
    page = visit(export(maps=True))
    page.answer([lit(tmp_path / "like.png", 1, 4), lit(tmp_path / "bright.png", 1, 4, level=100)])
    shown = """(() => JSON.stringify([document.getElementById('answer').className,
      document.getElementById('warning').checkVisibility(), document.getElementById('warning').textContent]))()"""
    seen = []
    for number in range(2):
        page.tab.run(f"document.querySelectorAll('#images input')[{number}].click()")
        seen.append(json.loads(page.tab.run(shown)))
    assert seen[0][:2] == ["answer", False]
    assert seen[1][:2] == ["answer dimmed", True]
    assert "its score is 1.6, the limit 1" in seen[1][2]  # 4 · (100 + 155 / 36) / 255
    assert "unlike the training images" in page.tab.run("document.querySelector('#images li:last-child').innerText")


def test_a_bad_file_is_a_line_and_the_rest_goes_on(export, visit, pictures, tmp_path):
    good = next(path for path in pictures["png"] if path.name == "grey.png")
    grey, jpeg = good.read_bytes(), good.with_suffix(".jpg").read_bytes()
    bad = {
        "text.png": (b"this is no picture", "not an image, or in a format that is not read; PNG, JPEG and DICOM are"),
        "empty.png": (b"", "the file is empty"),
        "cut.png": (grey[:3000], "cannot be decoded: "),
        "flipped.png": (grey[:200] + bytes([grey[200] ^ 255]) + grey[201:], "cannot be decoded: "),
        "huge.png": (
            grey[:16] + b"\0\1\0\0\0\1\0\0" + grey[24:],
            "65536x65536 pixels exceeds the limit of 100 million",
        ),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "the image is truncated"),
        "scan.tif": (b"II*\0" + bytes(40), "TIFF is not read by this page; PNG, JPEG and DICOM are"),
        "scan.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not read by this page; PNG, JPEG and DICOM are"),
    }
    files = []
    for name, (content, _) in bad.items():
        files += [tmp_path / name, good]
        files[-2].write_bytes(content)
    page = visit(export())
    page.answer(files)
    found = page.probabilities()
    for line, (_, reason) in zip(found[::2], bad.values(), strict=True):
        assert line.startswith(reason)
    assert all(answer == found[1] != "" for answer in found[1::2])
    assert page.tab.run("document.getElementById('status').textContent") == "16 of 16 done, 8 not read."


def test_nothing_leaves_the_page_and_the_policy_is_kept(export, visit, pictures):
    page = visit(export())
    page.answer(pictures["png"][:2])
    addresses = {event["request"]["url"] for event in page.tab.said("Network.requestWillBeSent")}
    assert addresses
    assert [address for address in addresses if not address.startswith(page.address)] == []
    assert page.tab.said("Runtime.exceptionThrown") == []
    assert [event["entry"]["text"] for event in page.tab.said("Log.entryAdded")] == []
    # the policy is at work: neither an address elsewhere nor code in a string is let through
    assert page.tab.run("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)") == "TypeError"
    assert any("Content Security Policy" in event["entry"]["text"] for event in page.tab.said("Log.entryAdded"))
    assert page.tab.run("try { new Function('return 1')() } catch (error) { error.name }") == "EvalError"


def test_two_hundred_images_leave_memory_flat(export, visit, tmp_path):
    large = tmp_path / "large.png"
    Image.fromarray((film(500, 500) * 255).astype(np.uint8)).save(large, compress_level=1)
    files = [tmp_path / f"{i:03}.png" for i in range(200)]
    for file in files:
        file.hardlink_to(large)
    page = visit(export())
    page.answer(files[:20])
    before = page.tab.memory()
    page.answer(files)
    grown = page.tab.memory() - before
    found = page.probabilities()
    assert len(found) == 200
    assert all(answer == found[0] for answer in found)
    assert grown < 40e6  # all pictures have 50 MB, and twice as many more while they are decoded


def test_the_page_works_without_its_server_after_the_first_visit(export, visit, pictures):
    page = visit(export())
    page.tab.until("navigator.serviceWorker.ready.then((worker) => worker.active.state === 'activated')")
    assert page.tab.send("Page.getInstallabilityErrors")["installabilityErrors"] == []
    (cache,) = json.loads(page.tab.run("caches.keys().then((keys) => JSON.stringify(keys))"))
    card = json.loads((page.model / "web" / "model.json").read_text())
    assert cache.startswith(card["sha256"])
    page.leave()
    page.tab.go("about:blank")
    page.tab.go(page.address)
    page.tab.until(READY)
    page.answer(files := pictures["png"][:3])
    assert worst(page.probabilities(), page.model, files) <= 1e-3


def test_the_page_can_be_used_by_keys_alone(export, visit, pictures):
    page = visit(export())
    page.answer(pictures["png"][:3])
    tab = page.tab
    tab.run("document.getElementById('files').focus()")
    walked = []
    for _ in range(4):
        walked.append(tab.run("document.activeElement.id || document.activeElement.name"))
        tab.press("Tab", 9)
    assert walked == ["files", "clear", "image", "point"]
    tab.run("document.querySelector('#images input').focus()")
    first = tab.run("document.getElementById('shown').textContent")
    tab.press("ArrowDown", 40)
    assert tab.run("document.getElementById('shown').textContent") != first
    names = """JSON.stringify([...document.querySelectorAll('input, button, select, progress, canvas')]
      .filter((node) => node.checkVisibility())
      .map((node) => node.labels?.[0]?.innerText || node.ariaLabel || node.innerText))"""
    assert all(json.loads(tab.run(names)))
    spoken = "JSON.stringify([...document.querySelectorAll('[aria-live=polite]')].map((node) => node.textContent))"
    said = json.loads(tab.run(spoken))
    assert said[0] == "3 of 3 done."
    assert said[1].startswith(tab.run("document.getElementById('shown').textContent") + ": ")


def test_files_can_be_dropped_anywhere(export, visit):
    page = visit(export())
    drop = """(() => {
      const dropped = new DataTransfer();
      dropped.items.add(new File(['this is no picture'], 'text.png'));
      return dispatchEvent(new DragEvent('drop', {dataTransfer: dropped, cancelable: true}));
    })()"""
    assert page.tab.run(drop) is False  # the browser does not open the file in place of the page
    page.tab.until(DONE)
    assert page.probabilities() == ["not an image, or in a format that is not read; PNG, JPEG and DICOM are"]


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_its_window_and_says_what_it_is_not(export, visit, pictures, tmp_path, width):
    page = visit(export())
    page.answer(pictures["png"][:3])
    for dark in (False, True):
        page.tab.look(tmp_path / "look.png", width, 800, dark=dark)
        assert page.tab.run("document.documentElement.scrollWidth") <= width
        page.tab.run("scrollTo(0, document.body.scrollHeight)")
        place = json.loads(page.tab.run("JSON.stringify(document.querySelector('.notice').getBoundingClientRect())"))
        assert (place["top"], place["height"] > 10) == (0, True)
    assert page.tab.run("document.querySelector('.notice').textContent") == "Research use only, not a medical device"
