"""Text for messages and pages."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any


def pluralise(number: int, noun: str) -> str:
    """`1 pair`, `2 pairs`, `1,200 boxes`."""
    plural = noun + ("es" if noun.endswith("x") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def by_hash(names: Iterable[str]) -> list[str]:
    """Names in an order that is as good as drawn, and stays when others come to them: that of their hashes."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: escape sequences, line breaks
    "\u2028\u2029"  # line and paragraph separator
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # turn the direction of writing
    "\ufeff"  # a byte order mark is not seen
    "\ud800-\udfff]"  # lone surrogates: no text
)
"""Characters that terminals and text layout interpret instead of showing, or that cannot be encoded."""


def printable(text: str, *, keep: str = "") -> str:
    """Text from data or a file, in one line without characters that a terminal would interpret.

    Control characters, escape sequences, line breaks, marks that turn the direction of writing and lone surrogates are
    escaped as Python writes them: `\x1b`, `\n`, `\u202e`, `\ud800`; those in `keep` are not.
    """
    return _OBEYED.sub(lambda sign: sign[0] if sign[0] in keep else sign[0].encode("unicode_escape").decode(), text)


def as_cell(text: str, *, before: str = "./") -> str:
    """Text without control characters, which no spreadsheet takes for a formula.

    Args:
        text: a path or a name.
        before: what stands before a formula; of a path `./=x` is the same file as `=x`.
    """
    shown = printable(text)
    return f"{before}{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def error_line(error: BaseException, limit: int | None = None) -> str:
    """The message of an exception in one line of at most `limit` characters; its type's name if it has no message."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if limit is None else shortened(line, limit)


def is_name(text: str) -> bool:
    """Whether a text can be the name of a label or a model: it is not blank, and nothing in it must be escaped."""
    return text.strip() != "" and not _OBEYED.search(text)


def to_json(value: Any) -> str:
    """Indented JSON text, with control characters and lone surrogates escaped.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # A line break is of the layout: within JSON's texts json has escaped it.
    return _OBEYED.sub(lambda sign: sign[0] if sign[0] == "\n" else json.dumps(sign[0])[1:-1], text)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters of a text, the last of them `…` where something is left out."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
