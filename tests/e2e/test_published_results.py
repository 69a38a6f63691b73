"""The tables of docs/results.md are what the outcomes in the repository say."""

import pytest

from benchmarks import results, study

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("data", ["phantom", "xrays"])
def test_the_published_table_is_computed_from_the_kept_outcomes(root, tmp_path, monkeypatch, request, data):
    xrays = request.getfixturevalue("real_data") / "nih1000_256" if data == "xrays" else None
    monkeypatch.setattr(study, "WORK", tmp_path)  # data sets are drawn and ingested anew, and no model is there
    page = (root / "docs" / "results.md").read_text(encoding="utf-8")
    published = page.partition(f"<!-- {data}: begin -->\n")[2].partition(f"\n<!-- {data}: end -->")[0]
    tables = results.results_of(data, xrays)
    assert tables is not None, "other versions of Pillow or NumPy make other pixels: no outcome is of these"
    assert tables[0] == published
