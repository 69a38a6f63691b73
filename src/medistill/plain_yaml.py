"""Reading YAML of settings within bounds: no text makes the reader crash, hang or guess.

Anchors, aliases and `<<` are read, as long as the text stays small when they are written out.
"""

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from medistill.errors import UserError
from medistill.files import read_regular
from medistill.text import error_line, printable, shortened

LONGEST_FILE = 100_000
"""Bytes; the longest preset has 4,000."""
LONGEST_VALUE = 4096
"""Characters of one key or value: as long as a path may be."""
LARGEST = 2 * LONGEST_FILE
"""Characters of all keys and values, aliases written out."""
DEEPEST = 20
"""Levels of lists and mappings within each other, aliases written out."""

_NOT_PLAIN = ("binary", "omap", "pairs", "set", "timestamp")
"""YAML's further kinds of values, which settings do not have."""


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        UserError: the file is missing, no regular file, too long or not valid YAML, or holds a kind of value that
            settings do not have.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; run this in the repository's root")
    content = read_regular(path, limit=LONGEST_FILE)
    try:
        return parse_yaml(content.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = printable(error_line(error, 400)).replace("\ufeff", r"\ufeff")  # invisible, and perhaps the fault
        raise UserError(f"{path}: not valid YAML: {reason}") from None


def parse_yaml(text: str) -> Any:
    """The content of a YAML text: text, whole numbers of 64 bits, floats, booleans, None, lists and dicts.

    Raises:
        yaml.YAMLError: it is not valid, or goes beyond the bounds of this module.
    """
    return yaml.load(text, _Plain)


class _Plain(yaml.SafeLoader):
    """Refuses text that its writer, or DVC, would read differently.

    A second `training:` at a file's end would silently win, and 010 is 8 here and 10 to DVC.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open = 0  # lists and mappings around the node that is being read
        self._measures: dict[int, tuple[int, int]] = {}  # characters and levels of each node, by its id

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if self._open > DEEPEST:  # said before Python's stack ends
            raise _error(f"nested more than {DEEPEST} levels deep", event)
        self._open += 1
        node = super().compose_node(parent, index)
        assert node is not None  # there is an event
        self._open -= 1
        if isinstance(event, yaml.AliasEvent) and id(node) not in self._measures:
            raise _error(f"{shortened(str(event.anchor), 40)} contains itself", event)
        if id(node) not in self._measures:
            self._measures[id(node)] = self._measure(node)
        characters, levels = self._measures[id(node)]
        if characters > LARGEST:
            raise _error(f"more than {LARGEST:,} characters when aliases are written out", event)
        if levels > DEEPEST:
            raise _error(f"nested more than {DEEPEST} levels deep when aliases are written out", event)
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value), 0
        children = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        measures = [self._measures[id(child)] for child in children]
        return 1 + sum(size for size, _ in measures), 1 + max((levels for _, levels in measures), default=0)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=True)  # at once, so that all errors are raised here
        except yaml.YAMLError:
            raise
        except Exception:  # of PyYAML's constructors, which take it that a value fits its tag
            raise _error(f"{_shown(node)!r} is no {node.tag.rpartition(':')[2]}", node) from None

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        value = super().construct_scalar(node)
        if len(value) > LONGEST_VALUE:
            raise _error(f"a value of {len(value):,} characters; at most {LONGEST_VALUE:,} are read", node)
        if any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in value):
            raise _error(f"{_shown(node)} has a character that is not valid in text", node)
        return value

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise _error(f"{_shown(node)} is too large a number", node)
        if node.value.removeprefix("+") != str(value):
            raise _error(f"{_shown(node)} is read as {value} by some YAML parsers; write the number in full", node)
        return value

    def construct_not_plain(self, node: yaml.Node) -> None:
        kind = node.tag.rpartition(":")[2]
        raise _error(f"YAML reads {_shown(node)} as a {kind}; write text in quotes, and a list as `[a, b]`", node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        for key in (key for key, _ in pairs if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                raise _error(f"key {shortened(key.value, 40)} is there twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _error(problem: str, place: yaml.Node | yaml.Event) -> ConstructorError:
    return ConstructorError(None, None, problem, place.start_mark)  # type: ignore[arg-type]  # its stub knows one Mark


def _shown(node: yaml.Node) -> str:
    """A value as written, or its kind if it is not a scalar."""
    if isinstance(node, yaml.ScalarNode):
        return printable(shortened(node.value, 40))
    return "a sequence" if isinstance(node, yaml.SequenceNode) else "a mapping"


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)
for _kind in _NOT_PLAIN:
    _Plain.add_constructor(f"tag:yaml.org,2002:{_kind}", _Plain.construct_not_plain)
