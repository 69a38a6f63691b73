"""A state is resumed only by the training that wrote it, and only if it is whole."""

import os

import pytest
import torch

from medistill.training.checkpoint import Checkpoint


def test_a_checkpoint_of_another_training_is_not_read(tmp_path):
    states, model = tmp_path / "states", tmp_path / "model"
    Checkpoint(states, "one").save({"epoch": 1})
    assert Checkpoint(states, "two").load() is None
    assert Checkpoint(states, "one").load() == {"epoch": 1}
    model.mkdir()
    (model / "weights").write_text("two's")
    Checkpoint(states, "two").finish(model)
    assert Checkpoint(states, "one").load() is None
    assert (Checkpoint(states, "two").finished / "weights").read_text() == "two's"
    assert not Checkpoint(states, "one").finished.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: b"",
        lambda state: state[: len(state) // 2],
        lambda state: b"text",
        lambda state: (
            state[:1000] + bytes([state[1000] ^ 1]) + state[1001:]
        ),  # torch itself reads another number without an error
    ],
)
def test_a_damaged_state_is_said_and_the_training_goes_on_without_it(tmp_path, capsys, damage):
    checkpoint = Checkpoint(tmp_path, "one")
    checkpoint.save({"weights": torch.arange(1000.0)})
    (file,) = (tmp_path / "one").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert checkpoint.load() is None
    assert capsys.readouterr().err.startswith(f"note: {file}: damaged (")
    checkpoint.save({"epoch": 2})
    assert checkpoint.load() == {"epoch": 2}
    assert len(list((tmp_path / "one").iterdir())) == 1  # the damaged state was removed


def test_after_a_kill_between_two_states_the_last_one_that_is_whole_is_taken(tmp_path, capsys):
    checkpoint = Checkpoint(tmp_path, "one")
    checkpoint.save({"epoch": 1})
    (first,) = (tmp_path / "one").iterdir()
    content = first.read_bytes()
    checkpoint.save({"epoch": 2})
    (second,) = (tmp_path / "one").iterdir()
    first.write_bytes(content)
    os.utime(first, (1, 1))
    assert checkpoint.load() == {"epoch": 2}
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    assert checkpoint.load() == {"epoch": 1}
    assert capsys.readouterr().err.count("\n") == 1
