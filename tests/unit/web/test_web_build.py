"""The files of a model's web page."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from medistill.errors import UserError
from medistill.web.build import OWN, build

POINTS = [{"kind": "sensitivity", "promised": 0.9, "thresholds": {"Nodule": None, "Mass": 0.25, "Effusion": 0.5}}]


def test_the_page_knows_its_model(make_bundle, packages):
    licenses = [{"license": "MIT", "what": "data films", "path": []}, {"license": None, "what": "weights", "path": []}]
    calibration = {"slopes": [0.5, 1.0, 2.0], "intercepts": [0.0, -1.0, 1.0]}
    scale = {"Effusion": 0.5, "Mass": 0.0, "Nodule": 2.0}
    keys = {"operating_points": POINTS, "test_auroc": {"Mass": 0.75, "Nodule": 0.85}, "calibration": calibration}
    folder = make_bundle(licenses=licenses, map_scale=scale, **keys)
    web = build(folder, packages)
    card = json.loads((web / "model.json").read_text())
    assert card == {
        "name": "linear-kd-0",
        "disclaimer": "Research use only, not a medical device",
        "task": "multilabel",
        "labels": ["Effusion", "Mass", "Nodule"],
        "size": 8,
        "channels": 1,
        "fit": "squash",
        "file": "model.onnx",
        "sha256": hashlib.sha256((web / "model.onnx").read_bytes()).hexdigest(),
        "slopes": [0.5, 1.0, 2.0],
        "intercepts": [0.0, -1.0, 1.0],
        "scale": [0.5, 0.0, 2.0],
        "points": [{"name": "sensitivity 0.9", "thresholds": [0.5, 0.25, None]}],
        "data": ["films"],
        "auroc": {"mean": pytest.approx(0.8), "labels": 2},
    }
    assert (web / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_a_model_without_thresholds_has_a_page(make_bundle, packages):
    card = json.loads((build(make_bundle(), packages) / "model.json").read_text())
    assert (card["points"], card["data"], card["auroc"]) == ([], [], None)


def test_libraries_are_named_by_their_place(make_bundle, packages):
    web = build(make_bundle(), packages)
    assert (web / "vendor/fast-png/png_decoder.js").read_text() == (
        'import { Unzlib } from "../fflate/browser.js";\nimport { IOBuffer } from "../iobuffer/iobuffer.js";\n'
    )
    assert (web / "vendor/fast-png/helpers/crc.js").read_text() == 'import { B } from "../../fflate/browser.js";\n'
    assert "sourceMappingURL" not in (web / "vendor/ort.wasm.min.mjs").read_text()
    assert not (web / "vendor/ort.webgl.mjs").exists()
    licences = (web / "vendor/LICENSES.txt").read_text()
    assert [f"{name} 1.2.3: MIT" in licences for name in ("fast-png", "fflate", "iobuffer")] == [True] * 3
    assert "as is" in licences


def test_every_import_of_the_page_is_a_file_of_it(make_bundle, packages):
    web = build(make_bundle(), packages)
    for module in [*web.rglob("*.js"), *web.rglob("*.mjs")]:
        for name in re.findall(r'^import .*?"([^"]+)"', module.read_text(), flags=re.MULTILINE):
            assert (module.parent / name).resolve().is_file(), f"{module} imports {name}"


def kept(web) -> dict:
    line = re.search(r"^const BUILD = (.*);$", (web / "offline.js").read_text(), flags=re.MULTILINE)
    return json.loads(line[1])


def test_all_files_are_kept_for_offline_by_the_model_and_the_content(make_bundle, packages):
    folder = make_bundle()
    web = build(folder, packages)
    files = {path.relative_to(web).as_posix() for path in web.rglob("*") if path.is_file()}
    first = kept(web)
    assert set(first["files"]) == {"./", *files} - {"offline.js"}
    assert first["cache"].startswith(hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() + "-")
    assert kept(build(folder, packages)) == first
    (packages / "fflate/esm/browser.js").write_text("export const Unzlib = 2;\n")
    assert kept(build(folder, packages))["cache"] != first["cache"]


def test_own_modules_name_no_address_and_no_inline_code():
    for file in OWN.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), file
        assert not re.search(r"\b(eval|Function)\(|innerHTML|<style|\sstyle=|\son[a-z]+=\"", text), file


def test_a_file_name_of_the_bundle_cannot_replace_the_page(make_bundle, packages):
    folder = make_bundle(file="index.html")
    (folder / "model.onnx").rename(folder / "index.html")
    web = build(folder, packages)
    assert (web / "index.html").read_bytes() == (OWN / "index.html").read_bytes()
    assert (web / "model.onnx").read_bytes() == (folder / "index.html").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder, packages: (folder / "model.onnx").write_bytes(b"x"), r"model\.onnx: missing or damaged; "),
        (lambda folder, packages: (folder / "model.onnx").unlink(), r"model\.onnx: missing or damaged; "),
        (lambda folder, packages: (folder / "bundle.json").write_text("{"), r"bundle\.json: not valid JSON"),
        (
            lambda folder, packages: shutil.rmtree(packages / "iobuffer"),
            r"iobuffer: not an installed package; run make",
        ),
        (lambda folder, packages: (packages / "iobuffer/lib/text.js").unlink(), r"text\.js: missing; run make web"),
    ],
)
def test_what_cannot_be_built_is_one_line_and_leaves_nothing(make_bundle, packages, spoil, message):
    folder = make_bundle()
    spoil(folder, packages)
    with pytest.raises(UserError, match=message):
        build(folder, packages)
    assert not (folder / "web").exists()


def test_the_command_builds_each_model(make_bundle, packages, tmp_path):
    first, second = make_bundle(), make_bundle("other-kd-0")
    command = [sys.executable, "-m", "medistill.web.build", str(packages)]
    done = subprocess.run([*command, str(first), str(second)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{folder}/web: medistill web {folder}" for folder in (first, second)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: not an exported model, bundle.json is missing\n"
