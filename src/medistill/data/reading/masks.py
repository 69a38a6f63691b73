"""Pictures that are masks of others, told by their names: they lie among the images of many data sets.

COVID/images/COVID-1.png    COVID/masks/COVID-1.png             twin folders: files of the same names
benign/benign (1).png       benign/benign (1)_mask_1.png        names that end in a word for a mask

A word alone does not make a file a mask: the image that it masks must exist, too.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medistill.errors import UserError

_SURE = r"[a-z]*masks?|segs?|segmentations?|segmented|annotations?|annotated|ground[ _-]?truths?"
_MAYBE = r"labels|labelmaps?|contours?|overlays?|gt"
"""Words that are also used for classes, as in `label_0`: no number follows them."""

_NONE = r"(?:no|without|un)(?:[ _.-]|masks?)"
_FOLDER = re.compile(
    rf"(?!{_NONE})(?:(?:.*[ _.-])?(?:(?:{_SURE})(?:[ _.-]*v?[0-9]+)?|{_MAYBE})|label|(?:{_SURE})[ _.-].*)",
    re.IGNORECASE,
)
_WITHOUT = re.compile(_NONE, re.IGNORECASE)  # a class beside one named `mask`
_END = re.compile(
    rf"(?P<image>.*[^ _.-])(?P<kind>[ _.-]+(?:{_SURE}|{_MAYBE}|label)|(?<=[0-9])masks?)(?:[ _.-]*[0-9]+)?",
    re.IGNORECASE,
)
_START = re.compile(rf"(?P<kind>(?:{_SURE}|{_MAYBE}|label)[ _.-]+)(?P<image>.+)", re.IGNORECASE)
_IMAGE = re.compile(r"(?:images?|img)[ _.-]+(?P<after>.+)|(?P<before>.*[^ _.-])[ _.-]+(?:images?|img)", re.IGNORECASE)


@dataclass(frozen=True)
class Mask:
    """A picture that is a mask.

    Attributes:
        kind: what identifies it: the name of its folder, or the beginning or end of its own name (`_mask`).
        place: that folder, relative to the root; None if its own name identifies it.
        image: path of the image that it masks; None if that is missing while other masks of the folder have theirs.
    """

    kind: str
    place: str | None
    image: str | None


@functools.lru_cache(maxsize=4096)  # asked for every file of a folder
def is_mask_folder(name: str) -> bool:
    """Whether a folder's name says that masks are in it."""
    return _FOLDER.fullmatch(name) is not None


def find_masks(paths: Iterable[str]) -> dict[str, Mask]:
    """The masks among image files, by path (POSIX, relative to the data set's root)."""
    parts = {path: path.split("/") for path in paths}
    found = _beside_images(parts)
    return found | _in_twin_folders({path: names for path, names in parts.items() if path not in found})


def refuse_masks(paths: Iterable[str]) -> None:
    """Raise `UserError` if there are masks among files that are all read as images."""
    for path, mask in find_masks(paths).items():
        if mask.image:
            what = mask.place or f"the files whose names have {mask.kind!r}"
            raise UserError(
                f"{path}: looks like the mask of {mask.image}, not like an image; move {what} out of data.root"
            )


def _beside_images(parts: dict[str, list[str]]) -> dict[str, Mask]:
    """Masks that lie beside their image: `a_mask.png`, `a_mask_2.tif` and `mask_a.png` of `a.jpg`."""
    images, told = _Images(), {}
    for path, (*folders, name) in parts.items():
        match = _match(name)
        if match:
            told[path] = ("/".join(folders), match)
        else:
            images.add("/".join(folders), name, path)
    found = {path: (match, images.find(folder, match["image"])) for path, (folder, match) in told.items()}
    return {path: Mask(match["kind"].casefold(), None, image) for path, (match, image) in found.items() if image}


def _in_twin_folders(parts: dict[str, list[str]]) -> dict[str, Mask]:
    """Masks in a folder beside one with the images, or beside the images: all its files, where one has its image."""
    folder_of = {}  # path -> how deep its first folder is whose name says that masks are in it
    for path, (*folders, _) in parts.items():
        depth = next((depth for depth, name in enumerate(folders) if is_mask_folder(name)), None)
        if depth is not None:
            folder_of[path] = depth
    above = {"/".join(parts[path][:depth]) for path, depth in folder_of.items()}
    images = _Images()
    for path, names in parts.items() if above else ():
        for depth in range(len(names)) if path not in folder_of else ():
            if "/".join(names[:depth]) in above and not _WITHOUT.match(names[depth]):
                for below in (names[depth + 1 : -1], names[depth:-1]):  # in a folder beside that of the masks, or none
                    images.add("/".join([*names[:depth], "*", *below]), names[-1], path)
    masks = {}
    for path, depth in folder_of.items():
        *folders, name = parts[path]
        where = "/".join([*folders[:depth], "*", *folders[depth + 1 :]])
        match = _match(name)
        image = images.find(where, _stem(name)) or (images.find(where, match["image"]) if match else None)
        masks[path] = Mask(folders[depth], "/".join(folders[: depth + 1]), image)
    twins = {mask.place for mask in masks.values() if mask.image}
    return {path: mask for path, mask in masks.items() if mask.place in twins}


class _Images:
    """Image files by folder and name, whatever its case, its suffix and a word that says that it is an image."""

    def __init__(self) -> None:
        self._paths: dict[tuple[str, str], str] = {}

    def add(self, folder: str, name: str, path: str) -> None:
        for key in self._keys(folder, _stem(name)):
            self._paths.setdefault(key, path)

    def find(self, folder: str, stem: str) -> str | None:
        return next((self._paths[key] for key in self._keys(folder, stem) if key in self._paths), None)

    @staticmethod
    def _keys(folder: str, stem: str) -> Iterator[tuple[str, str]]:
        match = _IMAGE.fullmatch(stem)
        bare = (match["after"] or match["before"]) if match else stem
        yield folder, f"={stem.casefold()}"
        yield folder, f"~{bare.casefold()}"


def _match(name: str) -> re.Match[str] | None:
    stem = _stem(name)
    return _END.fullmatch(stem) or _START.fullmatch(stem)


def _stem(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return stem if stem and len(suffix) <= 5 else name
