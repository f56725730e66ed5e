"""How the site is built: ``make docs``, or ``python -m sphinx -W --keep-going -b html docs build/docs``.

Pages are Markdown that a code host shows as well, so what only Sphinx understands is here: the navigation, links to
files outside of this folder, and where names of docstrings lead. Nothing is fetched: no inventories of other
projects, no fonts, no scripts from elsewhere.
"""

from __future__ import annotations

import os
import pydoc
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import TextLexer
from sphinx import addnodes
from sphinx.util.nodes import make_refnode

import cnnlive
from cnnlive._types import Columns

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

# ---------------------------------------------------------------------------------- the site

project = "cnnlive"
author = "The cnnlive engineers"
project_copyright = author
version = release = cnnlive.__version__

# The order in which the pages are read. Every page stands here once; index.md says in words what they are.
NAVIGATION: dict[str, tuple[str, ...]] = {
    "Start": ("tutorial", "what-is-counted", "command-line"),
    "How-tos": tuple(
        f"howto/{page}"
        for page in ("nas-constraint", "microcontroller-arena", "fit-a-gpu", "checkpoint-a-model",
                     "register-an-operator", "add-a-search-space", "add-a-profile")
    ),
    "Guides": ("training", "checkpoints", "costs", "order", "arena", "profiles", "tflite", "nas", "report", "plots"),
    "Theory": tuple(f"theory/{page}" for page in ("liveness", "training-step", "orders", "arenas", "frontiers")),
    "Reference": ("reference/index", "operators", "json"),
    "Project": ("benchmarks", "performance", "project/contributing", "project/architecture", "project/changelog"),
}  # fmt: skip

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
nitpicky = True
# Alerts, `> [!NOTE]`, are what a code host shows as boxes too; headings have the anchors that it gives them.
myst_enable_extensions = ["alert"]
myst_heading_anchors = 4
# What only MyST reads would vanish or turn into something else: a line that begins with `% of`, say.
myst_disable_syntax = ["myst_line_comment", "myst_block_break", "myst_target", "myst_role"]
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output stay out of what is copied

# ---------------------------------------------------------------------------------- docstrings

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types and shapes stand in the docstrings, where they say more
autodoc_preserve_defaults = True
autosummary_generate = False  # the tables alone; every name has its place in a page of the reference
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes are a list in the class; as objects they would stand there twice
napoleon_use_rtype = False
default_role = "py:obj"  # `name` is a link where such a name exists, and code where it does not

# ---------------------------------------------------------------------------------- looks

html_theme = "furo"
html_title = "cnnlive"
html_static_path = ["_static"]
html_css_files = ["cnnlive.css"]
html_copy_source = False
html_show_search_summary = False  # excerpts are fetched, which pages opened as files may not
html_show_sourcelink = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "github-dark"

# ---------------------------------------------------------------------------------- links between files

# Files outside of this folder that are pages of the site, so that a link to one leads there.
PAGES = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "CONTRIBUTING.md": DOCS / "project/contributing.md",
    ROOT / "ARCHITECTURE.md": DOCS / "project/architecture.md",
    ROOT / "CHANGELOG.md": DOCS / "project/changelog.md",
}
FENCED = re.compile(r"(^ *```.*?^ *```)", re.M | re.S)
DATA = re.compile(r"^\.\. py:data:: (\S+)\n(?:\n(?:   .*\n)+)?(?=\n)\n", re.M)
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^()\s#]+)(#[^()\s]*)?\)")


def read_page(app: Any, docname: str, source: list[str]) -> None:
    """Give a page of another folder its text, the first page the navigation, and links the files that they mean."""
    path = Path(app.env.doc2path(docname))
    if path.suffix != ".md":
        source[0] = DATA.sub(lambda found: found[0] + entries(found[1]), source[0])
        return
    text, origin = source[0], path
    for file, page in PAGES.items():
        if page == path and docname != "index":
            text, origin = file.read_text(encoding="utf-8"), file
            app.env.note_dependency(str(file))
    parts = FENCED.split(text)
    # A blank line before the end of a fence is for doctest alone.
    parts[1::2] = [re.sub(r"\n\s*\n( *```)$", r"\n\1", part) for part in parts[1::2]]
    parts[::2] = [LINK.sub(lambda found: link(found, origin, path), part) for part in parts[::2]]
    text = "".join(parts)
    if docname == "index":
        for caption, pages in NAVIGATION.items():
            text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
    source[0] = text


def entries(name: str) -> str:
    """Return a list of a constant's keys and what they mean, where it says so."""
    value = pydoc.locate(name)
    words = value.items() if isinstance(value, dict) else ()
    return "".join(f"   - ``{key}``: {word}\n" for key, word in words if isinstance(word, str)) + "\n"


def link(found: re.Match[str], origin: Path, page: Path) -> str:
    """Return a link that stands in the file `origin` as it leads from `page` to the same place."""
    words, target, anchor = found[1], found[2], found[3] or ""
    if re.match(r"[a-z]+:", target):
        return found[0]
    file = Path(os.path.normpath(origin.parent / target))
    if file.is_dir():
        return words
    file = PAGES.get(file, file)
    return f"[{words}]({Path(os.path.relpath(file, page.parent)).as_posix()}{anchor})"


# ---------------------------------------------------------------------------------- links of docstrings

NO_SPACE = "\u200b"
MODULES = re.compile(r"^cnnlive\.(?:[a-z_0-9]+\.)*(?=\w+)")
# What docstrings may name though no page shows it: modules, and what lies below the public names.
BELOW = re.compile(r"cnnlive\._\w+|cnnlive\.(tape|nas\.labels|nas\.search)\b|fnmatch$")


def set_free(app: Any, doctree: nodes.document) -> None:
    """Mark names in code and types, which may lead nowhere, and let them lead to nothing but what they say in full.

    Names are shown as they are used, without the modules that define them; fields of a class are its attributes.
    """
    for label in doctree.findall(nodes.field_name):
        if label.astext() == "Variables":
            label[0] = nodes.Text("Attributes")
    for text in list(doctree.findall(nodes.Text)):
        if NO_SPACE in text:
            text.parent.replace(text, nodes.Text(text.replace(NO_SPACE, " ")))
    for node in doctree.findall(addnodes.pending_xref):
        if node.get("refdomain") == "py":
            node["free"] = node["reftype"] == "obj" or "refspecific" in node
            if not node.get("refexplicit") and node["reftype"] not in ("obj", "mod"):
                for text in list(node.findall(nodes.Text)):
                    text.parent.replace(text, nodes.Text(MODULES.sub("", text)))
            node.attributes.pop("refspecific", None)  # a name alone would be any object's that ends so


def resolve(app: Any, env: Any, node: Any, content: nodes.TextElement) -> nodes.Node | None:
    """Find an object that is named by where it is defined, or by its last words alone, under its public name.

    Fields stand in the list of their class: a reference to one leads to the class.
    """
    if node.get("refdomain") != "py" or (node["free"] and not re.search(r"[A-Z_.]", node["reftarget"])):
        return None
    objects = env.domains.python_domain.objects
    name = MODULES.sub("", node["reftarget"])
    if node["reftype"] == "attr":
        owner, _, field = name.rpartition(".")
        name = owner or node.get("py:class", "")
    ends = [full for full, found in objects.items()
            if full.endswith(f".{name}") and found.objtype != "module" and not found.aliased]  # fmt: skip
    if len(ends) != 1 or (node["reftype"] == "attr" and field not in dir(pydoc.locate(ends[0]))):
        return None
    found = objects[ends[0]]
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, content, ends[0])


def link_code(app: Any, doctree: nodes.document, docname: str) -> None:
    """Let code that is a public name, such as `plan_training` or `Graph.hold`, lead to the reference.

    A word that may be just that, such as `fits`, does not.
    """
    objects = app.env.domains.python_domain.objects
    for code in list(doctree.findall(nodes.literal)):
        text = code.astext().removesuffix("()")
        name = text if text.startswith("cnnlive.") else f"cnnlive.{text}"
        if name not in objects or objects[name].objtype == "module" or not re.search(r"[A-Z_.]", text):
            continue
        if isinstance(code.parent, nodes.TextElement) and not isinstance(code.parent, nodes.reference | nodes.title):
            found = objects[name]
            place = make_refnode(app.builder, docname, found.docname, found.node_id, code.deepcopy(), name)
            code.replace_self(place)


def may_lead_nowhere(app: Any, domain: Any, node: Any) -> bool:
    """Say whether nothing is wrong if a name has no place in the reference."""
    return node.get("refdomain") == "py" and (node["free"] or BELOW.match(node["reftarget"]) is not None)


def leave_out(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out fields of named tuples that have no words of their own."""
    return True if (getattr(value, "__doc__", None) or "").startswith("Alias for field number") else None


def without_constructor(
    app: Any, what: str, name: str, value: Any, options: Any, args: str | None, returned: str | None
) -> tuple[str, None] | None:
    """Leave out how results and columns are constructed: planners and ``of`` make them."""
    return ("", None) if what == "class" and issubclass(value, Columns) else None


def join_names(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Make one of names that share a line of a list of attributes; :func:`set_free` puts the spaces back."""
    start = next((i for i, line in enumerate(lines) if line.strip() == "Attributes"), len(lines))
    for i in range(start, len(lines)):
        lines[i] = re.sub(r"^ *\w+(?:, \w+)+(?= : )", lambda found: found[0].replace(", ", f",{NO_SPACE}"), lines[i])


def setup(app: Any) -> dict[str, bool]:
    """Connect what stands above."""
    app.add_lexer("csv", TextLexer)  # Pygments has none
    app.connect("source-read", read_page)
    app.connect("doctree-read", set_free)
    app.connect("missing-reference", resolve)
    app.connect("doctree-resolved", link_code)
    app.connect("warn-missing-reference", may_lead_nowhere)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-signature", without_constructor)
    app.connect("autodoc-process-docstring", join_names, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
