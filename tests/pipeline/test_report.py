"""The stage `report`: the gate's table and the page."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from evaluated_project import HOSTILE, LABELS, RARE, write_project, write_surroundings

from medistill.checksums import read_record, write_record
from medistill.errors import UserError
from medistill.files import sha256
from medistill.gate.facts import collect_facts
from medistill.layout import Layout
from medistill.params import load_params
from medistill.report.items import CLAIM, TRIPOD_AI
from medistill.report.reading import read_content, read_rows
from medistill.report.reporting import facts
from pipeline.stages import evaluate, report
from tests.seal import seal

ITEMS = [item for checklist in (TRIPOD_AI, CLAIM) for items in checklist.values() for item in items]
VOID = {"meta", "link", "br", "img", "wbr", "input", "hr"}


class Page(HTMLParser):
    """Text, links and tags of a page; fails on tags that do not match."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] for found, attrs in self.tags if found == tag and name in attrs]


def make(root: Path, **settings) -> None:
    params = write_project(root, **settings)
    write_surroundings(root, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert evaluate.main([]) == 0
        assert report.main([]) == 0


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("reported")
    make(root)
    return root


@pytest.fixture(scope="module")
def source(project) -> str:
    return (project / "reports" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def numbers(root: Path) -> dict:
    return json.loads((root / "reports" / "metrics.json").read_text())


def shown(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}".replace("-", "−")


def test_gate_json_has_every_student_and_every_rule(project):
    candidates = json.loads((project / "reports" / "gate.json").read_text())["candidates"]
    assert [entry["model"] for entry in candidates] == [
        "eeea_net_c2-baseline-0",
        "eeea_net_c2-kd-0",
        "tf_efficientnet_lite0-baseline-0",
        "tf_efficientnet_lite0-kd-0",
    ]
    for entry in candidates:
        assert len(entry["rules"]) == 8
        assert entry["passed"] == all(rule["verdict"] != "failed" for rule in entry["rules"])
        assert set(entry["rules"][0]) == {"rule", "value", "limit", "verdict", "reason"}
        assert entry["onnx_mb"] == 18.96
    by_rule = {rule["rule"]: rule for rule in candidates[1]["rules"]}
    validation = numbers(project)["eeea_net_c2-kd-0"]["val"]
    assert by_rule["margin_teacher"]["value"] == validation["difference_teacher_lower"]
    assert by_rule["require_baseline"]["value"] == validation["difference_baseline"]
    assert by_rule["max_ece"]["value"] == validation["macro_ece"]


def test_the_weak_baselines_are_refused_and_the_page_says_why(project, page):
    candidates = json.loads((project / "reports" / "gate.json").read_text())["candidates"]
    assert [entry["passed"] for entry in candidates] == [False, True, False, True]
    reason = next(rule["reason"] for rule in candidates[0]["rules"] if rule["verdict"] == "failed")
    assert f"eeea_net_c2-baseline-0, margin_teacher: {reason}." in page.text


def test_page_shows_the_figures_of_every_model(project, page):
    for model, entry in numbers(project).items():
        assert model in page.text
        for split in ("val", "test"):
            figures = entry[split]
            bounds = f"[{shown(figures['macro_auroc_lower'])}, {shown(figures['macro_auroc_upper'])}]"
            assert f"{shown(figures['macro_auroc'])}{bounds}" in page.text
        for relation in ("baseline", "teacher"):
            if f"difference_{relation}" in entry["test"]:
                assert shown(entry["test"][f"difference_{relation}"], "+") in page.text
    for text in ("19.0 MB", "4.6, 5.4 ms", "0.512", "0.192", "0.616", "4.73 M", "bad.png", "truncated"):
        assert text in page.text


def test_page_shows_what_thresholds_promise_and_what_test_makes_of_it(project, page):
    for model in numbers(project):
        evaluation = json.loads((project / "reports" / "evaluation" / f"{model}.json").read_text())
        for point in (point for points in evaluation["operating"].values() for point in points):
            if point["threshold"] is None:
                assert f"–cannot be promised by {point['groups']}" in page.text
            else:
                seen, other = point["observed"], {"sensitivity": "specificity"}.get(point["kind"], "sensitivity")
                bounds = f"[{seen['lower']:.2f}, {seen['upper']:.2f}]"
                assert f"{seen['estimate']:.2f}{bounds}{other} {point[other]['estimate']:.2f}" in page.text
    assert "cannot be promised by 3" in page.text  # the rare label


def test_page_holds_each_group_against_the_rest(project, page):
    for model in numbers(project):
        evaluation = json.loads((project / "reports" / "evaluation" / f"{model}.json").read_text())
        groups = {f"{group['attribute']}: {group['group']}": group for group in evaluation["subgroups"]}
        assert list(groups) == ["sex: F", "sex: M", "age: 0–39", "age: 40–59", "age: 60 and over"]
        assert groups["sex: M"]["gap"] is None
        for name, group in groups.items():
            assert name in page.text
            for key, gap in (("auroc", "gap"), ("missed", "missed_gap")):
                for figure, sign in ((group[key], ""), (group[gap], "+")):
                    if figure:
                        bounds = f"[{shown(figure['lower'], sign)}, {shown(figure['upper'], sign)}]"
                        assert f"{shown(figure['estimate'], sign)}{' ' if sign else ''}{bounds}" in page.text
            for change in group["changes"].values():
                assert shown(change["change"]["estimate"], "+") in page.text
    assert "diagnos" not in page.text.lower()


def test_page_writes_out_what_curves_show(project, page, source):
    drawn = re.findall(r'<polygon class="band" points="([^"]*)"', source)
    for model, points in zip(numbers(project), drawn, strict=True):
        curves = json.loads((project / "reports" / "evaluation" / f"{model}.json").read_text())["curves"]
        bins = curves["reliability"]
        assert len(points.split()) == 2 * len(bins)
        outside = sum(not one["lower"] <= one["rate"] <= one["upper"] for one in bins)
        assert f"{model} {outside} of {len(bins)}" in page.text
        risks, area = dict(curves["risk_coverage"]), numbers(project)[model]["test"]
        bounds = f"[{area['macro_aurc_lower']:.4f}, {area['macro_aurc_upper']:.4f}]"
        shares = f"{100 * risks[1.0]:.1f} %{100 * risks[0.5]:.1f} %"
        assert f"{model}{area['macro_aurc']:.4f}{bounds}{shares}" in page.text
        differences = [at["difference"] for at in curves["decisions"][::5]]
        assert all((difference is None) == (model in ("densenet", "efficientnet_lite2")) for difference in differences)
        known = [one for one in differences if one]
        cells = [f"{one['estimate']:+.4f}[{one['lower']:+.4f}, {one['upper']:+.4f}]" for one in known]
        assert "".join(cells).replace("-", "−") in page.text
    assert source.count('aria-label="Net benefit of ') == 3  # eligible labels


def test_labels_that_differ_after_adjustment_are_filled_in_the_forest_plot(project, source):
    rows = [row for row in read_rows(project / "reports" / "comparisons.csv") if row["split"] == "test"]
    rows = [row for row in rows if row["metric"].startswith("label:")]
    taught = {row["model"] for row in rows if row["relation"] == "baseline"}
    expected = sum(float(row["p_holm"]) < 0.05 for row in rows if row["model"] in taught)
    plots = re.findall(r'aria-label="AUROC of [^"]* minus its references.*?</svg>', source)
    points = [kind for plot in plots for kind in re.findall(r'<circle class="mark s\d( hollow)?"', plot)]
    assert (len(plots), points.count("")) == (len(taught), expected)
    assert 0 < expected < len(points)


def test_labels_that_distillation_changed_are_named(project, page):
    rows = [row for row in read_rows(project / "reports" / "comparisons.csv") if row["split"] == "test"]
    rows = [row for row in rows if row["metric"].startswith("label:")]
    for model, relation, reference in dict.fromkeys((r["model"], r["relation"], r["reference"]) for r in rows):
        own = [row for row in rows if (row["model"], row["reference"]) == (model, reference)]
        clear = [row for row in own if float(row["p_holm"]) < 0.05]
        named = {
            sign: [r["metric"].removeprefix("label:") for r in clear if (float(r["estimate"]) > 0) == sign]
            for sign in (True, False)
        }
        words = [
            f"{word} in {', '.join(named[sign])}" for sign, word in ((True, "better"), (False, "worse")) if named[sign]
        ]
        assert f"{model} minus {relation} {reference}: {'; '.join(words) or 'no label differs'} (AUROC" in page.text


def test_no_student_that_another_beats_in_both_is_called_unbeaten(project, page):
    students = [name for name in numbers(project) if "-" in name]
    best = max(students, key=lambda name: numbers(project)[name]["test"]["macro_auroc"])
    assert f"No other student is both faster and better on test than {best}, by these" in page.text


def test_checklists_have_every_item_once_and_the_numbers_of_metrics_json(project):
    text = (project / "reports" / "tripod-ai.md").read_text(encoding="utf-8")
    _, tripod, claim = re.split(r"^## ", text, flags=re.MULTILINE)
    found = [re.findall(r"^\*\*(\w+)\. ", part, flags=re.MULTILINE) for part in (tripod, claim)]
    expected = [[item.number for items in one.values() for item in items] for one in (TRIPOD_AI, CLAIM)]
    assert found == expected
    for part in (tripod, claim):
        for model, splits in numbers(project).items():
            figures = splits["test"]
            (line,) = set(re.findall(rf"^- {model}, test: .*$", part, flags=re.MULTILINE))
            for title, key in (("AUROC", "macro_auroc"), ("Brier score", "macro_brier"), ("AURC", "macro_aurc")):
                bounds = f"{shown(figures[f'{key}_lower'])}, {shown(figures[f'{key}_upper'])}"
                assert f"{title} {shown(figures[key])} \\[{bounds}\\]" in line
            if "difference_teacher" in figures:
                assert (
                    f"- {model}, test AUROC minus the best teacher: {shown(figures['difference_teacher'], '+')} "
                    in part
                )
    assert "- test: 240 images of 120 groups (patients)" in tripod
    assert text.count("*You must write this:*") == sum(bool(item.write) for item in ITEMS)
    assert "<script" not in text.replace("\\<", "")


def test_every_fact_answers_an_item_and_every_item_has_its_facts(project, monkeypatch):
    monkeypatch.chdir(project)
    known = facts(read_content(load_params().model_folders(), [], Layout()))
    assert set(known) == {fact for item in ITEMS for fact in item.facts}
    assert all(known.values())


def test_page_names_the_best_teacher_and_the_first_in_rank(project, page):
    entries = numbers(project)
    best = max(("densenet", "efficientnet_lite2"), key=lambda name: entries[name]["val"]["macro_auroc"])
    assert f"Best teacher, chosen on validation: {best}." in page.text
    assert "2 of 4 students pass the gate. First in rank is " in page.text


def test_a_rule_that_does_not_apply_is_shown_as_neither_passed_nor_failed(project, source):
    candidates = json.loads((project / "reports/gate.json").read_text())["candidates"]
    marks = {"passed": "✓", "failed": "✗", "skipped": "–"}
    expected = [marks[rule["verdict"]] for candidate in candidates for rule in candidate["rules"]]
    assert re.findall(r'<td><span title="[^"]*">(?:<span class="(?:pass|fail)">)?(\S)', source) == expected
    assert "–" in expected


def test_page_of_exclusive_classes_names_the_task_and_shows_accuracy(tmp_path, page):
    make(tmp_path, task="multiclass", change={"evaluate": {"net_benefit": None}})
    other = Page((tmp_path / "reports" / "index.html").read_text(encoding="utf-8"))
    assert "4 classes, one per image (multiclass)" in other.text
    assert "probabilities are the softmax of the logits" in other.text
    for model, entry in numbers(tmp_path).items():
        figures = entry["test"]
        interval = f"[{shown(figures['accuracy_lower'])}, {shown(figures['accuracy_upper'])}]"
        assert f"{shown(figures['accuracy'])}{interval}{shown(figures['balanced_accuracy'])}" in other.text, model
    first = re.search(r"First in rank is (\S+) with", other.text)[1]
    assert f"; accuracy on test {shown(numbers(tmp_path)[first]['test']['accuracy'])} [" in other.text
    for head in ("Test accuracy", "Test balanced accuracy", "Accuracy on test"):
        assert head in other.text
        assert head not in page.text
    assert "Not measured: from which probability on somebody would act" in other.text
    assert "4 labels (multilabel)" in page.text
    assert "probabilities are sigmoids of the logits" in page.text


def test_page_names_eligible_and_skipped_labels(page):
    assert f"Skipped: {RARE} (3 positives, fewer than 10)." in page.text


def test_page_lists_every_expectation_offline(page):
    assert "All 2 expectations" in page.text
    for text in (
        "images: age",
        "Ages are 0 to 120 years",
        "✗ warning",
        f"violated by 7 rows: {HOSTILE} (411.0)",
        "✓ met",
    ):
        assert text in page.text
    assert "images: as a whole" in page.text


def test_page_says_prevalence_where_the_label_is_known(project, page):
    counts = json.loads((project / "data" / "processed" / "dataset.json").read_text())["counts"]["test"]
    label = LABELS[0]  # a twentieth of the images is unknown
    positives, negatives = counts["positives"][label], counts["negatives"][label]
    assert positives + negatives < counts["images"]
    assert f"{positives}{100 * positives / (positives + negatives):.1f} %" in page.text


def test_page_shows_a_hit_and_a_miss_beside_the_students_teachers(source):
    section = source.partition('id="localisation"')[2].partition("</section>")[0].replace("<wbr>", "")
    assert re.findall(r"<h4>(Called[^<]*) <span class=\"soft\">([^<]*)", section) == [
        ("Called, the map hits", "1 of 1"),
        ("Called, the map misses", "1 of 2"),
    ]
    for article, word in zip(section.split("<article>")[1:], ("✓ hit", "✗ missed"), strict=True):
        captions = re.findall(r"<figcaption>([^<]*)", article)
        assert [caption.strip() for caption in captions] == ["Image", "Truth", "densenet", "tf_efficientnet_lite0-kd-0"]
        assert article.count(word) == 2


def test_page_escapes_what_comes_from_data(source, page):
    assert HOSTILE in page.text
    assert "toy <b>set</b>" in page.text
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "b", "iframe", "object", "img", "link"}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_page_is_self_contained(source, page):
    assert not re.search(r"https?:|//\w|@import|url\(", source)
    assert "default-src 'none'" in page.attributes("meta", "content")[0]
    targets = page.attributes("a", "href")
    assert {"explain/index.html", "validation/data_docs/index.html", "evaluation/densenet.json"} <= set(targets)
    ids = set(page.attributes("section", "id"))
    assert {target[1:] for target in targets if target.startswith("#")} <= ids
    assert page.attributes("a", "src") == []


def test_page_says_that_it_is_no_medical_device(source):
    assert "Research use only, not a medical device" in source
    assert "diagnos" not in source.lower()


SHOWN = [
    ("0.01", "0.05", "0.049", "better"),
    ("-0.05", "-0.01", "0.01", "worse"),
    ("0.01", "0.05", "0.066", "no difference shown, once adjusted"),
    ("-0.05", "-0.01", "0.05", "no difference shown, once adjusted"),
    ("-0.01", "0.05", "0.02", "no difference shown"),
    ("", "", "", "no interval"),
]


def test_a_difference_is_called_better_only_where_it_is_after_adjustment(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    rows = read_rows(Path("reports/comparisons.csv"))
    changed = [row for row in rows if (row["split"], row["metric"]) == ("test", "macro_auroc")]
    for k, (row, (lower, upper, p_holm, _)) in enumerate(zip(changed, SHOWN, strict=False)):
        row |= {"model": f"case{k}", "lower": lower, "upper": upper, "p_holm": p_holm}
    with Path("reports/comparisons.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    record = read_record(Path("reports/evaluation.json"))
    checksum = {"comparisons.csv": sha256(Path("reports/comparisons.csv"))}
    write_record(Path("reports/evaluation.json"), record | {"files": record["files"] | checksum})
    report.main([])
    source = Path("reports/index.html").read_text(encoding="utf-8")
    for k, (*_, words) in enumerate(SHOWN):
        row = re.search(f'<th scope="row">case{k}</th>(.*?)</tr>', source).group(1)
        assert re.findall(r"<td[^>]*>([^<]*)</td>", row)[-1] == words


def test_page_shows_what_localisation_is_compared_with(tmp_path):
    make(tmp_path)
    file = tmp_path / "reports" / "explain" / "metrics.json"
    explained = json.loads(file.read_text())
    explained["densenet"]["difference_chance"] = {"estimate": 0.44, "lower": 0.329, "upper": 0.551}
    explained["densenet"]["difference_centre"] = {"estimate": -0.32, "lower": -0.4, "upper": -0.2}
    file.write_text(json.dumps(explained))
    seal(file.with_name("record.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        report.main([])
    text = Page((tmp_path / "reports" / "index.html").read_text(encoding="utf-8")).text
    assert "0.072+0.440 [+0.329, +0.551]0.192−0.320 [−0.400, −0.200]" in text


def test_page_says_why_a_teacher_has_no_heat_maps(tmp_path, monkeypatch):
    make(tmp_path)
    seal(tmp_path / "models/teachers/densenet/config.json", map_size=None)
    file = tmp_path / "reports" / "explain" / "metrics.json"
    explained = json.loads(file.read_text())
    del explained["densenet"]
    file.write_text(json.dumps(explained))
    seal(file.with_name("record.json"))
    monkeypatch.chdir(tmp_path)
    report.main([])
    text = Page((tmp_path / "reports" / "index.html").read_text(encoding="utf-8")).text
    assert "left out: it has no feature map" in text


def test_every_table_scrolls_in_a_box_of_its_own(source):
    boxes = re.findall(r'<div class="box" tabindex="0" role="region" aria-label="[^"]+"><table>', source)
    assert source.count("<table>") == len(boxes) > 8


def test_running_twice_gives_the_same_bytes(project, tmp_path):
    make(tmp_path)
    for name in ("index.html", "gate.json"):
        assert (tmp_path / "reports" / name).read_bytes() == (project / "reports" / name).read_bytes()


def test_missing_latency_explanations_and_exports_are_shown_as_such(tmp_path, monkeypatch):
    write_surroundings(tmp_path, write_project(tmp_path))
    monkeypatch.chdir(tmp_path)
    evaluate.main([])
    shutil.rmtree(tmp_path / "reports" / "explain")
    shutil.rmtree(tmp_path / "exports")
    for path in (tmp_path / "models").rglob("history.csv"):
        path.unlink()
        seal(path.with_name("config.json"))
    report.main([])
    page = Page((tmp_path / "reports" / "index.html").read_text(encoding="utf-8"))
    assert "Latency was not measured." in page.text
    assert "Not measured: reports/explain/metrics.json is missing." in page.text
    assert "Not measured: reports/stress/metrics.json is missing." in page.text
    assert "None of 4 students passes the gate" in page.text
    assert "parity.json is missing: export the model" in page.text
    assert "No history.csv was found." in page.text


def test_page_says_that_figures_are_of_studies_where_they_are(tmp_path, monkeypatch, page):
    words = "Figures are of studies, not of images: a study's probability is the mean of those of its images."
    assert "Figures are of studies" not in page.text
    write_surroundings(tmp_path, write_project(tmp_path, images=12, change={"evaluate": {"study": "mean"}}))
    manifest = pd.read_parquet(tmp_path / "data/processed/manifest.parquet")
    manifest.assign(study_id=manifest["image_id"]).to_parquet(tmp_path / "data/processed/manifest.parquet")
    seal(tmp_path / "data/processed/dataset.json")
    monkeypatch.chdir(tmp_path)
    evaluate.main([])
    report.main([])
    assert words in Page((tmp_path / "reports" / "index.html").read_text(encoding="utf-8")).text


def test_tiny_data_still_give_a_page_and_refusals(tmp_path):
    make(tmp_path, images=12)
    page = Page((tmp_path / "reports" / "index.html").read_text(encoding="utf-8"))
    assert "No label is eligible" in page.text
    candidates = json.loads((tmp_path / "reports" / "gate.json").read_text())["candidates"]
    assert not any(entry["passed"] for entry in candidates)


@pytest.mark.parametrize(
    "missing", ["reports/metrics.json", "reports/comparisons.csv", "models/students/eeea_net_c2-kd-0/config.json"]
)
def test_a_missing_input_is_one_line_that_names_it(tmp_path, monkeypatch, missing):
    make(tmp_path)
    (tmp_path / "reports" / "index.html").unlink()
    (tmp_path / missing).unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(str(Path(missing)))):
        report.main([])
    assert not (tmp_path / "reports" / "index.html").exists()


def test_collect_facts_reads_another_root(project):
    from medistill.params import load_params

    facts = collect_facts(load_params(project / "params.yaml").candidates(), Layout(project))
    kd = next(entry for entry in facts if entry.model == "eeea_net_c2-kd-0")
    assert (kd.params, kd.macs, kd.onnx_mb) == (4_732_838, 290_000_000, 18.96)
    assert kd.distilled
    assert kd.has_baseline
    assert kd.parity.passed
    assert kd.validation == numbers(project)["eeea_net_c2-kd-0"]["val"]
