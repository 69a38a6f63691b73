"""Great Expectations' pages: their text escaped, their errors raised, and all of them readable offline."""

import contextlib
import html
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from medistill.report.html import POLICY, render_page, style
from medistill.text import printable

_REMOTE = re.compile(r"<script\b.*?</script>|<footer\b.*?</footer>|<(?:link|img)\b[^>]*>|url\([^)]*\)", re.DOTALL)


class _Kept(logging.Handler):
    """Keeps the messages of errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message of an error."""
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def raise_what_is_logged() -> Iterator[None]:
    """Raise the errors that Great Expectations only logs when it cannot write a page.

    Raises:
        RuntimeError: the first of such messages.
    """
    logger, handler = logging.getLogger("great_expectations.render.renderer.site_builder"), _Kept()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    if handler.messages:
        raise RuntimeError(handler.messages[0])


def as_html(table: pd.DataFrame) -> pd.DataFrame:
    """A table with text and column names as HTML, since Great Expectations inserts them into its pages unescaped."""
    text = [column for column in table if not pd.api.types.is_numeric_dtype(table[column])]
    shown = table.copy()
    for column in text:
        shown[column] = table[column].map(html.escape, na_action="ignore")
    return shown.rename(columns=html.escape)


def as_text(value: Any) -> Any:
    """A result on such a table, with its HTML as text again."""
    if isinstance(value, dict):
        return {as_text(key): as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return html.unescape(value) if isinstance(value, str) else value


def make_offline(docs: Path) -> None:
    """Make Data Docs readable without a network, and keep them from loading or running anything.

    As Great Expectations writes them they fetch styles and scripts from five hosts, and their index is empty without
    these.
    """
    for page in docs.rglob("*.html"):
        text = printable(_REMOTE.sub("", page.read_text(encoding="utf-8")), keep="\n\t")
        page.write_text(text.replace("<head>", f"<head>{POLICY}<style>{style()}</style>", 1), encoding="utf-8")
    shutil.rmtree(docs / "static", ignore_errors=True)  # 4 MB of fonts that the pages no longer name
    pages = []
    for kind, title in (("validations", "Results"), ("expectations", "Expectations")):
        for page in sorted((docs / kind).rglob("*.html")):
            name = page.relative_to(docs / kind).parts[0].removesuffix(".html")
            pages.append((page.relative_to(docs).as_posix(), f"{title}: {name}"))
    index = render_page("data_docs", title="Data validation", pages=pages)
    (docs / "index.html").write_text(index, encoding="utf-8")
