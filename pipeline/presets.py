"""params.yaml for the papers' systems: `python -m pipeline preset NAME --root ROOT`."""

import json
from pathlib import Path

from medistill.config import load_params
from medistill.errors import UserError
from medistill.files import atomic

_FOLDER = Path(__file__).parent / "presets"

_DATA_OF = {"a": ("chestxray14", "chexpert", "padchest"), "b": ("covid_qu_ex", "lc25000")}

PRESETS: dict[str, tuple[str, ...]] = {
    f"paper-{system}-{format.replace('_', '-')}": ("no_phantom", f"data_{format}", f"paper_{system}", "common")
    for system, formats in _DATA_OF.items()
    for format in formats
} | {"phantom": ("phantom",)}
"""Name -> the files in `pipeline/presets` that it is made of."""

BEFORE = "params.yaml.before"


def preset_text(name: str, root: Path | None) -> str:
    """The content of params.yaml.

    Args:
        name: one of `PRESETS`.
        root: the data set's folder; None for the phantom, which is drawn.

    Raises:
        UserError: the name is unknown, or the root is missing where one is needed, or is given where none is.
    """
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown; known are {', '.join(PRESETS)}")
    if (root is None) != (name == "phantom"):
        raise UserError(f"preset {name}: " + ("--root is not needed, it is drawn" if root else "--root is missing"))
    parts = [(_FOLDER / f"{part}.yaml").read_text(encoding="utf-8") for part in PRESETS[name]]
    if root is None:
        return "".join(parts)
    head = (
        f"# Preset {name}. Which values are the paper's and which are ours is said beside them; see docs/papers.md.\n"
        "# Every key is checked and documented in src/medistill/config.py.\n"
    )
    return "\n".join([head, *parts]).replace("root: ROOT", f"root: {json.dumps(str(root), ensure_ascii=False)}")


def write_preset(name: str, root: Path | None, folder: Path) -> bool:
    """Write params.yaml into `folder`; what was there before is kept as params.yaml.before.

    Returns:
        Whether there was another params.yaml.

    Raises:
        UserError: as for `preset_text`; the root is no folder; or params.yaml.before is there already.
    """
    text = preset_text(name, root)
    if root is not None and not (folder / root).is_dir():
        raise UserError(f"--root {root}: no such folder")
    file, before = folder / "params.yaml", folder / BEFORE
    changed = file.is_file() and file.read_text(encoding="utf-8") != text
    if changed and before.exists():
        raise UserError(f"{BEFORE} is there already; move it away, so that params.yaml can be kept under that name")
    with atomic(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
        load_params(temporary)
        if changed:
            file.rename(before)
    return changed
