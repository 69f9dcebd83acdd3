"""Formulas as MathML, which browsers draw by themselves: Sphinx's own renderers fetch a script or need LaTeX."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)


def _drawn(node: nodes.Element, *, as_block: bool) -> str:
    try:
        formula: str = tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        _log.warning("formula %s: %s", node.astext(), error, location=node)
        return ""
    return formula


def _inline(visitor: Any, node: nodes.math) -> None:
    visitor.body.append(_drawn(node, as_block=False))
    raise nodes.SkipNode


def _block(visitor: Any, node: nodes.math_block) -> None:
    visitor.body.append(f'<div class="formula">{_drawn(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
