"""Try to import every CNN that torchvision and timm list, and print what does not work and why.

Run: python tools/import_all.py [--package timm] [--limit 50] [--match 'resnet*'] [--train]
Needs torch and the packages. No weights are loaded; models are built without data where their constructors allow it.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import time
import warnings
from typing import Any

from cnnlive.errors import CnnliveError
from cnnlive.io.sources import load_source

# Modules of models that are no CNNs (transformers, perceptrons, optical flow), and of detectors, whose forward takes a
# list of images of any sizes and gives as many boxes as the data has. Named in full: nothing slips out unseen.
EXCLUDED = {
    "timm": {
        "beit", "cait", "deit", "eva", "hiera", "hieradet_sam2", "mlp_mixer", "naflexvit", "pit",
        "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "tnt", "twins", "vision_transformer",
        "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "vitamin", "volo", "xcit",
        "crossvit", "gcvit", "davit", "maxxvit", "mvitv2", "nest", "pvt_v2", "sequencer", "visformer",
        "coat", "convit", "deepseek_vit", "gemma4_vit", "qwen3_vit",
    },
    "torchvision": {
        "vision_transformer", "swin_transformer", "maxvit", "mvit", "raft", "faster_rcnn", "fcos", "keypoint_rcnn",
        "mask_rcnn", "retinanet", "ssd", "ssdlite",
    },
}  # fmt: skip


def models(package: str) -> list[tuple[str, str]]:
    """Return the names that a package lists, each with the module that defines it."""
    if package == "torchvision":
        import torchvision  # noqa: PLC0415 - whichever package is asked for

        found = torchvision.models.list_models()
        return [(n, torchvision.models.get_model_builder(n).__module__.rpartition(".")[2]) for n in found]
    import timm  # noqa: PLC0415

    entries = timm.models._registry._model_entrypoints
    return [(n, entries[n].__module__.rpartition(".")[2]) for n in timm.list_models()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", choices=["torchvision", "timm", "all"], default="all")
    parser.add_argument("--limit", type=int, default=None, help="only so many of each package")
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth")
    parser.add_argument("--match", default="*")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, choices=[1], help="one process; kept for scripts")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for package in ("torchvision", "timm") if args.package == "all" else (args.package,):
        report(package, args)


def report(package: str, args: Any) -> None:
    listed = models(package)
    excluded = collections.Counter(m for _, m in listed if m in EXCLUDED[package])
    names = [(n, m) for n, m in listed if m not in EXCLUDED[package] and fnmatch.fnmatch(n, args.match)]
    names = names[:: args.every][: args.limit]
    failures: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    begin, good = time.perf_counter(), 0
    for name, module in names:
        try:
            load_source(f"{package}:{name}", train=args.train)
            good += 1
        except CnnliveError as error:
            failures[module].append((name, f"{type(error).__name__}: {error}"))
        except Exception as error:
            failures[module].append((name, f"not an error of cnnlive: {type(error).__name__}: {error}"))
    seconds = time.perf_counter() - begin
    share = 100 * good / len(names) if names else 0.0
    print(f"{package}: {good} of {len(names)} imported ({share:.1f} %) in {seconds:.0f} s", flush=True)
    kinds = ", ".join(f"{m} {k}" for m, k in sorted(excluded.items()))
    print(f"  excluded as no CNNs, {sum(excluded.values())}: {kinds}")
    for module, rows in sorted(failures.items()):
        print(f"  {module}: {len(rows)}")
        for name, reason in rows:
            print(f"    {name}: {reason[:300]}")


if __name__ == "__main__":
    main()
