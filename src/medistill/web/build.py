"""Writing the web page of an exported model: `python -m medistill.web.build PACKAGES MODEL…`, as `make web` does.

The page is static: own modules (`static/`), libraries from the package registry, and the model. No bundler: a module
that names a library by its package gets the library's place in the page instead.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from medistill import front_door
from medistill.checksums import EXPORT_AGAIN
from medistill.errors import UserError
from medistill.files import atomic, digest
from medistill.layout import ExportFolder
from medistill.runtime.bundle import DISCLAIMER, Bundle, read_bundle
from medistill.text import printable

OWN = Path(__file__).parent / "static"

_OFFLINE = "offline.js"

LIBRARIES = {
    "onnxruntime-web": (
        "dist",
        ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
        "",
    ),
    "fast-png": ("lib", ("png_decoder.js", "internal_types.js", "helpers/*.js"), "fast-png"),
    "fflate": ("esm", ("browser.js",), "fflate"),
    "iobuffer": ("lib", ("iobuffer.js", "text.js"), "iobuffer"),
    "dicom-parser": ("dist", ("dicomParser.min.js",), ""),
    "jpeg-lossless-decoder-js": ("release", ("lossless-min.js",), ""),
}
"""Package -> its folder, the files that are needed of it, and where they go below `vendor`."""

COMMONJS = "dicomParser.min.js"
"""The one file that is no module of its own: it gives its exports to `module`."""

PLACES = {"fflate": "fflate/browser.js", "iobuffer": "iobuffer/iobuffer.js"}
"""Packages that other packages import by name -> their module below `vendor`."""


def build(model: Path, packages: Path) -> Path:
    """Write the folder `web` of an exported model; it appears whole or not at all.

    Args:
        model: a folder that the export stage wrote.
        packages: `node_modules` with the packages of package.json.

    Returns:
        The folder that was written.

    Raises:
        UserError: the model's folder is not valid, its ONNX file is damaged, or a package is missing.
    """
    bundle = read_bundle(model)
    if not bundle.model.is_file() or digest(bundle.model) != bundle.sha256:
        raise UserError(f"{bundle.model}: missing or damaged; {EXPORT_AGAIN}")
    target = ExportFolder(model).web
    with atomic(target) as folder:
        shutil.copytree(OWN, folder)
        shutil.copyfile(bundle.model, ExportFolder(folder).onnx)
        _write(folder / "model.json", json.dumps(describe(bundle), ensure_ascii=False, allow_nan=False))
        _write(folder / "manifest.webmanifest", json.dumps(_manifest(bundle), ensure_ascii=False))
        _vendor(packages, folder / "vendor")
        _write(folder / _OFFLINE, _keeping(folder, bundle))
    return target


def describe(bundle: Bundle) -> dict[str, object]:
    """What the page knows of its model, the content of model.json; thresholds in the order of the labels."""
    aurocs = bundle.test_auroc.values()
    return {
        "name": bundle.name,
        "disclaimer": DISCLAIMER,
        "task": bundle.task,
        "labels": bundle.labels,
        "size": bundle.image_size,
        "channels": bundle.channels,
        "fit": bundle.fit,
        "file": ExportFolder(Path()).onnx.name,
        "sha256": bundle.sha256,
        **bundle.calibration.written_out(len(bundle.labels)),
        "scale": [bundle.map_scale.get(label, 0.0) for label in bundle.labels],
        "points": [
            {"name": str(point), "thresholds": [point.thresholds[label] for label in bundle.labels]}
            for point in bundle.points
        ],
        "data": bundle.data,
        "auroc": {"mean": fmean(aurocs), "labels": len(aurocs)} if aurocs else None,
    }


def _manifest(bundle: Bundle) -> dict[str, object]:
    """By which a browser installs the page."""
    return {
        "name": f"{bundle.name}: {DISCLAIMER}",
        "short_name": bundle.name,
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#14171b",
        "theme_color": "#14171b",
        "icons": [{"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"}],
    }


def _vendor(packages: Path, folder: Path) -> None:
    """Copy the libraries, their imports turned to where they lie, and their licences."""
    licences = []
    for package, (inside, patterns, place) in LIBRARIES.items():
        source = packages / package
        licences.append(_licence(source))
        for file in _files(source / inside, patterns):
            copy = folder / place / file.relative_to(source / inside)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".wasm":
                shutil.copyfile(file, copy)
            else:
                depth = "../" * (len(copy.relative_to(folder).parts) - 1) or "./"
                code = _turned(file.read_text(encoding="utf-8"), depth)
                _write(copy, _as_module(code) if file.name == COMMONJS else code)
    _write(folder / "LICENSES.txt", "\n\n".join(licences))


def _files(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if not found:
            raise UserError(f"{folder / pattern}: missing; run make web, which installs it")
        yield from found


def _turned(code: str, depth: str) -> str:
    """A module whose imports of packages name places below `vendor`, and which names no map of its source."""
    code = re.sub(r"^//# sourceMappingURL=.*$", "", code, flags=re.MULTILINE)
    names = "|".join(PLACES)
    return re.sub(rf"""(\bfrom\s*)['"]({names})['"]""", lambda found: f'{found[1]}"{depth}{PLACES[found[2]]}"', code)


def _as_module(code: str) -> str:
    return (
        "const module = { exports: {} }, exports = module.exports, require = () => ({});\n"
        f"{code}\nexport default module.exports;\n"
    )


def _licence(source: Path) -> str:
    """Name, version and licence of a package, with the licence's text where it comes with one."""
    try:
        about = json.loads((source / "package.json").read_text(encoding="utf-8"))
        head = f"{about['name']} {about['version']}: {about['license']}"
    except (OSError, ValueError, KeyError):
        raise UserError(f"{source}: not an installed package; run make web, which installs it") from None
    text = source / "LICENSE"
    return f"{head}\n\n{text.read_text(encoding='utf-8')}" if text.is_file() else head


def _keeping(folder: Path, bundle: Bundle) -> str:
    """offline.js, with the files that it keeps, in a cache named by the model and by the page's own content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _OFFLINE)
    names = [path.relative_to(folder).as_posix() for path in files]
    content = hashlib.sha256("".join(map(digest, files)).encode()).hexdigest()
    build = {"cache": f"{bundle.sha256}-{content[:16]}", "files": ["./", *names]}
    code = (folder / _OFFLINE).read_text(encoding="utf-8")
    return re.sub(r"^const BUILD = .*$", lambda _: f"const BUILD = {json.dumps(build)};", code, flags=re.MULTILINE)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def main() -> int:
    """Build the pages of the models that the command line names."""
    packages, *models = map(Path, sys.argv[1:])
    for model in models:
        folder = build(model, packages)
        print(f"{printable(str(folder))}: medistill web {printable(str(model))}")
    return 0


if __name__ == "__main__":
    front_door.run(main)
