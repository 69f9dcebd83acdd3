"""How Sphinx builds these pages: `make docs`. Nothing is fetched while building, and no page loads anything from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

from cmmixer.version import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "CMMixer"
author = "the authors of CMMixer"
copyright = "the authors of CMMixer, Apache-2.0"  # noqa: A001 - Sphinx's name for it
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "written_pages",
]
exclude_patterns = ["_build", "_ext"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# The package's docstrings put code in single backticks, as Markdown does.
default_role = "code"
# Two hyphens stay two hyphens.
smartquotes_action = "qe"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False

html_theme = "furo"
html_title = "CMMixer"
html_logo = html_favicon = "../src/cmmixer/server/page/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    # The two colours of the service's page: amber is sound, blue is picture.
    "light_css_variables": {
        "color-brand-primary": "#a94d12",
        "color-brand-content": "#285f91",
        "color-brand-visited": "#285f91",
        "color-api-name": "#a94d12",
        "color-api-pre-name": "#a94d12",
        "color-sidebar-link-text": "#3d3a35",
        "color-sidebar-link-text--top-level": "#3d3a35",
    },
    "dark_css_variables": {
        "color-brand-primary": "#efa566",
        "color-brand-content": "#8bbbe6",
        "color-brand-visited": "#8bbbe6",
        "color-api-name": "#efa566",
        "color-api-pre-name": "#efa566",
        "color-sidebar-link-text": "#c9c5bd",
        "color-sidebar-link-text--top-level": "#c9c5bd",
    },
}
