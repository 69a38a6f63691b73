"""params.yaml is checked key by key, and every mistake is one line that names the key."""

import re

import pytest
import yaml

from medistill.errors import UserError
from medistill.params import load_params
from tests.params import with_several, written

FIRST = {"terms": [{"loss": "feature_mse"}], "epochs": 1}
LAST = {"terms": [{"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}]}


@pytest.fixture
def params(root):
    return with_several()


def test_the_repository_has_valid_params(root):
    params = load_params(root / "params.yaml")
    assert [model.name for model in params.student_models()] == ["eeea_net_c2-baseline-0", "eeea_net_c2-kd-0"]


def test_every_student_has_its_own_baselines(params, tmp_path):
    read = written(params, tmp_path)
    assert [model.name for model in read.student_models()] == [
        "eeea_net_c2-baseline-0",
        "eeea_net_c2-kd-0",
        "tf_efficientnet_lite0-baseline-0",
        "tf_efficientnet_lite0-kd-0",
    ]
    distilled = read.student_models()[3]
    assert [model.name for model in read.baselines_of(distilled)] == ["tf_efficientnet_lite0-baseline-0"]


def test_a_network_overrides_single_keys_of_training(params, tmp_path):
    params["students"]["eeea_net_c2"]["training"] = {"epochs": 99}
    read = written(params, tmp_path)
    training = read.students["eeea_net_c2"].training_on(read.training)
    assert training.epochs == 99
    assert training.batch_size == read.training.batch_size


def test_a_network_may_have_no_patience(params, tmp_path):
    params["training"]["patience"] = 8
    params["students"]["eeea_net_c2"]["training"] = {"patience": None}
    read = written(params, tmp_path)
    patience = [network.training_on(read.training).patience for network in read.students.values()]
    assert patience == [None, 8]
    params["students"]["eeea_net_c2"]["training"] = {"epochs": None}
    with pytest.raises(UserError, match=r"students\.eeea_net_c2\.training\.epochs: input should be a valid integer"):
        written(params, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["training"].pop("epochs"), "key training.epochs is missing"),
        (lambda p: p["data"].update(colour=1), "key data.colour is unknown; known here are name, format, root,"),
        # a valid key in the wrong section: the message names the section's keys, not the same key again
        (
            lambda p: p["recipes"]["kd"].update(temperature=4),
            "recipes.kd.temperature is unknown; known here are teachers, combine, calibrate, terms, views, unlabelled",
        ),
        (
            lambda p: p["teachers"]["densenet"].update(epochs=5),
            "key teachers.densenet.epochs is unknown; known here are arch, args,",
        ),
        (
            lambda p: p["students"]["eeea_net_c2"].update(training={"epoch": 5}),
            "key students.eeea_net_c2.training.epoch is unknown; did you mean epochs?",
        ),
        (lambda p: p.update(teacher={}), "key teacher is unknown; did you mean teachers?"),
        (
            lambda p: p["recipes"]["kd"].update(teachers="a"),
            "kd.teachers: must be a list, such as `[a, b]`, and is 'a'",
        ),
        (lambda p: p["run"].update(seeds=3), "run.seeds: must be a list, such as `[a, b]`, and is 3"),
        (lambda p: p.update(recipes=None), "recipes: must have names as keys, such as `name: {…}`, and is empty"),
        (lambda p: p["recipes"]["kd"]["terms"][1].update(loss=None), "key recipes.kd.terms.1.loss is missing"),
        (
            lambda p: p["recipes"]["kd"]["terms"][1].update(temprature=2),
            "key recipes.kd.terms.1 (sigmoid_kd).temprature is unknown; did you mean temperature?",
        ),
        (lambda p: p["students"]["eeea_net_c2"].update(seed=1), "key students.eeea_net_c2.seed is unknown"),
        (lambda p: p["teachers"]["densenet"].update(seed=-1), "teachers.densenet.seed: "),
        (
            lambda p: p["promote"].update(max_onnx_mb=float("inf")),
            "max_onnx_mb: input should be a finite number",
        ),
        (lambda p: p.pop("promote"), "key promote is missing"),
        (lambda p: p["training"].update(epochs=0), "training.epochs: input should be greater than or equal to 1"),
        (lambda p: p["data"].update(format="dicomdir"), "data.format: 'dicomdir' is unknown; known are ch"),
        (
            lambda p: p["recipes"]["kd"]["terms"][1].update(temperature=0),
            "temperature: input should be greater than or",
        ),
        (lambda p: p["data"].update(image_size=100_000), "data.image_size: input should be less than or equal to 4096"),
        (lambda p: p["phantom"].update(size=10**9), "phantom.size: input should be less than or equal to 4096"),
        # at these ONNX Runtime, numpy or the system would fail hours later
        *(
            (lambda p, at=at, key=key: p[at].update({key: 3 * 10**9}), f"{at}.{key}: input should be less than or equ")
            for at, key in (
                *(("data", "workers"), ("teach", "views"), ("evaluate", "resamples")),
                *(("export", "opset"), ("export", "latency_runs"), ("export", "threads")),
            )
        ),
        (
            lambda p: p["recipes"]["kd"]["terms"][1].update(weight=0),
            "recipes.kd.terms.1 (sigmoid_kd).weight: input should be greater than 0",
        ),
        (
            lambda p: p["recipes"]["kd"]["terms"][1].update(gamma=2),
            "key recipes.kd.terms.1 (sigmoid_kd).gamma is unknown; known here are weight, loss, temperature",
        ),
        (
            lambda p: p["recipes"]["kd"]["terms"].append({"loss": "kld"}),
            "terms.2.loss: 'kld' is unknown; known are 'bi",
        ),
        (lambda p: p["recipes"]["kd"]["terms"][1].pop("loss"), "key recipes.kd.terms.1.loss is missing"),
        (
            lambda p: p["recipes"]["kd"]["terms"].append({"loss": "cam_kd"}),
            "recipes.kd: cam_kd needs cams in teach.answers",
        ),
        (lambda p: p["teach"].update(answers=["cam"]), "teach.answers: 'cam' is unknown; known are attention, cams, f"),
        *(
            (
                lambda p, term=term: p["recipes"]["kd"]["terms"].append(term),
                f"({term['loss']}): {' and '.join(list(term)[1:3])} are 0, so the loss would always be 0",
            )
            for term in (
                {"loss": "dist", "inter": 0, "intra": 0, "activation": "sigmoid"},
                {"loss": "rkd", "distance": 0, "angle": 0},
                {"loss": "dkd", "alpha": 0, "beta": 0},
            )
        ),
        (lambda p: p["recipes"]["kd"]["terms"].pop(), "recipes.kd: teachers and terms of distillation"),
        (lambda p: p["recipes"]["kd"].update(teachers=[]), "recipes.kd: teachers and terms of distillation"),
        (lambda p: p["recipes"]["kd"].update(combine="entropy"), "recipes.kd: combine: entropy needs several teachers"),
        (
            lambda p: p["recipes"]["kd"].update(
                teachers=["densenet", "efficientnet_lite2"],
                combine="entropy",
                terms=[{"loss": "binary_cross_entropy"}, {"loss": "rkd"}],
            ),
            "recipes.kd: combine: entropy weighs the teachers' logits, and no term compares logits; add one, such as",
        ),
        *(
            (lambda p, stages=stages: p["recipes"].update(kd={"teachers": ["densenet"], "stages": stages}), message)
            for stages, message in (
                ([{"epochs": 2}, LAST], "key recipes.kd.stages.0.terms is missing"),
                ([{"epochs": 2, "terms": []}, LAST], "recipes.kd.stages.0.terms: list should have at least 1 item"),
                (
                    [FIRST | {"epochs": 0}, LAST],
                    "recipes.kd.stages.0.epochs: input should be greater than or equal to 1",
                ),
                ([FIRST, LAST], "recipes.kd.stages.0: feature_mse needs features in teach.answers"),
                (
                    [{"terms": [{"loss": "sigmoid_kd"}, {"loss": "feature_mse", "wait": 1}]}],
                    "key recipes.kd.stages.0.terms.1 (feature_mse).wait is unknown; known here are weight, loss",
                ),
                ([FIRST | {"epoch": 1}, LAST], "key recipes.kd.stages.0.epoch is unknown; did you mean epochs?"),
                (
                    [LAST, FIRST],
                    "recipes.kd: stages.1: the last stage must teach the classifier; add a loss from labels, such as",
                ),
                ([LAST, LAST], "recipes.kd: stages: only one of them may leave epochs out"),
                (
                    [{"terms": [{"loss": "focal_bce"}]}],
                    "recipes.kd: stages: none has a term of distillation, such as feature_mse; use terms instead",
                ),
                (
                    [FIRST, {"terms": [{"loss": "focal_bce"}], "unlabelled": True}],
                    "recipes.kd: stages.1: unlabelled: true needs a term of distillation, such as feature_mse",
                ),
                (
                    [LAST | {"epochs": 1}, LAST | {"epochs": 98}],
                    "recipes.kd, for students.eeea_net_c2: stages: they have 99 epochs, and training.epochs is",
                ),
                (
                    [LAST | {"epochs": 99}, LAST],
                    "recipes.kd, for students.eeea_net_c2: stages: they have 99 epochs, which leaves none of training",
                ),
            )
        ),
        (lambda p: p["recipes"]["kd"].update(stages=[LAST]), "recipes.kd: a recipe has terms or stages, not both"),
        (
            lambda p: p["recipes"].update(kd={"teachers": ["densenet"], "unlabelled": True, "stages": [LAST]}),
            "recipes.kd: unlabelled: true belongs to one of the stages",
        ),
        (
            lambda p: p["recipes"].update(kd={"stages": [FIRST, LAST]}),
            "recipes.kd: teachers and terms of distillation, such as sigmoid_kd, go together",
        ),
        (lambda p: p["run"]["students"].append("vgg"), "run.students names 'vgg', but students has only eeea_net_c2"),
        (lambda p: p["run"]["teachers"].remove("efficientnet_lite2"), "recipes.kd.teachers names 'efficientnet_lite2'"),
        (lambda p: p["run"]["recipes"].remove("baseline"), "run.recipes has no baseline"),
        (
            lambda p: p["students"]["eeea_net_c2"].update(pretrained=True, weights="a"),
            "set one of pretrained: true, weights: FILE and init_from",
        ),
        (
            lambda p: p["students"].update({"a-b": {"arch": "x"}}),
            "students.a-b: a name must consist of letters, digits and _",
        ),
    ],
)
def test_mistakes_are_named(params, tmp_path, change, message):
    change(params)
    with pytest.raises(UserError) as error:
        written(params, tmp_path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "params.yaml"))
    assert "\n" not in str(error.value)


def test_all_mistakes_are_named_at_once(params, tmp_path):
    del params["training"]["epochs"]
    params["teach"]["view"] = 3
    with pytest.raises(UserError, match=r"training\.epochs is missing; .*teach\.view is unknown"):
        written(params, tmp_path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(UserError, match="not valid YAML") as error:
        load_params(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)
    (tmp_path / "params.yaml").write_text("")
    with pytest.raises(UserError):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, r"recipes.kd: must have keys of its own, such as `key: value`, and is empty"),
        ({"terms": ["sigmoid_kd"]}, r"recipes.kd.terms.0: must have keys of its own, .* and is 'sigmoid_kd'"),
        ({"teachers": ["densenet"] * 2, "terms": [{"loss": "bckd"}]}, "teachers names 'densenet' more than once"),
        ({"teachers": ["new"], "terms": [{"loss": "bckd"}]}, "'new', which is neither in run.teachers nor in run.ass"),
        ({"views": "live"}, "views: live needs teachers"),
        ({"calibrate": True}, "calibrate: true is for the teachers' logits, and no term compares logits"),
        (
            {"calibrate": True, "teachers": ["densenet"], "terms": [{"loss": "binary_cross_entropy"}, {"loss": "rkd"}]},
            "calibrate: true is for the teachers' logits, and no term compares logits",
        ),
        ({"unlabelled": True}, "unlabelled: true needs teachers"),
        (
            {"views": "fresh", "teachers": ["densenet"], "terms": [{"loss": "sigmoid_kd"}]},
            "with teachers use views: live",
        ),
        (
            {"teachers": ["densenet"], "terms": [{"loss": "bckd"}, {"loss": "feature_mse"}]},
            "feature_mse needs features in teach.answers",
        ),
        (
            {"teachers": ["densenet"], "terms": [{"loss": "rkd"}, {"loss": "cam_kd"}]},
            "recipes.kd: none of its terms teaches the classifier",
        ),
    ],
)
def test_mistakes_of_recipes_are_named(params, tmp_path, recipe, message):
    params["recipes"]["kd"] = recipe
    with pytest.raises(UserError, match=message):
        written(params, tmp_path)


@pytest.mark.parametrize(("key", "value"), [("seeds", 0), ("recipes", "kd"), ("students", "eeea_net_c2")])
def test_what_runs_twice_is_named(params, tmp_path, key, value):
    params["run"][key].append(value)
    with pytest.raises(UserError, match=f"run: {key} names {value!r} more than once"):
        written(params, tmp_path)


def test_teachers_that_are_asked_live_need_no_cache_of_features(params, tmp_path):
    params["recipes"]["kd"] = {"teachers": ["densenet"], "views": "live"}
    params["recipes"]["kd"]["terms"] = [{"loss": "sigmoid_kd"}, {"loss": "feature_mse"}]
    params["recipes"]["baseline"] = {"views": "fresh"}
    assert written(params, tmp_path).recipes["kd"].views == "live"


def test_a_recipe_with_new_views_needs_a_baseline_with_new_views(params, tmp_path):
    params["recipes"]["kd"]["views"] = "live"
    with pytest.raises(
        UserError, match=r"recipes\.kd shows a new view each epoch, but no baseline of run\.recipes does"
    ):
        written(params, tmp_path)


def test_what_the_page_on_distillation_shows_is_valid(root, params, tmp_path):
    text = (root / "docs" / "distillation.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "frozen: true" in block)
    shown = yaml.safe_load(example)
    for section in ("teachers", "students", "recipes"):
        params[section] = shown[section]
    params["run"] |= shown["run"]
    assert params["run"]["recipes"] == list(shown["recipes"])
    assert written(params, tmp_path).teachers["colleague"].labels == ["Atelectasis", "Cardiomegaly", "Edema"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["training"].update(precision=False), r"training\.precision: .*reads no, off, yes .*into quotes"),
        (lambda p: p["run"].update(seeds=[2**31]), r"run\.seeds\.0: input should be less than 2147483648"),
        (
            lambda p: p["teachers"].update(idle={"arch": "resnet18", "recipe": "nope"}),
            r"teachers\.idle\.recipe names 'nope', but recipes has only baseline, kd",
        ),
        (
            lambda p: p["teachers"]["densenet"].update(terms=[{"loss": "sigmoid_kd"}]),
            r"teachers\.densenet: terms: sigmoid_kd needs teachers",
        ),
        (
            lambda p: p["teachers"].update(
                new={"arch": "resnet18", "weights": "a", "frozen": True, "terms": [{"loss": "focal_bce"}]}
            ),
            r"teachers\.new: a frozen teacher is not trained; leave terms out",
        ),
        (
            lambda p: p["teachers"].update(new={"arch": "a", "recipe": "kd", "terms": [{"loss": "focal_bce"}]}),
            r"teachers\.new: an assistant's terms are those of its recipe",
        ),
    ],
)
def test_further_mistakes_are_named(params, tmp_path, change, message):
    change(params)
    with pytest.raises(UserError, match=message):
        written(params, tmp_path)


def test_a_key_that_is_there_twice_is_named_and_anchors_are_not(root, tmp_path):
    text = (root / "params.yaml").read_text()
    file = tmp_path / "params.yaml"
    file.write_text(text + "\ntraining:\n  epochs: 1\n")
    with pytest.raises(UserError, match=r"params\.yaml: not valid YAML: key training is there twice .*line \d+"):
        load_params(file)
    file.write_text(text.replace("  baseline: {}\n", "  baseline: {}\n  baseline: {views: fresh}\n"))
    with pytest.raises(UserError, match="key baseline is there twice"):
        load_params(file)
    file.write_text(text.replace("arch: eeea_net_c2", "<<: {arch: eeea_net_c2}\n    <<: {channels: 1}"))
    assert load_params(file).students["eeea_net_c2"].channels == 1
    for nothing, message in (("", "is empty"), ("phantom", "has no keys, such as `training:`")):
        file.write_text(nothing)
        with pytest.raises(UserError, match=rf"params\.yaml: {message}"):
            load_params(file)
    with pytest.raises(UserError, match=r"^\S+: not a regular file$"):
        load_params(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "patience", True),
        ("training", "learning_rate", True),
        ("promote", "margin_teacher", True),
        ("run", "seeds", [0, True]),
        ("data", "max_quarantined", False),
    ],
)
def test_true_and_false_are_no_numbers(params, tmp_path, section, key, value):
    params[section][key] = value
    with pytest.raises(UserError, match=rf"{section}: {key} must be a number, not true or false"):
        written(params, tmp_path)


def test_a_number_that_yaml_takes_for_text_is_one(params, tmp_path):
    params["training"]["learning_rate"] = "1e-3"
    assert written(params, tmp_path).training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[010]", "not valid YAML: 010 is read as 8 by some YAML parsers; write the number in full in .*, line"),
        ("[1_000]", "1_000 is read as 1000 by"),
        ("['007']", r"run\.seeds\.0: input should be a valid integer"),
        ("[0.0]", r"run\.seeds\.0: input should be a valid integer"),
    ],
)
def test_a_seed_in_params_yaml_is_the_one_dvc_passes_to_the_stages(root, tmp_path, written, message):
    text = (root / "params.yaml").read_text()
    assert text.count("seeds: [0]") == 1
    (tmp_path / "params.yaml").write_text(text.replace("seeds: [0]", f"seeds: {written}"))
    with pytest.raises(UserError, match=message) as error:
        load_params(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"), [("a b", "a name must consist of letters"), ("a\n", "a name must consist"), ("a" * 101, "100")]
)
def test_a_name_that_would_be_no_file_is_refused(params, tmp_path, name, message):
    params["recipes"][name] = {}
    params["run"]["recipes"].append(name)
    with pytest.raises(UserError, match=message) as error:
        written(params, tmp_path)
    assert "\n" not in str(error.value)
    assert "^[A-Z" not in str(error.value)


def test_a_name_that_yaml_takes_for_a_number_wants_quotes(params, tmp_path):
    params["recipes"][1] = {}
    with pytest.raises(UserError, match=r"recipes\.1: YAML reads this name as int; put it into quotes"):
        written(params, tmp_path)


def test_an_option_of_a_teachers_term_is_named_as_a_recipes_is(params, tmp_path):
    params["teachers"]["densenet"]["terms"] = [{"loss": "focal_bce", "gama": 1}]
    with pytest.raises(UserError, match=r"key teachers\.densenet\.terms\.0 \(focal_bce\)\.gama is unknown; did you"):
        written(params, tmp_path)
