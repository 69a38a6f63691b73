"""The tables of docs/results.md and README.md are what the outcomes in the repository say."""

from collections.abc import Callable

import pytest

from benchmarks import plans, results, study
from benchmarks.scores import results_of

pytestmark = pytest.mark.slow


@pytest.fixture
def published(root) -> Callable[[str, str], str]:
    """The text between the markers of a page."""

    def read(page: str, name: str) -> str:
        text = (root / page).read_text(encoding="utf-8")
        return text.partition(f"<!-- {name}: begin -->\n")[2].partition(f"\n<!-- {name}: end -->")[0]

    return read


@pytest.fixture(autouse=True, scope="module")
def nothing_is_trained(tmp_path_factory):
    """An empty working folder: data sets are drawn and ingested anew, once, and there are no models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "WORK", tmp_path_factory.mktemp("work"))
        yield


def test_the_published_table_is_computed_from_the_kept_outcomes(published):
    blocks = results.pages({"phantom": results_of("phantom", None)}, None)
    assert blocks, "other versions of Pillow or NumPy make other pixels: no outcome is of these"
    assert blocks == {("docs/results.md", "phantom"): published("docs/results.md", "phantom")}


def test_all_that_is_published_of_both_data_sets_is_computed_from_the_kept_outcomes(published, real_data):
    blocks = results.pages({data: results_of(data, real_data) for data in ("phantom", "xrays")}, real_data)
    pages = [("docs/results.md", name) for name in ("phantom", "xrays", "sample", "halves")]
    assert set(blocks) == {*pages, ("README.md", "measured"), ("README.md", "results")}
    for (page, name), text in blocks.items():
        assert text == published(page, name), name


@pytest.mark.parametrize("data", [data for data in plans.PLANS if data not in plans.OLDER])
def test_a_table_of_five_seeds_is_computed_from_the_kept_outcomes(published, real_data, data):
    stands = published("docs/results.md", data)
    if stands == "Not trained yet.":
        pytest.skip(f"no table of {data} is published yet")
    blocks = results.pages({data: results_of(data, real_data)}, real_data)
    assert blocks == {(page, data): published(page, data) for page in ("docs/results.md", "README.md")}
    assert blocks["docs/results.md", data] == stands
