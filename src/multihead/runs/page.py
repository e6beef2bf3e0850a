"""HTML pages for people: each is one file without scripts that fetches nothing."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import multihead

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render_page(template: str, **values: Any) -> str:
    """A page from a template of the package; texts are escaped.

    Args:
        template: Its path in the package, such as ``comparing/report.html``.
        **values: The values that the template shows.
    """
    package = Path(multihead.__file__).parent
    environment = Environment(
        loader=FileSystemLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def embedded(figure: Figure) -> str:
    """A figure of matplotlib as the address of an image that holds the image itself."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", bbox_inches="tight", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
