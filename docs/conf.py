"""How Sphinx makes the site of these pages: `make docs`.

The whole repository is its source folder, so that links between README, docs and
source files are the same on the site as where the repository is read.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "tf_finetune"
author = copyright = "The tf_finetune authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "from_code"]
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/*.md", "docs/**"]
# What is not even looked through.
exclude_patterns = [".*", "build", "dist", "pictures", "runs", "site", "tests", "tf_finetune"]
root_doc = "docs/index"

myst_heading_anchors = 3
# A block without a language is a command or what it prints.
highlight_language = "text"
smartquotes = False
# In the docstrings, `one backtick` is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80

# Furo takes fonts and scripts from nowhere but the site itself.
html_theme = "furo"
html_title = "tf_finetune"
html_copy_source = False
html_show_sphinx = False
templates_path = ["_templates"]
html_additional_pages = {"index": "to_the_docs.html"}
