"""The base class of all sections of params.yaml, and turning pydantic's errors into one line."""

import difflib
import re
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from medistill.text import is_name, pluralise, printable, shortened

LONGEST_MESSAGE = 500
"""Most characters of all errors in one message."""


class Settings(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any) -> Any:
        """Refuse `patience: true`, which would be read as 1."""
        for key, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(key)
            is_number = field is not None and re.search(r"\b(int|float)\b", str(field.annotation))
            if is_number and any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):
                raise ValueError(f"{key} must be a number, not true or false")
        return given


def _require_path(path: Path) -> Path:
    """Refuse paths that no file system accepts."""
    name = str(path)
    if "\0" in name or any("\ud800" <= sign <= "\udfff" for sign in name):
        raise ValueError("has a character that is not valid in a path")
    if len(name.encode()) > 1024 or any(len(part.encode()) > 255 for part in path.parts):
        raise ValueError("is too long: a name in a path may have at most 255 bytes, the whole path 1,024")
    return path


AnyPath = Annotated[Path, AfterValidator(_require_path)]
"""A path that may or may not exist."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=100)]
"""A name that becomes part of a file and a stage name; `-` is kept for joining student, recipe and seed."""

SEEDS = 2**31
Seed = Annotated[int, Field(ge=0, lt=SEEDS, strict=True)]  # DVC hands it to stages as it is written

Fraction = Annotated[float, Field(gt=0, lt=1)]

LONGEST_LICENSE = 200
"""Most characters of a licence: an identifier or a name, not its text."""


def _require_license(given: object) -> object:
    """Refuse what is no name of a licence; YAML reads 4.0 as a number."""
    if not isinstance(given, str):
        raise ValueError(f"must be text, such as CC-BY-4.0, and is {given!r}; put it into quotes")
    if not is_name(given) or given.strip().casefold() == "unknown":
        raise ValueError("must be a line of text, such as CC-BY-4.0; leave it out where the licence is not known")
    if len(given) > LONGEST_LICENSE:
        raise ValueError(f"has {len(given)} characters, and may have {LONGEST_LICENSE}; name the licence")
    return given.strip()


License = Annotated[str, BeforeValidator(_require_license)]
"""An identifier of SPDX such as `CC-BY-4.0`, or the name of a licence or of terms of use."""


def require_once(key: str, values: list[Any]) -> None:
    """Refuse a list at `key` that names something twice.

    Raises:
        ValueError: it does; pydantic makes a message of it.
    """
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{key} names {value!r} more than once")


def describe_errors(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> str:
    """Errors in the keys of `model` in one line, each key with `prefix`; of many errors the first ones."""
    mistakes = error.errors(include_url=False)
    said: list[str] = []
    for mistake in mistakes:
        words = printable(shortened(f"{prefix}{_describe(mistake, model)}", 400))
        if said and len("; ".join([*said, words])) > LONGEST_MESSAGE - 30:
            break
        said.append(words)
    more = len(mistakes) - len(said)
    return "; ".join(said) + (f"; and {pluralise(more, 'more mistake')}" if more else "")


def _describe(item: Any, model: type[BaseModel]) -> str:
    """One of pydantic's `ValidationError.errors()` in a few words."""
    parts = [shortened(str(part), 60) for part in _without_tags(item["loc"], model)]
    if "terms" in parts[2:-2]:  # pydantic takes the loss for a key
        place = parts.index("terms", 2) + 1
        parts[place : place + 2] = [f"{parts[place]} ({parts[place + 1]})"]
    if parts[-1:] == ["[key]"]:
        what = "a name must consist of letters, digits and _"
        if not isinstance(item["input"], str):
            what = f"YAML reads this name as {type(item['input']).__name__}; put it into quotes"
        return f"{'.'.join(parts[:-1])}: {what}"
    key, given = ".".join(parts), "empty" if item["input"] is None else shortened(reprlib.repr(item["input"]), 80)
    if item["type"] == "missing":
        return f"key {key} is missing"
    if item["type"] == "string_pattern_mismatch":
        return f"{key}: a name must consist of letters, digits and _, and is {given}"
    if item["type"] == "extra_forbidden":
        keys = _keys_at(model, item["loc"][:-1])
        near = difflib.get_close_matches(parts[-1], keys, n=1, cutoff=0.75)
        return f"key {key} is unknown; " + (f"did you mean {near[0]}?" if near else f"known here are {', '.join(keys)}")
    if item["type"] in ("model_type", "model_attributes_type"):
        return f"{key}: must have keys of its own, such as `key: value`, and is {given}"
    if item["type"] == "dict_type":
        return f"{key}: must have names as keys, such as `name: {{…}}`, and is {given}"
    if item["type"] == "list_type":
        return f"{key}: must be a list, such as `[a, b]`, and is {given}"
    if item["type"] == "union_tag_not_found" or (item["type"] == "union_tag_invalid" and item["ctx"]["tag"] == "None"):
        return f"key {key}.loss is missing"
    if item["type"] == "union_tag_invalid":
        tag = shortened(item["ctx"]["tag"], 40)
        return f"{key}.loss: {tag!r} is unknown; known are {item['ctx']['expected_tags']}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "literal_error" and isinstance(item["input"], bool):  # YAML reads no, off and yes
        message += "; YAML reads no, off, yes and on without quotes as true or false; put it into quotes"
    message = message[0].lower() + message[1:]
    return f"{key}: {message}" if key else message


def _without_tags(place: Sequence[str | int], model: type[BaseModel]) -> list[str | int]:
    """A place in `model` without pydantic's names of the kinds that a value may be of, such as a teacher's `onnx`."""
    here: Any = model
    kept = []
    for part in place:
        if here is not None and _tagged(here):
            here = _tagged(here).get(part)
            continue
        kept.append(part)
        if here is None or get_origin(here) is Annotated:
            here = None
        elif get_origin(here) is None:
            field = getattr(here, "model_fields", {}).get(str(part))
            here = field and field.annotation
        else:
            here = (get_args(here) or (None,))[-1]
    return kept


def _tagged(annotation: Any) -> dict[Any, Any]:
    """The kinds that a value may be of, by tag, where the keys in it tell them apart; else nothing."""
    if get_origin(annotation) is not Annotated:
        return {}
    kinds = get_args(get_args(annotation)[0])
    return {
        note.tag: get_args(kind)[0]
        for kind in kinds
        if get_origin(kind) is Annotated
        for note in get_args(kind)[1:]
        if isinstance(note, Tag)
    }


def _without_none(annotation: Any) -> Any:
    """The kind of a value that may be left out."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if get_origin(annotation) is UnionType and len(kinds) == 1 else annotation


def _keys_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The keys that `model` knows at a place within it, such as `("recipes", "kd", "terms", 0, "sigmoid_kd")`."""
    here: Any = model
    for part in place:
        if kinds := _tagged(here):
            here = kinds[part]
        elif get_origin(here) is None:  # a section
            here = _without_none(here.model_fields[str(part)].annotation)
        elif get_origin(here) is Annotated:  # terms: pydantic names the loss after the place in the list
            terms = get_args(get_args(here)[0])
            here = next(term for term in terms if part in get_args(term.model_fields["loss"].annotation))
        else:  # a list, or sections by name
            here = get_args(here)[-1]
    return list(here.model_fields)
