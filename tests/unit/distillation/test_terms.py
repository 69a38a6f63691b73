"""A recipe's terms are the functions they are named after."""

import inspect
from typing import get_args

import pytest

from medistill.distillation import functional
from medistill.distillation.answers import ANSWERS
from medistill.distillation.settings import Recipe, Teach
from medistill.distillation.terms import HARD_LOSS, AnyTerm, HardTerm

TERMS = get_args(get_args(AnyTerm)[0])
OURS = {"loss", "weight", "balanced", "allow_offset_blind", "group_weights", "trust"}


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_a_terms_options_and_defaults_are_its_functions(term):
    (name,) = get_args(term.model_fields["loss"].annotation)
    parameters = inspect.signature(getattr(functional, name)).parameters
    given = {"student", "teacher", "target", "mask", "weight", "positive_weight", "class_weight"}
    options = {key: value.default for key, value in parameters.items() if key not in given}
    assert options == {key: field.default for key, field in term.model_fields.items() if key not in OURS}
    assert issubclass(term, HardTerm) == (list(parameters)[1] == "target")
    assert term(loss=name).options() == options


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_only_losses_with_entries_to_weigh_take_trust(term):
    (name,) = get_args(term.model_fields["loss"].annotation)
    weighs = "weight" in inspect.signature(getattr(functional, name)).parameters
    if issubclass(term, HardTerm):
        assert weighs
        assert "group_weights" in term.model_fields
    elif weighs:
        assert term(loss=name, trust=True).weighs_trust
        assert not term(loss=name).weighs_trust
    else:
        with pytest.raises(ValueError, match="trust is for losses of the logits of single images"):
            term(loss=name, trust=True)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_options_that_are_off_are_not_written_into_config_json(term):
    (name,) = get_args(term.model_fields["loss"].annotation)
    assert not {"smoothing", "group_weights", "trust"} & set(term(loss=name).model_dump(mode="json"))


def test_options_that_are_on_are_written_into_config_json():
    terms = [{"loss": "focal_bce", "smoothing": 0.1, "group_weights": "sex"}, {"loss": "sigmoid_kd", "trust": True}]
    written = Recipe(teachers=["a"], terms=terms).model_dump(mode="json")["terms"]
    assert (written[0]["smoothing"], written[0]["group_weights"], written[1]["trust"]) == (0.1, "sex", True)


def test_every_loss_is_a_term():
    named = {get_args(term.model_fields["loss"].annotation)[0] for term in TERMS}
    assert {name for name, _, _ in functional.TRAITS} == named


def test_a_recipe_without_terms_takes_the_tasks_loss():
    assert Recipe().terms == []
    assert {task: term.loss for task, term in HARD_LOSS.items()} == {
        "multilabel": "binary_cross_entropy",
        "multiclass": "cross_entropy",
    }


def test_each_term_compares_a_kind_of_answer_that_teachers_give():
    assert {term.needs for term in TERMS} <= set(ANSWERS)
    assert Teach(answers=["features", "attention", "features"]).answers == ["attention", "features"]
