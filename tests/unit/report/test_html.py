"""The frame of HTML pages."""

import base64
import html
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from medistill.report.html import environment, escape, markdown, render_page
from medistill.text import printable


def framed(body: str, **values: object) -> str:
    """A page whose body is a template of its own."""
    source = '{% extends "templates/frame.html.jinja" %}{% block body %}' + body + "{% endblock %}"
    return environment().from_string(source).render({"title": "t", **values})


def test_title_is_text_and_only_what_asks_for_it_renews() -> None:
    page = render_page("live", title="a<b>&", trainings=[], renew=None)
    assert "<title>a&lt;b&gt;&amp;</title>" in page
    assert "refresh" not in page
    assert '<meta http-equiv="refresh" content="3">' in render_page("live", title="t", trainings=[], renew=3)


HOSTILE = "</p>\x1b[2J\n\u202e\x9b<meta http-equiv='refresh'>&amp;\"\ud800\x00"


def test_text_of_data_is_text_in_html_and_nothing_in_it_is_obeyed() -> None:
    shown = escape(HOSTILE)
    expected = "&lt;/p&gt;\\x1b[2J\\n\\u202e\\x9b&lt;meta http-equiv=&#x27;refresh&#x27;&gt;&amp;amp;&quot;\\ud800\\x00"
    assert shown == expected
    assert f"<title>{expected}</title>" in framed("", title=HOSTILE)
    for template in (
        "{{ value }}",
        "{{ value ~ '' }}",
        "{{ [value]|join }}",
        "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(value) }}",
    ):
        assert f"<i>{expected}</i>" in framed(f"<i>{template}</i>", value=HOSTILE)
    assert escape(3.5) == "3.5"
    assert "<i>a-<wbr>b_<wbr>&lt;c&gt;-0</i>" in framed("<i>{{ value|joints }}</i>", value="a-b_<c>-0")


def test_a_template_that_shows_what_it_was_not_given_fails() -> None:
    with pytest.raises(UndefinedError, match="'pages' is undefined"):
        render_page("data_docs", title="t")
    with pytest.raises(UndefinedError, match="no attribute 'name'"):
        render_page("live", title="t", trainings=[{}], renew=None)


def test_line_breaks_of_templates_do_not_reach_the_page() -> None:
    page = render_page("data_docs", title="t", pages=[("a", "one\n two"), ("b", "three")])
    assert r'<ul><li><a href="a">one\n two</a></li><li><a href="b">three</a></li></ul>' in page
    assert page.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        *("[click](http://x.org)", "![](http://x.org/seen.png)", "<img src=x>", "`code`", "*strong*", "**very**"),
        *(
            "a|b",
            "# heading",
            "&lt;b&gt;",
            "&#x202e;",
            "<http://x.org>",
            "[x]: http://x.org",
            "\\",
            "a\\|b",
            "__init__",
        ),
        *("```", "two\n\nlines", "\x1b[31mred", "\u202ereversed", "Röntgen 胸部 50 %"),
    ],
)
def test_text_of_data_is_text_in_markdown(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it", reason="needs a reader of Markdown, which Prefect brings")
    reader = markdown_it.MarkdownIt("commonmark").enable(["table"])
    shown = html.escape(printable(" ".join(text.split())))
    for source, rendered in (
        (f"1. {markdown(text)}\n", f"<ol>\n<li>{shown}</li>\n</ol>\n"),
        (f"| a |\n|---|\n| {markdown(text)} |\n", f"<td>{shown}</td>"),
    ):
        found = reader.render(source).replace("<strong>init</strong>", "__init__")  # emphasis is harmless
        assert rendered.replace("&#x27;", "'") in found


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_nothing_and_shows_embedded_images_and_styles(tmp_path: Path) -> None:
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1), (9, 90, 180)).save(pixel, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(pixel.getvalue()).decode()}"
    body = f"""<script>document.title = 'ran'</script><img src="{image}" onload="document.title = 'ran'">"""
    style = "body { margin: 0; padding: 0; background: rgb(1, 200, 3); } img { width: 32px; height: 32px; }\n"
    file, shot = tmp_path / "page.html", tmp_path / "shot.png"
    file.write_text(framed(f"<style>{style}</style>{body}", title="kept"), encoding="utf-8")
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]

    dom = subprocess.run([*browser, "--dump-dom", file.as_uri()], capture_output=True, text=True, check=True).stdout
    command = [*browser, f"--screenshot={shot}", "--window-size=64,64", file.as_uri()]
    subprocess.run(command, capture_output=True, check=True)

    assert "<title>kept</title>" in dom
    with Image.open(shot) as picture:
        colours = [picture.convert("RGB").getpixel(place) for place in ((16, 16), (60, 60))]
    assert colours == [(9, 90, 180), (1, 200, 3)]
