"""Texts for people are safe, whatever is in the data."""

import json

import pytest

from medistill.text import is_name, pluralise, printable, shortened, to_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Pleural effusion", "Pleural effusion"),
        ("Röntgen 胸部", "Röntgen 胸部"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines\r", r"two\nlines\r"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),  # these change the direction of writing
        ("a\u2028b\u0085c", r"a\u2028b\x85c"),  # some programs break lines at these
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
    assert [pluralise(1, "box"), pluralise(0, "box"), pluralise(1200, "image")] == ["1 box", "0 boxes", "1,200 images"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *(("Pleural effusion", True), ("Röntgen 胸部", True), ("ذات الرئة", True), ("می‌شود", True), ("a\u00a0b", True)),
        *(("", False), (" \u3000", False), ("a\nb", False), ("a\x1b[0m", False), ("a\x7f", False), ("a\x85", False)),
        *(("a\u2029", False), ("\u061ca", False), ("a\u202d", False), ("\u2067a", False), ("a\udfff", False)),
    ],
)
def test_a_name_is_not_blank_and_obeyed_by_no_terminal(text, name):
    assert is_name(text) is name


def test_json_is_ordinary_json_where_nothing_must_be_escaped():
    value = {"b": [1, 2.5, None, True], "ä": "ö\t"}
    assert to_json(value) == json.dumps(value, indent=2, ensure_ascii=False)
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json([float("inf")])
