"""The section `stress` of params.yaml."""

from pydantic import Field

from medistill.settings import AnyPath, Name, Settings


class Stress(Settings):
    """Shifts of the test images, and images of other kinds."""

    images: int = Field(default=500, ge=1)
    """Most test images that are changed, those of whole patients, chosen by a hash. At most four times as many training
    and validation images say what a network knows."""
    others: dict[Name, AnyPath] = {}
    """Folders of images of other kinds by a name of your own, such as X-rays of another hospital; at most `images` of
    each are used. DVC does not watch them."""
