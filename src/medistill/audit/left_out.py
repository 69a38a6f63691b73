"""The entries left out of a data set, by kind of reason, with advice."""

import math
import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence

_VARIES = re.compile(
    r"'[^']*'|\"[^\"]*\"|[0-9]+|(?<=the first is ).*|(?<=several classes, ).*|(?<=its mask )\S+|(?<=its lung mask )\S+"
)

_ADVICE = {
    r"in no class's folder": "move files that are not of this data set out of data.root{where}",
    r"there is no such file": "unpack all images below data.root, and check that the table names existing files",
    r"no row of .* names this image": "give each image a row, or move the others out of data.root{where}",
    r"repeats an earlier row|contradict each other": (
        "write one row per image; docs/data.md names the options for one row per reader or box"
    ),
    r"has no label": "fill in the labels; docs/data.md names the options for blank cells",
    r"of several classes|of no class": "set one column to 1 in each row, or set exclusive: false",
    r"its study has no row": "check that both tables are of the same release; data.options.labels names the program",
    r"neither frontal nor lateral": "--set views=all takes them",
    r"do not agree on a class|names both a finding and": "check the readers' labels of these images",
    r"has the (contradictory|unknown) |labels that are not a list|, its class |has no class in|^its path is": (
        "correct these rows of the table"
    ),
    r"in none of ": "--split patient also uses images that no list names",
    r"a second file of this name": "keep one file per name",
    r"^its (?:lung )?mask|without an image$": "check that each mask is in its place and has the shape of its image",
    r"link that leads out": "put the files themselves into data.root",
    r"rename the file": "rename these files",
    r"cannot be read": "check that this user may read these files",
    r"not an image|cannot be decoded|the file is empty|truncated": "fetch these files again, or convert them to PNG",
}
"""Pattern of a reason -> advice; `{where}`: the folder that holds all of the files."""


def group_reasons(left_out: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Reasons grouped by kind (they differ only in lines, numbers and names): the first of each kind, and its paths.

    Args:
        left_out: path and reason each.
    """
    paths: dict[str, list[str]] = defaultdict(list)
    first: dict[str, str] = {}
    for path, reason in left_out:
        kind = _VARIES.sub("…", reason)
        first.setdefault(kind, reason)
        paths[kind].append(path)
    kinds = sorted(paths, key=lambda kind: (-len(paths[kind]), kind))
    return [(first[kind], paths[kind]) for kind in kinds]


def describe_kinds(left_out: Sequence[tuple[str, str]]) -> list[str]:
    """One line per kind of reason, the most frequent first."""
    return [
        f"{len(paths):,} such as {paths[0]}: {reason}" if len(paths) > 1 else f"{paths[0]}: {reason}"
        for reason, paths in group_reasons(left_out)
    ]


def advise(left_out: Sequence[tuple[str, str]], entries: int) -> str:
    """Advice if more is left out than is allowed."""
    reason, paths = group_reasons(left_out)[0]
    advice = next((advice for pattern, advice in _ADVICE.items() if re.search(pattern, reason)), "repair these files")
    folder = posixpath.commonpath(paths) if all("/" in path for path in paths) and len(paths) > 1 else ""
    advice = advice.replace("{where}", f" ({folder}/)" if folder else "")
    share = math.ceil(100 * len(left_out) / entries) / 100
    return f"{advice}; or set data.max_quarantined to {share:g} to go on without them"
