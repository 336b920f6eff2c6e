"""Sphinx configuration: `make docs` builds the pages, drawing every picture anew from toys and digits."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pictures

import manykin

project = "manykin"
author = "manykin contributors"
release = manykin.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.mathjax", "myst_parser"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = "manykin"
html_static_path = ["_static"]
suppress_warnings = ["ref.python"]


def setup(app: object) -> None:
    """Draw the pictures and write the tables that the pages include."""
    pictures.draw_all(Path(__file__).parent / "_static")
    pictures.write_tables(Path(__file__).parent / "_generated")
