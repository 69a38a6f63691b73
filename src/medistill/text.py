"""Words for people."""


def counted(number: int, noun: str) -> str:
    """`1 pair`, `2 pairs`, `1,200 pairs`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
