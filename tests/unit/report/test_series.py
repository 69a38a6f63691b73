"""The lines of the report's charts can be told apart."""

from types import SimpleNamespace

from medistill.report.sections.series import lines


def trained(role, name, student=None, recipe=None):
    return SimpleNamespace(role=role, name=name, record=SimpleNamespace(student=student, recipe=recipe))


def test_all_lines_look_different_but_those_of_other_seeds():
    recipes = [f"kd{k}" for k in range(8)]
    models = [trained("teacher", "t"), trained("teacher", "u"), trained("baseline", "s-baseline-0", "s", "baseline")]
    models += [trained("distilled", f"s-{recipe}-{seed}", "s", recipe) for recipe in recipes for seed in range(2)]
    drawn = lines(SimpleNamespace(models=models), lambda _: [])
    looks = [line.kind for line in drawn]
    assert looks[3::2] == looks[4::2]
    assert len({*looks}) == 3 + len(recipes)
    assert [line.name for line in drawn if line.dashed] == ["s-baseline-0"]
