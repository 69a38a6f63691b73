"""The environment that renders every page and card: values from data are escaped, and no script can run.

Templates lie in `templates/`, those of the report's sections beside their code in `sections/`. A value is escaped when
it is shown, unless it is markup already: the result of a macro, or a chart.
"""

import html
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medistill.report import numbers
from medistill.text import printable

POLICY = Markup(
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)
"""Values from data are escaped; even unescaped, no script could run."""


def escape(value: Any) -> Markup:
    """Anything that comes from data, as text in one line of HTML, also within a quoted attribute."""
    return Markup(html.escape(printable(str(value))))


def markdown(value: Any) -> str:
    """Anything that comes from data, as text in one line of Markdown: no markup, no link, no picture, no HTML."""
    text = printable(" ".join(str(value).split()))
    return "".join(f"\\{sign}" if sign in "\\`|<>[]*#&" else sign for sign in text)


def joints(name: Any) -> Markup:
    """The name of a model or rule, which may break across lines after its joints."""
    text = html.escape(printable(str(name)))
    return Markup(re.sub("([_-])(?=..)", r"\1<wbr>", text))  # a seed alone on a line would look odd


def style() -> Markup:
    """The one style sheet of all pages."""
    return Markup(resources.files("medistill.report").joinpath("style.css").read_text(encoding="utf-8"))


def render_page(template: str, **values: Any) -> str:
    """A page as HTML text.

    Args:
        template: name of a file in `templates/`, without `.html.jinja`.
        values: of the template, `title` among them.

    Raises:
        jinja2.UndefinedError: the template uses a value that is missing.
    """
    text = environment().get_template(f"templates/{template}.html.jinja").render(values)
    between_tags = re.sub(r"(?<=>)\s*\n\s*(?=<)", "", text)  # line breaks in values are escaped, see `printable`
    return re.sub(r"\s*\n\s*", " ", between_tags).strip() + "\n"


def render_card(template: str, **values: Any) -> str:
    """A text in Markdown, from a file in `templates/` that is named without `.md.jinja`."""
    return _cards().get_template(f"templates/{template}.md.jinja").render(values)


@cache
def environment() -> Environment:
    """Where templates of pages are found, and what they can use."""
    made = Environment(
        loader=PackageLoader("medistill.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals |= {"policy": POLICY, "style": style(), "missing": numbers.MISSING}
    made.filters |= {"joints": joints, **numbers.FILTERS}
    return made


@cache
def _cards() -> Environment:
    """The same, with values escaped for Markdown."""
    return environment().overlay(finalize=lambda value: value if isinstance(value, Markup) else Markup(markdown(value)))
