"""What models descend from, as the stages write and show it; a licence that is corrected trains nothing."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from evaluated_project import HOSTILE, write_project, write_surroundings
from finished_project import STUDENTS, TEACHER, inside, write_params

from medistill.files import digest, read_json
from medistill.gate.facts import collect_facts
from medistill.layout import Layout
from medistill.params import Params, load_params
from medistill.records.licenses import Ancestor, LicenseRecord, read_ancestors
from pipeline.preflight import require_networks
from pipeline.registry import promote
from pipeline.stages import distill, evaluate, export, ingest, licenses, report, train_teacher
from pipeline.store import open_store
from pipeline.tracking import track

KD = "-".join(STUDENTS[1])


def files(*folders: str) -> dict[str, str]:
    """Checksum of each file in some folders."""
    return {str(path): digest(path) for name in folders for path in sorted(Path(name).rglob("*")) if path.is_file()}


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported_once: None) -> Path:
    """A copy of a project in which all stages have run; it is the current folder."""
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "project"))
    return tmp_path / "project"


def test_the_phantoms_licence_is_in_record_bundle_card_gate_and_report(project):
    expected = [{"license": "Apache-2.0", "what": "data phantom", "path": ["students.small", "data"]}]
    assert read_json(Layout().reports.licenses(KD))["ancestors"] == expected
    assert read_json(Layout().export(KD).bundle)["licenses"] == expected
    assert "| data phantom | Apache-2.0 | students.small → data |" in Layout().export(KD).card.read_text()
    candidates = {entry["model"]: entry for entry in read_json(Layout().reports.gate)["candidates"]}
    assert candidates[KD]["ancestors"] == expected
    assert "data phantom" in Layout().reports.page.read_text()


def test_a_corrected_licence_of_the_data_trains_nothing(project, capsys):
    before = files("data/processed", "data/knowledge", "models")
    network = Layout().export(KD).onnx.read_bytes()
    write_params(project, data={"license": "CC0-1.0", "image_size": 32, "workers": 1, "val_fraction": 0.4})
    assert ingest.main([]) == train_teacher.main([TEACHER]) == distill.main(STUDENTS[1]) == 0
    assert capsys.readouterr().out.count("already trained with these settings, data and code") == 2
    assert files("data/processed", "data/knowledge", "models") == before
    assert licenses.main([]) == export.main(STUDENTS[1]) == report.main([]) == 0
    assert Layout().export(KD).onnx.read_bytes() == network
    assert read_json(Layout().export(KD).bundle)["licenses"][0]["license"] == "CC0-1.0"
    assert "| data phantom | CC0-1.0 |" in Layout().export(KD).card.read_text()
    assert [facts.ancestors[0].license for facts in collect_facts(load_params().candidates(), Layout())] == [
        "CC0-1.0"
    ] * 2


def test_a_corrected_licence_of_weights_changes_no_file_of_their_teacher(project, capsys):
    shutil.copytree(f"models/teachers/{TEACHER}", "friend")
    written = []
    for stated in ({}, {"license": "MIT"}):
        friend = {"arch": "test_resnet", "weights": "friend/model.safetensors", "frozen": True, **stated}
        write_params(project, teachers={TEACHER: friend})
        assert train_teacher.main([TEACHER]) == licenses.main([]) == 0
        written.append(files(f"models/teachers/{TEACHER}"))
        said = capsys.readouterr().err
        unknown = "note: the licence of weights of test_resnet (file model.safetensors) is unknown"
        assert (unknown in said) is (not stated)
    assert written[0] == written[1]
    (_, weights) = read_ancestors(Layout().reports.licenses(KD))
    assert (weights.license, weights.path) == (
        "MIT",
        ["students.small", "recipes.kd", f"teachers.{TEACHER}", "weights"],
    )
    assert len(read_ancestors(Layout().reports.licenses("small-baseline-0"))) == 1


def test_check_says_before_any_training_what_the_gate_will_refuse(project, capsys):
    write_params(project, promote={"licenses": {"allow": ["apache-2.0"]}})
    require_networks(load_params())
    assert "promote.licenses" not in capsys.readouterr().err
    write_params(project, promote={"licenses": {"allow": ["MIT"]}}, run={"seeds": [0, 1]})
    require_networks(load_params())
    said = [line for line in capsys.readouterr().err.splitlines() if "promote.licenses" in line]
    refusal = "promote.licenses will refuse it: the licence of data phantom is Apache-2.0 (students.small → data)"
    assert said == [f"students.small by recipes.{recipe}: {refusal}" for recipe in ("baseline", "kd")]


def test_the_stage_replaces_the_licences_of_an_earlier_run(project):
    old = Layout().reports.licenses("old-kd-0")
    shutil.copy(Layout().reports.licenses(KD), old)
    assert licenses.main([]) == 0
    assert not old.exists()
    assert {path.stem for path in old.parent.iterdir()} == {TEACHER, *("-".join(student) for student in STUDENTS)}


def write_licenses(root: Path, params: Params, *ancestors: Ancestor) -> None:
    for name in params.model_folders():
        path = Layout(root).reports.licenses(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        LicenseRecord(model=name, ancestors=list(ancestors)).write(path)


DATA = Ancestor(license="CC0-1.0", what=f"data {HOSTILE}", path=["students.eeea_net_c2", "data"])
TEACHERS = Ancestor(
    license=None, what="weights of dino", path=["students.eeea_net_c2", "recipes.kd", "teachers.densenet", "weights"]
)


def test_the_report_says_who_was_refused_for_which_ancestor(tmp_path):
    params = write_project(tmp_path, change={"promote": {"licenses": {"allow": ["CC0-1.0"]}}})
    write_surroundings(tmp_path, params)
    write_licenses(tmp_path, params, DATA)
    taught = Layout(tmp_path).reports.licenses("eeea_net_c2-kd-0")
    LicenseRecord(model="eeea_net_c2-kd-0", ancestors=[DATA, TEACHERS]).write(taught)
    with inside(tmp_path):
        assert evaluate.main([]) == report.main([]) == 0
    page = Layout(tmp_path).reports.page.read_text(encoding="utf-8")
    text = re.sub(r"<[^>]*>", "", page.partition('id="licenses"')[2])
    assert "weights of dinounknown1of 4" in text.replace("\n", "")
    assert "1of 4students.eeea_net_c2 → recipes.kd → teachers.densenet → weights" in text
    assert HOSTILE not in page
    refusal = "the licence of weights of dino is unknown (students.eeea_net_c2 → recipes.kd → teachers.densenet"
    assert refusal in re.sub(r"<[^>]*>", "", page)
    verdicts: dict[str, Any] = {}
    for entry in json.loads(Layout(tmp_path).reports.gate.read_text())["candidates"]:
        (verdicts[entry["model"]],) = (rule["verdict"] for rule in entry["rules"] if rule["rule"] == "licenses")
    assert [name for name, verdict in verdicts.items() if verdict == "failed"] == ["eeea_net_c2-kd-0"]


def test_a_report_without_licences_says_so(tmp_path):
    write_surroundings(tmp_path, write_project(tmp_path, images=12))
    with inside(tmp_path):
        assert evaluate.main([]) == report.main([]) == 0
    assert "Not recorded: reports/licenses is missing." in Layout(tmp_path).reports.page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_mlflow_has_licences_as_a_tag_and_follows_a_correction(
    repository: Path, settings: Callable[[], Params]
) -> None:
    client = open_store(repository)
    params = settings()
    for stated, expected in ((None, "CC0-1.0, unknown"), ("MIT", "CC0-1.0, MIT")):
        write_licenses(repository, params, DATA, TEACHERS.model_copy(update={"license": stated}))
        tracked = track(params, repository)
        run = client.get_run(tracked.runs["small-kd-0"])
        assert run.data.tags["licenses"] == expected
        names = [file.path for file in client.list_artifacts(run.info.run_id, "licenses")]
        assert names == ["licenses/small-kd-0.json"]
    assert tracked.created == []  # of the second time
    assert "small-kd-0" in tracked.updated


def test_promote_refuses_what_the_rule_refuses(repository: Path, settings: Callable[[], Params]) -> None:
    write_licenses(repository, settings(), DATA, TEACHERS)
    path = repository / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["promote"]["licenses"] = {"allow": ["CC0-1.0"]}
    path.write_text(yaml.safe_dump(raw))
    outcome = promote(settings(), repository)
    assert outcome.outcome == "refused"
    assert any("licenses: the licence of weights of dino is unknown" in reason for reason in outcome.reasons)
