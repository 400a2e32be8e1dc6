"""A page of sections as Markdown, and as one HTML file that needs nothing else: the templates are in templates/."""
import base64
import contextlib
import html
import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2

from core.errors import RunError

Section = tuple[str, list]  # heading, and blocks: text, Code, Table, Picture or Chart
EMBEDDED = 750_000  # bytes of all pictures of an HTML page, at most: with the rest a page stays below 1.5 MB


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


@dataclass(frozen=True)
class Chart:
    """A figure as SVG, which takes the page's colors.  name: of its file; small: it stands beside others"""

    name: str
    svg: str
    about: str
    small: bool = False

    @property
    def content(self) -> str:
        """Of the file: for who opens it by itself."""
        return self.svg + "\n"


class Link(str):
    """A table's cell that leads to an address.  href: quoted"""

    href: str

    def __new__(cls, text: str, href: str) -> "Link":
        made = super().__new__(cls, text)
        made.href = href
        return made


class Code(str):
    """A command, shown as it is typed."""

    language = "sh"


class Python(Code):
    """Lines of Python."""

    language = "python"


@dataclass(frozen=True)
class Tile:
    """A large figure, a percentage unless it has another unit, its title above and lines beneath."""

    title: str
    value: str
    lines: list[str]
    unit: str = "%"


@dataclass(frozen=True)
class Page:
    """about: what it is of, in a line; verdict: sentences to read first; tiles: figures before the first section.

    questions: heading → the question that it answers; each is a link above to the first of its sections. A section without
    one has a link of its own heading. Without any there are no links.
    """

    title: str
    about: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    verdict: Sequence[str] = ()
    questions: Mapping[str, str] = field(default_factory=dict)

    @property
    def markdown(self) -> str:
        return _templates().get_template("page.md.jinja").render(page=self)

    @property
    def html(self) -> str:
        links: dict[str, str] = {}
        for heading, _ in self.sections if self.questions else ():
            links.setdefault(self.questions.get(heading, heading), anchor(heading))
        most = EMBEDDED // max(1, sum(isinstance(block, Picture) for block in self.blocks))
        return _templates().get_template("page.html.jinja").render(page=self, links=links, anchor=anchor, most=most)

    def text(self, headings: Collection[str]) -> str:
        """For a terminal: what it is of, the verdict, and the text and tables of these sections."""
        blocks = [block for heading, blocks in self.sections if heading in headings for block in blocks]
        return "\n\n".join([f"# {self.title}", f"{self.about}.", *self.verdict, as_text(blocks)]).rstrip()

    @property
    def blocks(self) -> list:
        return [block for _, blocks in self.sections for block in blocks]

    @property
    def files(self) -> dict[str, str | bytes]:
        """report.md, report.html and the figures, by name."""
        figures = {block.name: block.png for block in self.blocks if isinstance(block, Picture)}
        figures |= {block.name: block.content for block in self.blocks if isinstance(block, Chart)}
        return {"report.md": self.markdown, "report.html": self.html, **figures}


def signed(value: float, form: str = "+.1f") -> str:
    """A difference, with the sign of minus that figures have."""
    return f"{value:{form}}".replace("-", "−")


def write_report(write: Callable[[str, str | bytes], None], make: Callable[[], Page]) -> Page | None:
    """Make a page and write its files.  None where that fails: it is noted, and what is finished stays so.

    Raises RunError, as of a full disk.
    """
    with noting("no report"):
        page = make()
        for name, content in page.files.items():
            write(name, content)
        return page
    return None


def optional(what: str, make: Callable[[], list[Section]]) -> list[Section]:
    """Sections that a page can be without: none where making them fails, with a note."""
    with noting(f"the report is without {what}"):
        return make()
    return []


@contextlib.contextmanager
def noting(what: str) -> Iterator[None]:
    """An error inside is a note that begins with `what`. A RunError is raised."""
    from core.run import log_line

    try:
        yield
    except RunError:
        raise
    except Exception as error:  # of pictures, of data that nobody foresaw: no reason to fail what is done
        log_line(f"note: {what} ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})")


def anchor(heading: str) -> str:
    """A heading as the name of its place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def as_text(blocks: Sequence) -> str:
    """For a terminal, without the figures."""
    return "\n\n".join(_text(block) for block in blocks if not isinstance(block, Picture | Chart))


def _text(block: str | Table) -> str:
    if not isinstance(block, Table):
        return block
    head, *rows = (f"| {' | '.join(line)} |" for line in [block.head, *block.rows])
    return "\n".join([head, "|---" * len(block.head) + "|", *rows])


def markdown_block(block: str | Table | Picture | Chart) -> str:
    return str(_templates().get_template("block.md.jinja").module.show(block))


def cell(text: str) -> str:
    """A table's cell in Markdown."""
    return f"[{plain(text)}]({text.href})" if isinstance(text, Link) else plain(text)


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\|*`[]" else c for c in html.escape(text, quote=False).replace("\n", " "))


def address(png: bytes, most: int) -> str:
    """A data URI of a picture: of the PNG itself up to `most` bytes, else of a WebP, as large as fits."""
    if len(png) <= most:
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"
    from PIL import Image

    image, shrunk = Image.open(io.BytesIO(png)).convert("RGB"), b""
    for step in range(12):
        size = [max(1, round(side * 0.8**step)) for side in image.size]
        image.resize(size, Image.Resampling.LANCZOS).save(buffer := io.BytesIO(), "WEBP", quality=80)
        shrunk = buffer.getvalue()
        if len(shrunk) <= most:
            break
    return f"data:image/webp;base64,{base64.b64encode(shrunk).decode()}"


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
    templates.filters |= {"plain": plain, "cell": cell, "address": address}
    for kind in (Table, Picture, Chart, Code, Link):
        templates.tests[kind.__name__.lower()] = lambda block, kind=kind: isinstance(block, kind)
    return templates
