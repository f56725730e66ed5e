"""Write what is generated of the documentation, then build the site of it: ``make docs`` runs it.

A warning is an error. So are a link inside the site that leads nowhere, and a page that fetches anything from
elsewhere: the site works without a network.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build/docs"
FETCHED = re.compile(r"<(?:script|img|iframe|source|video)\b[^>]*?\bsrc=[\"'](?:https?:)?//[^\"']+"
                     r"|<link\b[^>]*?\brel=[\"'](?:stylesheet|preload|preconnect|icon)[^>]*?\bhref=[\"'](?:https?:)?//[^\"']+"
                     r"|@import[^;]*//[^;]+|url\([\"']?(?:https?:)?//[^)]+")  # fmt: skip


def fetched(site: Path) -> list[str]:
    """Return what the pages and style sheets of a site would fetch from elsewhere."""
    return [
        f"{path.relative_to(site)}: {found}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css", ".svg")
        for found in FETCHED.findall(path.read_text(encoding="utf-8"))
    ]


def broken(site: Path) -> list[str]:
    """Return the links of a site to files and anchors of its own that are not there."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    anchors = {path: set(re.findall(r"\bid=\"([^\"]+)\"", text)) for path, text in texts.items()}
    found = []
    for page, text in texts.items():
        for link in sorted(set(re.findall(r"\b(?:href|src)=\"([^\"]+)\"", text))):
            if re.match(r"[a-z]+:|//", link):
                continue
            name, _, anchor = unquote(link).partition("#")
            name = name.partition("?")[0]
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and target in anchors and anchor not in anchors[target]):
                found.append(f"{page.relative_to(site.resolve())}: {link}")
    return found


def main() -> None:
    for tool in ("generate_docs.py", "figures.py"):
        subprocess.run([sys.executable, str(ROOT / "tools" / tool)], check=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", "build/doctrees"]
    command += ["docs", str(SITE)]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise SystemExit("the site has warnings, above; they are errors")
    if elsewhere := fetched(SITE):
        raise SystemExit("\n".join(["the site fetches from elsewhere:", *elsewhere]))
    if nowhere := broken(SITE):
        raise SystemExit("\n".join(["links that lead nowhere:", *nowhere]))
    print(f"built {len(list(SITE.rglob('*.html')))} pages: {SITE.relative_to(ROOT)}/index.html")


if __name__ == "__main__":
    main()
