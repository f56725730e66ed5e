"""What an installed wheel has to do without any extra; run by .ci/run outside of the checkout."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path


def cnnlive_command(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def main() -> None:
    import cnnlive  # noqa: PLC0415 - what it imports is looked at below

    installed = Path(cnnlive.__file__).resolve()
    assert Path(sys.prefix).resolve() in installed.parents, f"{installed} is not the installed wheel"
    loaded = {"numba", "networkx", "numpy", "rich"} & set(sys.modules)
    assert not loaded, f"import cnnlive has imported {loaded}"
    for name in ("onnx", "tflite", "torch"):
        assert importlib.util.find_spec(name) is None, f"{name} is here; this is to be without extras"

    plan = cnnlive.plan_inference(cnnlive.zoo.load("vgg16"))
    assert plan.peak_bytes == 579_120_288, plan
    assert (installed.parent / "py.typed").exists()

    for form, read in (("onnx", cnnlive.read_onnx), ("tflite", cnnlive.read_tflite)):
        message = ""
        try:
            read(f"model.{form}")
        except cnnlive.errors.MissingExtraError as error:
            message = str(error)
        assert f"cnnlive[{form}]" in message, f"without {form} its reader does not name the extra: {message!r}"

    answer = json.loads(cnnlive_command("cnnlive", "inference", "vgg16", "--json"))
    assert answer["peak_bytes"] == 579_120_288, answer["peak_bytes"]
    arena = json.loads(cnnlive_command("cnnlive", "arena", "mobilenet_v2", "--dtype", "int8", "--fuse", "--json"))
    assert (arena["arena_bytes"], arena["status"]) == (1_505_280, "optimal"), arena
    order = json.loads(cnnlive_command("cnnlive", "order", "nasnet_a", "--json"))
    assert (order["peak_bytes"], order["status"]) == (1_769_472, "optimal"), order
    assert "tinyengine" in cnnlive_command("cnnlive", "compare", "mobilenet_v2", "--dtype", "int8")
    assert "resnet50" in cnnlive_command(sys.executable, "-m", "cnnlive", "zoo")
    failed = subprocess.run(["cnnlive", "inference", "x.onnx"], check=False, capture_output=True, text=True)
    assert failed.returncode == 2, failed
    assert "cnnlive[onnx]" in failed.stderr, failed.stderr
    assert failed.stderr.count("\n") == 1, failed.stderr
    print(f"smoke test passed: cnnlive {cnnlive.__version__}, Python {sys.version.split()[0]}, no extras")


if __name__ == "__main__":
    main()
