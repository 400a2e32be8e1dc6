"""The site: `uv run --group docs sphinx-build -W docs site`."""
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from generate import write_pages  # noqa: E402

import nolabel  # noqa: E402, F401 (makes ssl.pretrain importable beside the standard library's ssl)

project, author, language = "nolabel", "The nolabel authors", "en"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["notebooks"]
html_theme = "furo"
html_title = "nolabel"
html_show_sphinx = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
suppress_warnings = ["myst.header"]  # a page that includes another file


PAGES = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changelog.md"}  # of the repository → of the site


def setup(app) -> None:
    write_pages(HERE / "generated")
    app.connect("source-read", link_files)


def link_files(app, page: str, source: list[str]) -> None:
    """Markdown files outside of docs/, and notebooks, are no pages of the site: links to them give the files."""
    def target(found: re.Match) -> str:
        return f"]({PAGES.get(found[1], f'<path:{found[1]}>')})"

    source[0] = re.sub(r"\]\((\.\./[^)#]+\.md|[^)#]+\.ipynb)\)", target, source[0])
