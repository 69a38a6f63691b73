"""Networks are exported once, untrained, before they are trained."""

import time

import pytest
import torch

from medistill.errors import UserError
from medistill.export.trial import require_exportable
from medistill.files import read_json
from medistill.models.settings import Network

FRAMES = {"image_size": 32, "channels": 1}


def test_the_very_same_network_is_exported_once_whatever_its_weights(tmp_path, capsys):
    network = Network(arch="test_resnet")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    for again in (network, network, network.model_copy(update={"weights": tmp_path / "nowhere"})):
        assert require_exportable(again, **FRAMES, opset=18, known=tmp_path / "known") is None
    assert torch.equal(torch.rand(1), expected)  # the trial does not change torch's random state
    assert capsys.readouterr().err.count("exporting test_resnet untrained") == 1
    (record,) = (tmp_path / "known").iterdir()
    assert read_json(record)["arch"] == "test_resnet"
    whole = record.read_bytes()
    record.write_bytes(whole[:40])
    assert require_exportable(network, **FRAMES, opset=18, known=tmp_path / "known") is None
    assert record.read_bytes() == whole
    with pytest.raises(
        UserError, match=r"^params\.yaml: export\.opset: test_resnet cannot be exported with opset 99; set \d+"
    ):
        require_exportable(network, **FRAMES, opset=99, known=tmp_path / "known")
    assert list((tmp_path / "known").iterdir()) == [record]


def test_a_network_whose_file_no_device_would_read_is_refused_before_it_takes_memory(tmp_path):
    started = time.process_time()
    message = r"^regnety_2560 has 5,\d{3},\d{3},\d{3} bytes of weights, and an exported model may have 1,000,000,000; "
    with pytest.raises(UserError, match=message):
        require_exportable(Network(arch="regnety_2560"), **FRAMES, opset=18, known=tmp_path)
    assert time.process_time() - started < 5  # filling 5 GB would take longer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size", "batch_size"),
    [("test_maxvit", 64, None), ("nest_tiny", 64, None), ("mobileone_s0", 64, None), ("efficientnet_cc_b0_4e", 64, 1)],
)
def test_networks_that_the_exporter_does_not_take_as_they_are_can_be_exported(tmp_path, arch, size, batch_size):
    for _ in range(2):  # the second time reads the kept record
        found = require_exportable(Network(arch=arch), image_size=size, channels=1, opset=18, known=tmp_path)
        assert found == batch_size
