"""Files between stages are read as they were written, or refused in one line."""

import pytest

from medistill.errors import UserError
from medistill.records.export import Parity
from tests.filled import parity


def test_a_record_reads_what_it_wrote(tmp_path):
    written = parity(max_abs_logit_difference=None, passed=False)
    written.write(tmp_path / "parity.json")
    assert Parity.read(tmp_path / "parity.json", "export the model again") == written


@pytest.mark.parametrize("key", ["max_abs_logit_difference", "largest_logit", "limit", "passed"])
def test_a_parity_file_without_one_of_its_figures_is_refused_in_one_line(tmp_path, key):
    file = tmp_path / "parity.json"
    parity().write(file)
    lines = [line for line in file.read_text().splitlines() if f'"{key}"' not in line]
    file.write_text("\n".join(lines).replace(",\n}", "\n}"))
    with pytest.raises(UserError, match=rf"parity\.json: key {key} is missing.*; export the model again$") as caught:
        Parity.read(file, "export the model again")
    assert "\n" not in str(caught.value)
