"""Exported models to build pages of, and libraries as npm installs them."""

import json
from pathlib import Path

import pytest

from tests.unit.runtime.conftest import grey, make_bundle  # noqa: F401  # fixtures


@pytest.fixture
def packages(tmp_path) -> Path:
    """`node_modules` with packages that hold a line each."""
    folder = tmp_path / "node_modules"
    files = {
        "onnxruntime-web/dist/ort.wasm.min.mjs": "export {};\n//# sourceMappingURL=ort.wasm.min.mjs.map\n",
        "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs": "export default 2;\n",
        "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": "\0asm",
        "onnxruntime-web/dist/ort.webgl.mjs": "not needed",
        "fast-png/lib/png_decoder.js": "import { Unzlib } from 'fflate';\nimport { IOBuffer } from 'iobuffer';\n",
        "fast-png/lib/internal_types.js": "export const A = 1;\n",
        "fast-png/lib/helpers/crc.js": "import { B } from 'fflate';\n",
        "fflate/esm/browser.js": "export const Unzlib = 1;\n",
        "iobuffer/lib/iobuffer.js": "import { C } from './text.js';\n",
        "iobuffer/lib/text.js": "export const C = 1;\n",
        "dicom-parser/dist/dicomParser.min.js": "module.exports = { parseDicom: 1 };\n",
        "jpeg-lossless-decoder-js/release/lossless-min.js": "export const Decoder = 1;\n",
        "fflate/LICENSE": "as is",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for package in ("onnxruntime-web", "fast-png", "fflate", "iobuffer", "dicom-parser", "jpeg-lossless-decoder-js"):
        about = {"name": package, "version": "1.2.3", "license": "MIT"}
        (folder / package / "package.json").write_text(json.dumps(about))
    return folder
