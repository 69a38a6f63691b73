"""Whatever is in params.yaml, reading it gives settings or one short line within seconds."""

import copy
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from medistill.errors import UserError
from medistill.params import Params, load_params
from medistill.plain_yaml import parse_yaml

SECONDS = 5  # processor time, so that the machine's other load does not count


@pytest.fixture
def text(root, tmp_path, monkeypatch) -> str:
    """The text of the repository's params.yaml; the current folder is empty."""
    monkeypatch.chdir(tmp_path)
    return (root / "params.yaml").read_text(encoding="utf-8")


def refused(content: str | bytes) -> str:
    """The error message for a params.yaml, which must be one line."""
    answer = answered(content)
    assert isinstance(answer, str), "it was taken"
    return answer


def answered(content: str | bytes) -> Params | str:
    """The settings of a params.yaml or its error message, which must be short and come in time."""
    Path("params.yaml").write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    started = time.process_time()
    try:
        answer: Params | str = load_params()
    except UserError as error:
        answer = str(error)
        assert answer.startswith("params.yaml: ")
        assert len(answer) <= 600
        assert answer.isprintable(), answer
    assert time.process_time() - started < SECONDS
    return answer


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("9" * 5000, "a value of 5,000 characters; at most 4,096 are read"),
        ("9" * 4000, "is too large a number"),
        ("9223372036854775808", "9223372036854775808 is too large a number"),
        ("!!int abc", "'abc' is no int"),
        ('!!int ""', "'' is no int"),
        ("!!float abc", "'abc' is no float"),
        ("!!bool maybe", "'maybe' is no bool"),
        ("!!map 3", "expected a mapping node, but found scalar"),
        ("!!seq 3", "expected a sequence node, but found scalar"),
        ("!!str [3]", "expected a scalar node, but found sequence"),
        ("!!int [3]", "expected a scalar node, but found sequence"),
        ("2020-13-01", "YAML reads 2020-13-01 as a timestamp; write text in quotes"),
        ("2020-12-01", "YAML reads 2020-12-01 as a timestamp; write text in quotes"),
        ("!!timestamp x", "YAML reads x as a timestamp"),
        ("!!binary eA==", "YAML reads eA== as a binary"),
        ("!!set {1, 2}", "YAML reads a mapping as a set; write text in quotes, and a list as `[a, b]`"),
        ("!!omap [1: 2]", "YAML reads a sequence as a omap"),
        ("!!pairs [1: 2]", "YAML reads a sequence as a pairs"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor for the tag"),
        ("=", "could not determine a constructor for the tag"),
        ("*nowhere", "found undefined alias"),
        ('"a\\0b"', "a\\x00b has a character that is not valid in text"),
        ('"a\\ud800b"', "a\\ud800b has a character that is not valid in text"),
        ("&a [*a]", "a contains itself"),
        ("&a {x: *a}", "a contains itself"),
        ("{<<: 5}", "expected a mapping or list of mappings for merging"),
        ("{? [a] : 1}", "found unhashable key"),
        ("[" * 30_000 + "]" * 30_000, "nested more than 20 levels deep"),
        (f"*{'q' * 50_000}", "found undefined alias"),
        (f"!<{'q' * 50_000}> 1", "could not determine a constructor"),
    ],
)
def test_yaml_values_that_no_setting_takes_are_one_line(text, written, message):
    found = refused(text.replace("seeds: [0]", f"seeds: {written}"))
    assert found.startswith("params.yaml: not valid YAML: ")
    assert message in found


def doubling(levels: int) -> str:
    """Lines of YAML, each of which contains the one before twice by aliases."""
    return "".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, levels))


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("l0: &l0 [x, x, x]\n" + doubling(18), "more than 200,000 characters when aliases are written out"),
        ("l0: &l0 [x, x, x]\n" + doubling(100), "aliases are written out"),
        ("l0: &l0 {x: 1}\n" + doubling(100).replace("[", "{<<: [").replace("]", "]}"), "aliases are written out"),
        ("l0: &l0 [x]\n" + "".join(f"l{n}: &l{n} [*l{n - 1}]\n" for n in range(1, 3000)), "more than 20 levels deep"),
        (f"l0: &l0 {'x' * 4000}\nl1: [" + "*l0," * 60 + "]\n", "more than 200,000 characters"),
    ],
)
def test_aliases_that_multiply_are_refused_before_anything_is_made_of_them(text, before, message):
    assert message in refused(before + text)


def test_anchors_and_tags_that_somebody_might_use_are_read(text):
    shared = text.replace("growth_rate: 16}", "growth_rate: !!int 16}  # &no anchor")
    shared = shared.replace("training: {epochs: 8, learning_rate: 0.002}", "training: &long {epochs: 12}")
    shared = shared.replace(
        "    arch: tf_efficientnet_lite0", "    arch: !!str tf_efficientnet_lite0\n    training: *long"
    )
    read = answered(shared)
    assert read.teachers["densenet"].args == {"growth_rate": 16}
    assert [student.training.epochs for student in read.students.values()] == [12, 12]
    assert parse_yaml("{a: &x {b: 1}, c: {<<: *x, d: 2}}") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


def wide(names: str) -> str:
    return "".join(names.format(n) for n in range(6000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + wide("k{}: 1\n"), "key k0 is unknown; known here are "),
        (lambda text: text.replace("students:\n", "students:\n" + wide("  k{}: 1\n")), "students.k0: must have keys"),
        (lambda text: text.replace("seeds: [0]", f"seeds: [{wide('x,')}]"), "run.seeds.0: input should be a valid int"),
        (lambda text: text.replace("seeds: [0]", f"seeds: [{wide('7,')}]"), "run: seeds names 7 more than once"),
        (
            lambda text: text.replace("seeds: [0]", f"seeds: [{wide('{},')}]"),
            "run: students, recipes and seeds make 12,000 trainings; at most 10,000 are allowed",
        ),
        (lambda text: text.replace("seeds: [0]", f"seeds: {{{wide('k{}: 1,')}}}"), "run.seeds: must be a list"),
    ],
)
def test_of_many_mistakes_the_first_are_said(text, change, message):
    found = refused(change(text))
    assert message in found
    assert found.endswith(" more mistakes") or found.count(";") < 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "x" * 256,
            "teachers.densenet.weights: is too long: a name in a path may have at most 255 bytes, the whole path 1,024",
        ),
        ("é" * 128, "teachers.densenet.weights: is too long: a name"),
        ("x/" * 600, "teachers.densenet.weights: is too long: a name"),
        ("x" * 255, None),
    ],
)
def test_a_path_that_no_system_takes_is_named(text, path, message):
    found = answered(text.replace("arch: densenet121", f"arch: densenet121\n    weights: {path}"))
    assert message in found if message else isinstance(found, Params)
    found = answered(text.replace("root: data/raw/phantom", f"root: {path}"))
    assert message is None or found.startswith("params.yaml: data.root: is too long")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("{layers: [1000000]}", "students.eeea_net_c2.args: layers.0: 1000000 is outside of -100,000 to 100,000"),
        ("{width: 1.0e+9}", "args: width: 1000000000.0 is outside of -100,000 to 100,000, the range for arguments"),
        ("{width: .nan}", "args: width: nan is no number"),
        ("{width: -.inf}", "args: width: -inf is no number"),
        (f"{{depths: [{'1, ' * 101}]}}", "args: has 101 values; no network takes more than 100"),
        ("{cfg: {1: 2}}", "args: cfg: the key 1 is not text; put it into quotes"),
    ],
)
def test_arguments_that_no_network_has_are_named(text, args, message):
    assert message in refused(text.replace("arch: eeea_net_c2 ", f"args: {args}\n    arch: eeea_net_c2 "))


def test_what_is_no_file_of_settings_is_named_and_not_waited_for(text):
    assert "bytes; more than 100,000 are not read" in refused(text + "#" * 100_000)
    assert "not valid YAML: 'utf-8' codec can't decode" in refused(text.encode("utf-16"))
    Path("params.yaml").unlink()
    os.mkfifo("params.yaml")
    with pytest.raises(UserError, match=r"^params\.yaml: not a regular file$"):
        load_params()
    with pytest.raises(UserError, match=r"^/dev/zero: not a regular file$"):
        load_params(Path("/dev/zero"))


NASTY = (
    *("!!int x", "!!python/name:os", "2020-13-45", "&a [*a]", "*b", "<<: 3", "\0", "\ud800", '"\\0"', "\x1b[31m"),
    *("010", "1_0", "1e999", ".nan", "-.inf", "9" * 400, "~", "yes", "[[[[", "}", "? ", "- - -", "!", "%", "@", "`"),
    *("---\n", "...\n", "\t", "\r", "\x85", "\ufeff", "\u202e", "é" * 300, "x" * 5000, "''", "!!set {a}", "|", ": :"),
)
VALUES = (
    *(None, True, -1, 0, 10**30, 2**63 - 1, 1e308, float("nan"), float("inf"), "", "x" * 4000, "a\nb", "\x07", "no"),
    *([], {}, [[]], [None], {"": ""}, {1: 2}, {"loss": "kd"}, [{"loss": []}], list(range(300)), "../..", "/dev/zero"),
)


def mutated_text(text: str, chance: random.Random) -> str:
    """Cuts, copies and insertions at any place."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text))
        end = min(len(text), start + chance.choice((0, 1, 5, 40, 300)))
        text = text[:start] + chance.choice(("", text[start:end] * 2, *NASTY)) + text[end:]
    return text


def mutated_values(text: str, chance: random.Random) -> str:
    """Replaces values by those of other keys or types, removes them, or renames their keys."""
    settings = yaml.safe_load(text)
    for _ in range(chance.randint(1, 3)):
        place: dict | list = settings
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
                place = place[key]
                continue
            value = place.pop(key)
            kind = chance.choice(("gone", "renamed", "other", "moved"))
            if kind != "gone" and isinstance(place, dict):
                name = chance.choice(("", "x" * 300, 7, None, f"{key}s")) if kind == "renamed" else key
                value = value if kind == "renamed" else copy.deepcopy(chance.choice((*VALUES, *settings.values())))
                place[name] = value
            break
    return yaml.safe_dump(settings, sort_keys=False)


@pytest.mark.parametrize("mutate", [mutated_text, mutated_values])
def test_every_mutation_is_settings_or_one_line(text, mutate: Callable[[str, random.Random], str]):
    chance = random.Random(0)
    answers = [answered(mutate(text, chance)) for _ in range(150)]
    said = {answer for answer in answers if isinstance(answer, str)}
    assert len(said) > 50
    assert any(isinstance(answer, Params) for answer in answers)
