"""Write what is generated of the documentation: ``make docs`` runs it.

The operator table is a page of its own; the table of the founding question stands in the README and that of the
optimizers in docs/training.md, each between two comments. What commands print is written under each of them.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cnnlive
from cnnlive.report.operators import operators_markdown
from cnnlive.report.optimizers import optimizers_markdown

sys.path.insert(0, str(Path(__file__).resolve().parent))

import pages

ROOT = pages.ROOT
PAGES: dict[str, Callable[[], str]] = {"docs/operators.md": operators_markdown}


def founding_markdown() -> str:
    """Return the answers to the founding question: VGG-16, inference and training, beside the rules of thumb."""
    net = cnnlive.lower(cnnlive.zoo.load("vgg16"))
    lines = ["| VGG-16 (D), float32 | exact, in bytes | rule of thumb | off by | peaks in |",
             "| --- | ---: | ---: | ---: | --- |"]  # fmt: skip

    def row(name: str, exact: int, rule: int, where: str) -> None:
        lines.append(f"| {name} | {exact:,} | {rule:,} | {100 * (rule / exact - 1):+.1f} % | {where} |")

    plan = cnnlive.plan_inference(net, profile="torch_fx")
    rule = cnnlive.rules_of_thumb(net)["inference"].nbytes
    row("inference of one image", plan.peak_bytes, rule, f"`{plan.peak_op}`")
    for batch in (1, 8, 16, 32, 64, 128, 256):
        step = cnnlive.plan_training(net, batch=batch, optimizer="adam")
        rule = cnnlive.rules_of_thumb(net, batch=batch)["training_adam"].nbytes
        where = step.peak_phase if step.peak_phase == "optimizer" else f"{step.peak_phase}, `{step.peak_op}`"
        row(f"training with Adam, B = {batch}", step.peak_bytes, rule, where)
    return "\n".join(lines) + "\n"


SECTIONS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "founding"): founding_markdown,
    ("docs/training.md", "optimizers"): optimizers_markdown,
}


def section(text: str, name: str) -> re.Match[str]:
    """Find what stands between the two comments of a section."""
    found = re.search(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", text, re.DOTALL)
    assert found is not None, f"no section {name}"
    return found


def main() -> None:
    for name, text in PAGES.items():
        (ROOT / name).write_text(text(), encoding="utf-8")
        print(f"wrote {name}")
    for (name, part), text in SECTIONS.items():
        page = (ROOT / name).read_text(encoding="utf-8")
        found = section(page, part)
        (ROOT / name).write_text(page[: found.start()] + text() + page[found.end() :], encoding="utf-8")
        print(f"wrote the section {part} of {name}")
    for path in pages.pages():
        with tempfile.TemporaryDirectory() as folder:
            pages.put_models(Path(folder))
            text = pages.rewritten(path, Path(folder))
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"wrote what commands print in {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
