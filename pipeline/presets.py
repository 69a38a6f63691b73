"""params.yaml for the papers' systems: `python -m pipeline preset NAME --root ROOT`."""

import os
from pathlib import Path

from medistill.errors import UserError
from medistill.files import atomic
from medistill.layout import HERE, Layout
from medistill.params import load_params
from medistill.text import to_json

_FOLDER = Path(__file__).parent / "presets"

_DATA_OF = {"a": ("chestxray14", "chexpert", "padchest"), "b": ("covid_qu_ex", "lc25000")}

PRESETS: dict[str, tuple[str, ...]] = {
    f"paper-{system}-{format.replace('_', '-')}": ("no_phantom", f"data_{format}", f"paper_{system}", "common")
    for system, formats in _DATA_OF.items()
    for format in formats
} | {"phantom": ("phantom",)}
"""Name -> the files in `pipeline/presets` that are merged into it."""

BEFORE = HERE.params_before.name


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
        raise UserError(
            f"preset {name}: "
            + ("the phantom takes no --root, as its images are drawn" if root else "--root is missing")
        )
    parts = [(_FOLDER / f"{part}.yaml").read_text(encoding="utf-8") for part in PRESETS[name]]
    if root is None:
        return "".join(parts)
    head = (
        f"# Preset {name}. Comments say which values are the paper's and which are ours; see docs/papers.md.\n"
        "# Missing keys have the defaults of their section, see `settings.py` in src/medistill's folders.\n"
    )
    return "\n".join([head, *parts]).replace("root: ROOT", f"root: {to_json(str(root))}")


def write_preset(name: str, root: Path | None, folder: Path) -> bool:
    """Write params.yaml into `folder`; an existing one is kept as params.yaml.before.

    Returns:
        Whether there was another params.yaml.

    Raises:
        UserError: as for `preset_text`; the root is not a folder, is empty, or overlaps with a folder that stages
            write; params.yaml is not a file; or params.yaml.before exists already.
    """
    text = preset_text(name, root)
    if root is not None:
        _require_root(root, folder)
    file, before = Layout(folder).params, Layout(folder).params_before
    if file.exists() and not file.is_file():
        raise UserError("params.yaml: not a file; move it away")
    changed = file.is_file() and file.read_bytes() != text.encode()
    if changed and os.path.lexists(before):
        raise UserError(
            f"{BEFORE} exists already; move it away, since the present params.yaml would be kept under this name"
        )
    with atomic(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
        load_params(temporary)
        if changed:
            file.rename(before)
    return changed


def _require_root(root: Path, folder: Path) -> None:
    """Refuse a path that is not a folder, or that overlaps with a folder that stages write."""
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise UserError(f"--root {os.fsencode(root)!r}: the name is not valid UTF-8; rename the folder") from None
    place = (folder / root).resolve()
    if not place.is_dir():
        raise UserError(f"--root {root}: no such folder")
    for name in HERE.written_by_stages():
        written = (folder / name).resolve()
        if written.is_relative_to(place) or place.is_relative_to(written):
            raise UserError(f"--root {root}: stages write into {name}; put the data set into another folder")
    if not any(place.iterdir()):
        raise UserError(f"--root {root}: the folder is empty")
