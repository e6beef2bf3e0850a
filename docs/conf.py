"""The site. ``sphinx-build -W -n docs build/site`` builds it; ``-D nb_execution_mode=off`` runs no chapter."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages

import multihead
from multihead.serving.static_page import write_static

project = "Multihead"
version = release = multihead.__version__
author = "The authors of Multihead"
copyright = "the authors of Multihead, Apache-2.0"
html_title = "Multihead"

extensions = [
    "myst_nb",  # Markdown, and the chapters, which are Python files
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["conf.py", "pages.py", "examples", "learn/_*"]
smartquotes = False  # quotation marks of commands stay as they are typed
html_theme = "furo"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

# Markdown
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

# Chapters: Python files with cells. MULTIHEAD_GUIDE=full runs them with the sizes that their text speaks of.
nb_custom_formats = {".py": "pages.chapter"}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of libraries; an error ends the build

# Python
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "code"
nitpick_ignore_regex = [
    ("py:.*", r"(?!multihead\.).*"),  # names of other packages have no page here
    ("py:.*", r"multihead\.config\..*"),  # their keys are on the page of the configuration
    ("py:.*", r".*\.SettingsT"),  # a type variable
]

# Everything that a page needs lies in the folder, so that the site is read without a network.
_mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
assert _mathjax is not None and _mathjax.origin is not None, "the extra `docs` brings sphinx-mathjax-offline"
html_static_path = [str(Path(_mathjax.origin).parent / "static" / "mathjax" / "tex-svg.js")]
mathjax_path = "tex-svg.js"
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True


def setup(app):
    """Fills the pages that are read from the code, and adds the page for the browser with recorded answers."""

    def on_read(app, name: str, source: list[str]) -> None:
        source[0] = pages.fill(source[0])

    def on_built(app, error: Exception | None) -> None:
        if error is None and app.builder.name == "html":
            write_static(Path(app.outdir) / "page", Path(__file__).parent / "page_recorded.json")

    app.connect("source-read", on_read)
    app.connect("build-finished", on_built)
