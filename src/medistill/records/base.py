"""How the content of a JSON file between stages becomes an object, and the other way."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from medistill.checksums import checksums, read_json_or, read_record, require_whole, what_to_run, write_record
from medistill.errors import UserError
from medistill.files import write_json
from medistill.settings import describe_errors
from medistill.task import Task

JsonObject = dict[str, JsonValue]
"""Content that is handed on as it is: settings as params.yaml had them, for whoever compares or shows them."""

KnownTask = Annotated[Task, Field(strict=False)]
"""A task, which a file has as its value."""


Kind = TypeVar("Kind", bound="Content")


class Content(BaseModel):
    """Base of all contents. Values never change; keys that are not known are left out, as of a newer medistill."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())

    def to_json(self) -> JsonObject:
        """The fields by name, those that are None and need not be there left out."""
        given = self.model_dump(mode="json")
        optional = {name for name, field in type(self).model_fields.items() if not field.is_required()}
        return {key: value for key, value in given.items() if value is not None or key not in optional}

    @classmethod
    def of(cls, path: Path | str, content: object, again: str) -> Self:
        """The content of a file that was read.

        Raises:
            UserError: a key is missing or has a value of another type; the message names the file and the key and ends
                with `again`.
        """
        try:
            return cls.model_validate(_with_keys(path, content, again))
        except ValidationError as error:
            raise UserError(f"{path}: {describe_errors(error, cls)}; {again}") from None


def _with_keys(path: Path | str, content: object, again: str) -> dict[str, object]:
    if not isinstance(content, dict):
        raise UserError(f"{path}: has no keys; {again}")
    return content


class Plain(Content):
    """A JSON file without a checksum of its own: another record has it."""

    @classmethod
    def read(cls, path: Path, again: str) -> Self:
        """Read the file.

        Args:
            path: the file, held against its checksum by the caller.
            again: what to do where it is not what it should be.

        Raises:
            UserError: it is missing or damaged.
        """
        return cls.of(path, read_json_or(path, again), again)

    def write(self, path: Path) -> None:
        """Write the file, atomically."""
        write_json(path, self.to_json())


def read_each(path: Path, kind: type[Kind], again: str) -> dict[str, Kind]:
    """Read a JSON file that has an object of one kind for each model.

    Args:
        path: the file, held against its checksum by the caller.
        kind: of the objects.
        again: what to do where it is not what it should be.

    Raises:
        UserError: it is missing or damaged.
    """
    content = _with_keys(path, read_json_or(path, again), again)
    return {name: kind.of(f"{path}: {name}", one, again) for name, one in content.items()}


def write_each(path: Path, objects: Mapping[str, Content]) -> None:
    """Write such a file, atomically."""
    write_json(path, {name: one.to_json() for name, one in objects.items()})


class Record(Content):
    """A JSON file with a checksum of its own, and of files beside it.

    Attributes:
        files: SHA-256 of each file by its name from the record's folder.
    """

    files: dict[str, str] = {}

    def to_json(self) -> JsonObject:
        """The fields by name, the checksums last."""
        content = super().to_json()
        files = content.pop("files")
        return content | ({"files": files} if files else {})

    @classmethod
    def read(cls, path: Path, again: str | None = None) -> Self:
        """Read a record that is as it was written; of the files beside it nothing is said.

        Args:
            path: the record's.
            again: what to do where it is missing or damaged; None: run what has written it.

        Raises:
            UserError: it is missing, damaged, changed, or has no checksum.
        """
        return cls.of(path, read_record(path, again), again or what_to_run(path))

    @classmethod
    def read_whole(cls, path: Path, names: Collection[str] | None = None, again: str | None = None) -> Self:
        """The same, with the files beside it held against their checksums, each once in a process.

        Args:
            path: the record's.
            names: of the files, as the record has them; None: all.
            again: as for `read`.

        Raises:
            UserError: the record or a file is missing or damaged.
        """
        return cls.of(path, require_whole(path, names, again), again or what_to_run(path))

    def write(self, path: Path, files: Iterable[Path] | None = None) -> Self:
        """Write the record, atomically, with the checksums of `files` beside it; None: of those that it names.

        Returns:
            What was written.
        """
        written = self if files is None else self.model_copy(update={"files": checksums(files, path.parent)})
        write_record(path, written.to_json())
        return written


class Sealed(Record):
    """A record that says nothing but the checksums of files."""
