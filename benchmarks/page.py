"""Tables that scripts write into the documentation, between markers."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from medistill.files import atomic

ROOT = Path(__file__).resolve().parents[1]


def write_between(page: str, name: str, text: str) -> None:
    """Put `text` between `<!-- name: begin -->` and `<!-- name: end -->` of `page`, a path in this repository."""
    file = ROOT / page
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = file.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    with atomic(file) as temporary:
        temporary.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, the smallest and the largest of several measurements."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} … {max(values):.{digits}f})"
