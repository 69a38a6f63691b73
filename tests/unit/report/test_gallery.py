import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.data.dataset import Dataset
from medistill.explain.localisation import NO_TRUTH
from medistill.explain.second_look import Doubt
from medistill.records.explain import Choice, ModelMaps, Tried
from medistill.records.gallery import Gallery, ShownFinding, ShownKind, ShownMap
from medistill.report.gallery import DoubtRow, render
from medistill.report.pictures import OPACITY, heat_uri, image_uri, outline
from medistill.task import Task
from tests.filled import agreed, removal

EVIL = "<script>alert('x')</script>"
OBEYED = "\x1b[31m\n\u202e\x9b2J"
SIZE = 16


def entry(**changes) -> ModelMaps:
    figure = {"estimate": 0.5, "lower": 0.25, "upper": 0.75}
    table = {
        **{key: 12 for key in ("images", "findings", "groups", "boxes", "boxes_test")},
        **{"boxes_val": 0, "masks": 0, "flat_maps": 0, "pointing_game": figure, "energy": figure, "overlap": figure},
        **{"energy_ratio": {"estimate": 3.25, "lower": 2.0, "upper": 4.0}, "energy_beside": {}},
        **{"overlap_beside": {"centre": {"value": 0.25, "difference": {"estimate": 0.25, "lower": 0.0, "upper": 0.4}}}},
        **{"detected_findings": 9, "missed_findings": 3, "detected": figure, "missed": None},
        **{"chance": 0.125, "difference_chance": {"estimate": 0.375, "lower": 0.125, "upper": 0.625}},
        **{"centre_prior": 0.0, "difference_centre": {"estimate": 0.5, "lower": -0.03, "upper": 0.75}},
        **{"label_prior": 0.375, "difference_label_prior": {"estimate": 0.125, "lower": -0.125, "upper": 0.375}},
        **{"wrong_label": figure, "difference_wrong_label": None, "random_weights": figure},
        **{"difference_random_weights": {"estimate": 0.25, "lower": -0.0625, "upper": 0.5}},
        **{"conclusive": True, "reason": "", "conclusion": "better than chance"},
    }
    filled = {
        **{"method": "hires_cam", "layer": "stride_16", "map_size": [8, 8], "removal": removal()},
        **table,
        "labels": {EVIL: table},
        "agreement_teacher": {},
        "difference_teacher": {},
    }
    return ModelMaps(**filled | changes)


def row(*, present=True, heat=None, pixels=None, hit=True, mask=None) -> ShownFinding:
    heat = np.zeros((SIZE, SIZE), np.float32) if heat is None else heat
    pixels = np.full((1, SIZE, SIZE), 90, np.uint8) if pixels is None else pixels
    answer = {"probability": 0.625, "picture": heat_uri(heat), "top": float(heat.max()), "peak": [3, 4]}
    answer |= {"hit": hit if present else None, "called": False, "predicted": None}
    where = {"boxes": [[0.25, 0.5, 0.25, 0.25]] if present and mask is None else [], "outline": ""}
    return ShownFinding(
        **{"image_id": f"{EVIL}.png", "split": "test", "label": EVIL, "present": present, "facts": "F, 50 years"},
        **where | ({} if mask is None else {"outline": outline(mask)}),
        size=SIZE,
        picture=image_uri(pixels),
        maps=[
            ShownMap(model=model, role=role, **answer)
            for model, role in (("teacher&1", "teacher"), ("a-kd-0", "distilled"))
        ],
    )


def with_maps(shown: ShownFinding, **changes) -> ShownFinding:
    return shown.model_copy(update={"maps": [one.model_copy(update=changes) for one in shown.maps]})


def page(rows, task=Task.MULTILABEL, choice=None, doubts=(), **changes) -> str:
    lead = {"pointing_game": {"estimate": -0.125, "lower": -0.25, "upper": 0.0625}, "energy": None, "overlap": None}
    against = {"agreement_teacher": {"teacher&1": agreed()}, "difference_teacher": {"teacher&1": lead}}
    roles = {"teacher&1": "teacher", "a-kd-0": "distilled"}
    metrics = {"teacher&1": entry(**changes), "a-kd-0": entry(**against, **changes)}
    dataset = Dataset(Path(), EVIL, "csv", task, [EVIL], SIZE, 1, "pad", "", pd.DataFrame())
    present = [one for one in rows if one.present]
    kinds = [ShownKind(called=False, hit=True, findings=41, shown=present)]
    absent = [one for one in rows if not one.present]
    shown = Gallery(student="a-kd-0", beside=["a-kd-0"], kinds=kinds, absent=absent)
    return render(dataset, roles, metrics, choice or CHOICE, shown, list(doubts))


CHOICE = Choice(
    method="hires_cam",
    layer="stride_16",
    findings=40,
    images=20,
    groups=15,
    reason="",
    tried=[Tried(method="hires_cam", layer="stride_16", models=dict.fromkeys(("teacher&1", "a-kd-0"), None), mean=0.5)],
)


def pictures(text: str) -> list[Image.Image]:
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(code))) for code in found]


def test_page_is_self_contained():
    text = page([row(), row(present=False)])
    assert not re.search(r"https?:|//[a-z]|@import|<link|<script|url\(", text)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in re.findall(r'(?:href|src)="([^"]*)"', text))


def test_everything_from_data_is_escaped():
    text = page([row(), row(present=False)])
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "teacher&1" not in text


def test_nothing_from_data_is_obeyed():
    shown = with_maps(row(present=False), model=OBEYED, predicted=OBEYED)
    shown = shown.model_copy(update={"image_id": OBEYED, "label": OBEYED, "facts": OBEYED})
    text = page([shown], conclusion=OBEYED)
    assert text.replace("\n", "").isprintable()
    assert text.count(r"\x1b[31m\n\u202e\x9b2J") > 8


def test_tags_are_balanced():
    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag, attrs):
            if tag not in {"meta", "br", "wbr", "input", "img"}:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page([row(), row(present=False)]))
    assert parser.open == []


def test_says_what_it_is_for():
    text = page([row()])
    assert "Research use only, not a medical device." in text
    assert "diagnos" not in text.lower()


def test_box_and_peak_are_where_they_belong():
    text = page([row()])
    assert '<rect class="target" x="4.00" y="8.00" width="4.00" height="4.00"/>' in text
    assert 'd="M4.0 3.5h1.0M4.5 3.0v1.0"' in text  # row 3, column 4: centre (4.5, 3.5), arms of 16/32


def test_figures_and_marks():
    text = page([row()])
    assert text.count("probability 0.62, peak 0%") == 2
    assert "−0.12<small>[−0.25, +0.06]</small>" in text
    assert text.count("✓ hit") == 2
    assert "✗ missed" in page([row(hit=False)])
    assert text.count("✗ not called") == 2
    assert page([row(present=False)]).count("✓ not called") == 2
    assert "✗ called" in page([with_maps(row(present=False), called=True)])
    assert "Not called, the map hits</th><td>41</td><td>1</td>" in text
    assert "the distilled student that is best on validation" in text
    assert "✓ hit" not in page([row(present=False)])
    assert "0.50<small>[0.25, 0.75]</small>" in text
    assert "0.90<small>[0.80, 0.95]</small>" in text
    assert "8×8" in text
    assert "0.38<small>+0.12 [−0.12, +0.38]</small>" in text  # the usual place, and the lead over it
    assert "0.50<small>+0.25 [−0.06, +0.50]</small>" in text  # random weights
    assert "0.25<small>+0.25 [+0.00, +0.40]</small>" in text  # the overlap of the centre
    assert "3.2 times chance" in text
    assert "HiResCAM on the stride-16 map</strong>, which points best at 40 findings" in text


def test_a_mask_is_outlined_along_its_pixels_on_every_picture():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[3:6, 8:], mask[4, 10] = True, False
    text = page([row(mask=mask)])
    (path,) = re.findall(r'<path class="target" id="([^"]*)" d="([^"]*)"', text)
    assert text.count(f'<use href="#{path[0]}"/>') == 2  # over the map of each model
    steps = re.findall(r"M(\d+) (\d+)([hv])(\d+)", path[1])
    drawn = {
        (int(x) + k * (way == "h"), int(y) + k * (way == "v"), way) for x, y, way, n in steps for k in range(int(n))
    }
    inside = lambda y, x: 0 <= y < SIZE and 0 <= x < SIZE and mask[y, x]  # noqa: E731
    places = [(y, x) for y in range(SIZE + 1) for x in range(SIZE + 1)]
    expected = {(x, y, "h") for y, x in places if inside(y, x) != inside(y - 1, x)}
    assert drawn == expected | {(x, y, "v") for y, x in places if inside(y, x) != inside(y, x - 1)}


def test_exclusive_classes_show_what_each_model_predicts():
    shown = with_maps(row(present=False), predicted=f"class {EVIL}")
    text = page([row(), shown], task=Task.MULTICLASS)
    assert "<h2>A class predicted instead of the true one</h2>" in text
    assert text.count("predicts class &lt;script&gt;") == 2
    assert "Findings that are" not in text
    assert "predicts" not in page([row(), row(present=False)])


def test_inconclusive_figures_say_why():
    text = page(
        [row()], conclusive=False, conclusion="none: too coarse: a cell of the 2×2 map is 2.0 times as wide as a box"
    )
    assert "none: too coarse: a cell of the 2×2 map is 2.0 times as wide as a box" in text


def test_without_boxes_localisation_is_said_to_be_absent():
    assert "Localisation is absent" in page([row(present=False)], **NO_TRUTH.to_json())
    assert "Localisation is absent" not in page([row()])


def test_a_way_that_nothing_chose_and_a_layer_that_a_network_lacks_are_said():
    unchosen = CHOICE.model_copy(update={"tried": [], "reason": "too few <boxes>"})
    text = page([row()], choice=unchosen, layer="last")
    assert "HiResCAM on the stride-16 map</strong>, which no findings have chosen: too few &lt;boxes&gt;." in text
    assert text.count("8×8<small>HiResCAM on the last map</small>") == 2


def test_labels_worth_a_second_look_have_their_image_and_both_opinions():
    pixels = np.full((1, SIZE, SIZE), 90, np.uint8)
    doubt = Doubt(f"{EVIL}.png", "test", EVIL, present=True, probability=0.03125, instead=None, loss=3.0)
    text = page([row()], doubts=[DoubtRow(doubt, pixels, "F, 50 years")])
    assert "&lt;/script&gt;: present, says the label" in text
    assert "teachers: probability 0.03" in text
    assert '<img src="data:image/png;base64,' in text
    assert "<script" not in text
    named = replace(doubt, present=False, instead=f"class {EVIL}")
    assert "instead" in page([row()], doubts=[DoubtRow(named, pixels, "")])
    assert "second look" not in page([row()])


def test_no_evidence_leaves_the_xray_as_it_is_and_the_most_covers_it_most():
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[2, 5] = 1.0
    heat[9, 9] = 0.5
    picture = np.asarray(pictures(page([row(heat=heat)]))[1].convert("RGBA"))
    assert picture[2, 5, 3] == round(255 * OPACITY)
    assert picture[9, 9, 3] == pytest.approx(255 * OPACITY * 0.5**0.5, abs=1)
    assert (picture[heat == 0][:, 3] == 0).all()
    red, green, _ = picture[2, 5, :3]
    assert min(red, green) > 200  # the top of the scale is bright


def test_xray_is_embedded_once_and_pixel_for_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE), dtype=np.uint8)
    found = pictures(page([row(pixels=pixels)]))
    assert len(found) == 3  # the image, and a map for each of the two models
    np.testing.assert_array_equal(np.asarray(found[0]), pixels[0])
    colour = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(pictures(page([row(pixels=colour)]))[0]), colour.transpose(1, 2, 0))
