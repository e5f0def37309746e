"""Sphinx's settings for the site that `make book` builds; its sources are made by course_lib/book."""

import course_lib
from course_lib.book import docstrings

project = html_title = "Compressing deep networks"
author = "The course authors"
release = course_lib.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx-mathjax-offline", "sphinx_copybutton"]
root_doc = "index"
default_role = "code"  # of the docstrings' `names`

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # else scripts come from elsewhere
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "sphinx_book_theme"
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "show_navbar_depth": 1,
    "collapse_navbar": True,  # else every page lists every module
    "max_navbar_depth": 2,
    "navbar_persistent": [],
    "article_header_end": ["article-header-buttons"],
}
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = [("panel.js", {"defer": "defer"})]
html_copy_source = True
html_use_index = html_domain_indices = False  # pages are found by search
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app):
    """Lets docstrings be read as they are written, in plain text, before napoleon reads their sections."""
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)
    app.connect("autodoc-skip-member", docstrings.skip)
