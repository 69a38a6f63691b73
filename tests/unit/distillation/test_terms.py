"""A recipe's terms are the functions they are named after."""

import inspect
from typing import get_args

import pytest

from medistill.distillation import functional
from medistill.distillation.answers import ANSWERS
from medistill.distillation.settings import Recipe, Teach
from medistill.distillation.terms import HARD_LOSS, AnyTerm, HardTerm

TERMS = get_args(get_args(AnyTerm)[0])
OURS = {"loss", "weight", "balanced", "allow_offset_blind"}


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.__name__)
def test_a_terms_options_and_defaults_are_its_functions(term):
    (name,) = get_args(term.model_fields["loss"].annotation)
    parameters = inspect.signature(getattr(functional, name)).parameters
    given = {"student", "teacher", "target", "mask", "positive_weight", "class_weight"}
    options = {key: value.default for key, value in parameters.items() if key not in given}
    assert options == {key: field.default for key, field in term.model_fields.items() if key not in OURS}
    assert issubclass(term, HardTerm) == (list(parameters)[1] == "target")
    assert term(loss=name).options() == options


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
