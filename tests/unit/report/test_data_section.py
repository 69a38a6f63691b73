"""The report's section on the data says which images came from a folder without labels."""

from types import SimpleNamespace

import pytest

from medistill.records.audit import Validation, ValidationCounts
from medistill.records.data import DatasetInfo, UnlabelledFolder
from medistill.report.html import environment
from medistill.report.sections import data


@pytest.mark.parametrize(("images", "said"), [(0, False), (1345, True)])
def test_unlabelled_images_are_counted_and_their_folder_is_named(tiny_dataset, images, said):
    found = UnlabelledFolder(folder="<other> hospital" if images else "", images=images)
    info = DatasetInfo.read(tiny_dataset.files.record).model_copy(update={"unlabelled": found})
    counts = ValidationCounts(images=60, evaluated=1, successful=1, failed=0, warnings=0)
    validation = Validation(success=True, statistics=counts, failures=[], warnings=[], expectations=[])
    content = SimpleNamespace(dataset=info, validation=validation, quarantine=[])
    shown = " ".join(environment().get_template("sections/data.html.jinja").render(data=data.build(content)).split())
    sentence = "Of the training images 1,345 have no labels and come from the folder &lt;other&gt; hospital"
    assert (sentence in shown) == said
    assert ("data.unlabelled" in shown) == said
