"""The checklists have each of their items once."""

import re

from medistill.report.items import CLAIM, TRIPOD_AI

PARTS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc"}
"""Of TRIPOD+AI's items that have several (BMJ 2024;385:e078378, table 2)."""


def test_tripod_has_27_items_with_their_parts():
    numbers = [item.number for items in TRIPOD_AI.values() for item in items]
    assert numbers == [f"{k}{part}" for k in range(1, 28) for part in PARTS.get(k, ("",))]


def test_claim_has_44_items():
    assert [item.number for items in CLAIM.values() for item in items] == [str(k) for k in range(1, 45)]


def test_every_item_is_answered_or_asked_for():
    for item in (item for items in (TRIPOD_AI | CLAIM).values() for item in items):
        assert item.facts or item.write, item.number
        assert not re.search(r"[.:]$", item.write), item.number  # the page ends the sentence
