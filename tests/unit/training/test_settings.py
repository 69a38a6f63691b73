"""A network may override each key of `training`; keys that it does not name are not overridden."""

import pytest
from pydantic import ValidationError

from medistill.training.settings import TrainedNetwork, Training, TrainingOverrides

TRAINING = Training(epochs=3, batch_size=4, learning_rate=0.1)


def test_every_key_of_training_can_be_overridden_and_none_is_unless_named():
    assert list(TrainingOverrides.model_fields) == list(Training.model_fields)
    assert TrainingOverrides().model_dump(exclude_unset=True) == {}
    assert TrainedNetwork(arch="a").training_on(TRAINING) == TRAINING
    for key, value in TRAINING.model_dump().items():
        assert TrainingOverrides(**{key: value}).model_dump(exclude_unset=True) == {key: value}


@pytest.mark.parametrize("key", Training.model_fields)
@pytest.mark.parametrize("value", [-1, 0, 0.5, 1, 2, 10**9, None, True, "no", "x"])
def test_overrides_have_the_bounds_of_training(key, value):
    def message(take) -> str:
        try:
            take()
            return ""
        except ValidationError as error:
            (mistake,) = error.errors()
            return mistake["msg"]

    given = TRAINING.model_dump() | {key: value}
    assert message(lambda: TrainingOverrides(**{key: value})) == message(lambda: Training(**given))


def test_a_network_without_patience_trains_to_the_end():
    impatient = TRAINING.model_copy(update={"patience": 2})
    assert TrainedNetwork(arch="a", training={"patience": None}).training_on(impatient).patience is None
