"""The site's build: ``sphinx-build -n -W --keep-going -b html docs <folder>``."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import fastmlp
from docs.tools import uses

# Pages of its functions are found by the name by which users import it.
sys.modules["fastmlp.jit"] = fastmlp.jit

project = "fastmlp"
author = "the fastmlp developers"
copyright = f"2026, {author}"
release = version = fastmlp.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "docs.tools.links",
    "docs.tools.llms",
    "docs.tools.meta",
    "docs.tools.search",
]
default_role = "literal"
smartquotes = False
highlight_language = "none"
toc_object_entries_show_parents = "hide"

exclude_patterns = ["_build", "gallery"]
templates_path = ["_templates"]

alone = (
    "benchmarks",
    "benchmarks-fair",
    "benchmarks-how",
    "benchmarks-yours",
    "mixed-precision",
    "parameters",
    "recipe",
    "remedies",
    "second-order",
    "steps",
    "stream",
    "tables",
)
side_by_side = (
    "from/boosted-trees",
    "from/emlearn",
    "from/keras",
    "from/pytorch",
    "how-to/norms",
    "how-to/residual-nets",
    "how-to/two-heads",
)
html_theme = "pydata_sphinx_theme"
html_title = f"fastmlp {release}"
html_baseurl = "https://fastmlp.github.io/fastmlp/"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_search_scorer = str(Path(__file__).parent / "tools" / "scorer.js")
html_css_files = ["fastmlp.css"]
html_js_files = ["parameters.js"]
html_theme_options = {
    "github_url": "https://github.com/fastmlp/fastmlp",
    "header_links_before_dropdown": 9,
    "logo": {"text": "fastmlp"},
    "navbar_persistent": ["search-button"],
    "navigation_with_keys": False,
    "show_prev_next": False,
    # Pages of wide tables, or of code side by side, have no column beside them.
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        **{page: [] for page in (*alone, *side_by_side, "index", "search")},
    },
}
html_sidebars: dict[str, list[str]] = {page: [] for page in (*alone, "index")}
html_show_sourcelink = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"
# Without river the signatures of fastmlp.river are not told.
autodoc_mock_imports = [] if find_spec("river") else ["river"]
autosummary_generate = True
autosummary_context = {"pages_of": uses.pages_of()}
numpydoc_show_class_members = False


def skip_inherited(
    app: Any, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
    """Leave out the methods of scikit-learn and river, which their sites document,
    and a tuple's numbers.
    """
    module = getattr(getattr(thing, "fget", thing), "__module__", None) or ""
    text = getattr(thing, "__doc__", None) or ""
    theirs = module.startswith(("sklearn.", "river."))
    return theirs or text.startswith("Alias for field") or None


def setup(app: Any) -> None:
    app.connect("autodoc-skip-member", skip_inherited)


sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "doc_module": ("fastmlp",),
    "min_reported_time": 5,
    "show_memory": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "image_srcset": ["2x"],
    "thumbnail_size": (600, 540),
    "reset_modules": ("matplotlib", "docs.tools.pictures.style"),
    "ignore_repr_types": r"matplotlib",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
