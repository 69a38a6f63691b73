"""What every page that is written here has in common: one file that fetches nothing and runs nothing."""

import html
from typing import Any

from medistill.text import printable

POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)
"""What comes from data is escaped; were it not, no script would run all the same."""


def escape(value: Any) -> str:
    """Anything that comes from data, as text in one line of HTML, also within a quoted attribute."""
    return html.escape(printable(str(value)))


def markdown(value: Any) -> str:
    """Anything that comes from data, as text in one line of Markdown: no markup, no link, no picture, no HTML."""
    text = printable(" ".join(str(value).split()))
    return "".join(f"\\{sign}" if sign in "\\`|<>[]*#&" else sign for sign in text)


def document(title: str, style: str, body: str, *, renew: int | None = None) -> str:
    """An HTML page as text.

    Args:
        title: plain text, escaped here.
        style: CSS.
        body: HTML, in which everything that comes from data is escaped already.
        renew: seconds after which a browser loads the page again.
    """
    refresh = f'<meta http-equiv="refresh" content="{renew}">\n' if renew is not None else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{refresh}{POLICY}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
