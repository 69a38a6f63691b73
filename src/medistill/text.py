"""Words for people."""


def counted(number: int, noun: str) -> str:
    """`1 pair`, `2 pairs`, `1,200 boxes`."""
    plural = noun + ("es" if noun.endswith("x") else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def printable(text: str) -> str:
    """Text that came from data or a file, in one line that a terminal shows and does not obey.

    Control characters, escape sequences, line breaks, marks that turn the direction of writing and lone surrogates are
    escaped as Python writes them: `\\x1b`, `\\n`, `\\u202e`, `\\ud800`.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters of a text, the last of them `…` where something is left out."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
