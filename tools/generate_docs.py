"""Write the generated pages of docs/: the operator table. ``make docs`` runs it."""

from __future__ import annotations

from pathlib import Path

from cnnlive.report.operators import operators_markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {"operators.md": operators_markdown}


def main() -> None:
    for name, text in PAGES.items():
        (DOCS / name).write_text(text(), encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
