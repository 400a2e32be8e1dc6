"""A page of sections as Markdown, and as one HTML file that needs nothing else: the templates are in templates/."""
import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2

Section = tuple[str, list]  # heading, and blocks: text, Code, Table, Picture or Chart


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[list[str]]
    numbers: slice  # columns that are figures
    folded: str = ""  # the text it is folded behind
    strong: frozenset = frozenset()  # rows to see first

    @property
    def kinds(self) -> list[str]:
        """Of each column: n, a figure, or w, words."""
        return ["n" if i in range(len(self.head))[self.numbers] else "w" for i in range(len(self.head))]


@dataclass(frozen=True)
class Picture:
    name: str
    png: bytes
    about: str

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Chart:
    """A figure as SVG, which takes the page's colors.  name: of its file"""

    name: str
    svg: str
    about: str

    @property
    def content(self) -> str:
        """Of the file: for who opens it by itself."""
        return self.svg + "\n"


class Code(str):
    """A command, shown as it is typed."""


@dataclass(frozen=True)
class Tile:
    """A large figure, a percentage unless it has another unit, its title above and lines beneath."""

    title: str
    value: str
    lines: list[str]
    unit: str = "%"


def as_markdown(title: str, about: str, sections: Sequence[Section]) -> str:
    return _templates().get_template("page.md.jinja").render(title=title, about=about, sections=sections)


def as_html(
    title: str, about: str, tiles: Sequence[Tile], sections: Sequence[Section], questions: Mapping[str, str] | None = None
) -> str:
    """tiles: between the title and the first section. questions: heading → the question that it answers; each is a link above
    to the first of its sections. A section without one has a link of its own heading.
    """
    links: dict[str, str] = {}
    for heading, _ in sections:
        links.setdefault((questions or {}).get(heading, heading), anchor(heading))
    more = {"links": links if questions else {}, "anchor": anchor}
    return _templates().get_template("page.html.jinja").render(title=title, about=about, tiles=tiles, sections=sections, **more)


def anchor(heading: str) -> str:
    """A heading as the name of its place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def markdown_block(block: str | Table | Picture | Chart) -> str:
    return str(_templates().get_template("block.md.jinja").module.show(block))


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\|*`[]" else c for c in html.escape(text, quote=False).replace("\n", " "))


@cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=lambda name: name.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters["plain"] = plain
    for kind in (Table, Picture, Chart, Code):
        templates.tests[kind.__name__.lower()] = lambda block, kind=kind: isinstance(block, kind)
    return templates
