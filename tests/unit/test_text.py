"""Words for people, whatever is in the data."""

import pytest

from medistill.text import counted, printable, shortened


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Pleural effusion", "Pleural effusion"),
        ("Röntgen 胸部", "Röntgen 胸部"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines\r", r"two\nlines\r"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),  # turn the direction of writing
        ("a\u2028b\u0085c", r"a\u2028b\x85c"),  # line breaks to some
        ("\x9b31m", r"\x9b31m"),  # a control sequence of one character
        ("lone \ud800", r"lone \ud800"),
        ("\x00", r"\x00"),
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert printable(text) == shown


def test_what_is_too_long_ends_in_an_ellipsis_within_its_limit():
    assert shortened("abcde", 5) == "abcde"
    assert shortened("abcdef", 5) == "abcd…"


def test_nouns_are_counted_in_english():
    assert [counted(1, "box"), counted(0, "box"), counted(1200, "image")] == ["1 box", "0 boxes", "1,200 images"]
