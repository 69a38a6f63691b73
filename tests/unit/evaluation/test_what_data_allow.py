"""What an evaluation asks of the data: classes that have an order, and strata."""

import pytest

from medistill.errors import UserError
from medistill.evaluation.settings import Evaluate
from medistill.task import Task


@pytest.mark.parametrize("wrong", [["none"], ["none", "none"], ["none", "mild", "severe"]])
def test_the_order_of_classes_names_each_once(wrong):
    Evaluate(ordered=["mild", "none"]).require_classes(["none", "mild"], Task.MULTICLASS)
    with pytest.raises(UserError, match=r"evaluate\.ordered: name each class once, in its order: none, mild$"):
        Evaluate(ordered=wrong).require_classes(["none", "mild"], Task.MULTICLASS)


def test_strata_need_an_image_that_has_one():
    settings = Evaluate(strata="sex")
    settings.require_strata([None, "", "F"], "val")
    with pytest.raises(
        UserError, match=r"evaluate\.strata: no image of val in data/processed has a sex; set it to none$"
    ):
        settings.require_strata([None, "", float("nan")], "val")
