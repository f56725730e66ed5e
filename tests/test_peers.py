"""The comparison with other tools: what of it needs none of them."""

import json
import sys
from pathlib import Path

import networkx as nx
import pytest

import cnnlive
from cnnlive.nas import spaces

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks is a folder of scripts, no installed package

from benchmarks.peers import compare, networkx_liveness, tables  # noqa: E402 - after the path is set

SMALL = [("resnet18", {}), ("squeezenet1_1", {}), ("unet", {"width": 8}), ("darts_v2", {"layers": 3, "channels": 4})]
PLAIN = cnnlive.Profile("plain", "liveness; the caller keeps the input", keeps_inputs=True, batch_counters=True)


@pytest.mark.parametrize(("name", "options"), SMALL)
def test_liveness_over_networkx_is_plain_liveness(name, options):
    graph = cnnlive.zoo.load(name, resolution=64, **options)
    dag = networkx_liveness.dag_of(networkx_liveness.rows_of(graph))
    assert nx.is_directed_acyclic_graph(dag)
    assert networkx_liveness.peak(dag) == cnnlive.plan_inference(graph).activation_peak_bytes


def test_liveness_over_networkx_counts_what_is_kept_and_what_works_in_place():
    rows = [("image", 10, "image", ()), ("wide", 40, "wide", ("image",)), ("relu", 0, "wide", ("wide",)),
            ("narrow", 5, "narrow", ("relu",)), ("sum", 5, "sum", ("narrow", "image"))]  # fmt: skip
    dag = networkx_liveness.dag_of(rows)
    assert networkx_liveness.peak(dag) == 55  # the image is read again by the sum
    assert networkx_liveness.peak(networkx_liveness.dag_of(rows[:4])) == 50
    assert networkx_liveness.peak(networkx_liveness.dag_of(rows[:4]), ["image"]) == 55


def test_the_candidates_written_for_networkx_are_those_of_the_space():
    space = spaces.nasbench_macro()
    for x in space.random(20, rng=1):
        dag, weights = networkx_liveness.macro_dag(x)
        plan = cnnlive.plan_inference(space.graph(x), profile=PLAIN)
        assert weights == plan.weight_bytes
        assert networkx_liveness.peak(dag, ["image"]) == plan.activation_peak_bytes


def results():
    """Make results of two tools and two nets."""

    def row(tool, question, net, value, seconds):
        return {"tool": tool, "question": question, "net": net, "value": value, "seconds": seconds}

    ours, peer, name = "cnnlive, from the module", "peer", "cnnlive, from a name"
    rows = [row(ours, q, net, v, 0.02) for net in "ab" for q, v in (("training", 300), ("inference", 200))]
    rows += [row(ours, "counts", net, [7, 1000], 0.02) for net in "ab"]
    rows += [row(name, "inference", net, 200, 0.004) for net in "ab"]
    rows += [row(peer, "training", "a", 600, 0.5), row(peer, "inference", "a", 200, 0.3)]
    rows += [{"tool": peer, "question": "training", "net": "b", "fails": "KeyError: it | breaks"}]
    rows += [row(peer, "inference", "b", 220, 0.3), *(row(peer, "counts", net, [7, 1000], 0.001) for net in "ab")]
    truth = {"training": 300, "inference": 200, "counts": [7, 1000], "seconds": {"training": 9.0, "inference": 3.0}}
    return {
        "machine": "a machine, 2 cores", "versions": {"peer": "1.0"}, "batch": 8, "cold_net": "a",
        "questions": {"training": "", "inference": "", "counts": ""}, "tools": {ours: "", peer: "sums"},
        "nets": {"a": [3, 8, 8], "b": [3, 8, 8]}, "truth": {"a": truth, "b": truth}, "answers": rows,
        "search": {"space": "s", "prepared": 0.1, "rows": {
            "cnnlive, each candidate's graph planned": {"per_second": 100.0, "worst": 0.0},
            "networkx": {"per_second": 1000.0, "worst": -0.25}}},
        "beyond": [{"tool": ours, "question": "training", "net": "loops", "fails": "ReadError: no"},
                   {"tool": peer, "question": "training", "net": "loops", "fails": None}],
        "cold": [{"tool": name, "question": "training", "seconds": 0.5},
                 {"tool": f"{name}, kernels not compiled yet", "question": "training", "seconds": 30.0},
                 {"tool": peer, "question": "training", "seconds": 2.0}],
        "seconds": 60.0,
    }  # fmt: skip


def test_the_short_table_has_a_row_for_each_tool_with_times_errors_and_failures():
    text = tables.short(results())
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["cnnlive, from the module"].count("exact") == 3
    assert "| 500 ms | +100 %, worst +100 %; fails on 1 of 2 |" in rows["peer"]
    assert rows["peer"].endswith("| 2 s |")
    assert (
        rows["cnnlive, from a name"]
        == "| cnnlive, from a name |  |  | 4 ms | exact |  |  | 500 ms; 30 s the first time |"
    )
    assert not any("compiled" in row for row in rows)
    assert "| 9 s | the truth |" in rows["a real run, measured"]
    assert "a machine, 2 cores; peer 1.0" in text.replace("\n", " ")
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 120


def test_what_is_lost_is_said():
    said = " ".join(tables.lost(results()))
    assert "MACs of a module: peer is as exact and quicker on 2 of 2 nets (a, b)." in said
    assert "Parameters: peer is as exact." in said
    assert "compiles kernels, 30 s; peer takes less." in said
    assert "networkx, does 1,000 candidates a second, -25 % off at worst" in said
    assert "A module with loops is an error in cnnlive; peer answers." in said
    assert "The peak" not in said  # the peer is slower there, and off


def test_a_peer_that_is_off_or_fails_is_never_said_to_win():
    made = results()
    for row in made["answers"]:
        if row["tool"] == "peer" and row["question"] == "counts":
            row["value"] = [7, 1001]
    assert "MACs" not in " ".join(tables.lost(made))


def test_the_long_tables_have_every_net_and_the_reason_of_each_failure():
    text = tables.full(results())
    assert "| a | 300 | exact | +100 % |" in text
    assert "| b | 300 | exact | fails: KeyError |" in text
    assert "| cnnlive, from the module | fails: `ReadError: no` |" in text
    assert all(line.count(" | ") == 2 for line in text.splitlines() if line.startswith("| networkx"))


def test_errors_and_times_are_worded():
    assert tables.error([(5, 5), (7, 7)]) == "exact"
    assert tables.error([(5, 5), (10**9 + 8, 10**9)]) == "exact but for 8 B"
    assert tables.error([(110, 100), (90, 100), (250, 100)]) == "+10 %, worst +150 %"
    assert tables.error([(1004, 1000)]) == "+0.40 %, worst +0.40 %"
    assert tables.error([(5, 5), (5, 5), (6, 5)]) == "exact on 2 of 3, worst +20 %"
    assert tables.error([(10**9 + 25_000, 10**9)], "") == "exact but for 25,000"
    times = {None: "", 2.5e-5: "25 µs", 0.0125: "12.5 ms", 0.9991: "999 ms", 0.9996: "1 s", 61: "61 s", 1234: "1,234 s"}
    assert {t: tables.seconds(t) for t in times} == times


def test_tables_are_written_between_their_lines_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers -->\nold\n<!-- /peers -->\nafter\n", encoding="utf-8")
    assert tables.write(page, "new \\1 | text")
    assert page.read_text(encoding="utf-8") == "before\n<!-- peers -->\nnew \\1 | text\n<!-- /peers -->\nafter\n"
    page.write_text("no such lines\n", encoding="utf-8")
    assert not tables.write(page, "new")
    assert page.read_text(encoding="utf-8") == "no such lines\n"


def test_tables_are_made_of_the_last_results_without_measuring(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "peers.json")
    with pytest.raises(SystemExit, match="measure first"):
        compare.main(["--from-results"])
    compare.RESULTS.write_text(json.dumps(results()), encoding="utf-8")
    compare.main(["--from-results"])
    assert capsys.readouterr().out == f"{tables.short(results())}\n\n{tables.full(results())}\n"


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(compare, "PACKAGES", ("numpy", "no_such_tool"))
    with pytest.raises(SystemExit, match="not installed: no_such_tool; `make peers`"):
        compare.main([])


def test_a_fresh_process_with_networkx_alone_answers(capsys):
    compare.main(["--cold", "networkx"])
    space = spaces.nasbench_macro()
    assert int(capsys.readouterr().out) == cnnlive.plan_inference(space.graph([1] * 8), profile=PLAIN).peak_bytes


def test_calls_are_timed_after_one_that_warms_up():
    calls = []

    def call():
        calls.append(None)
        return len(calls)

    answer, seconds = compare.timed(call, budget=0.0)
    assert answer == 2
    assert seconds > 0
    assert len(calls) > 4


def test_modules_of_the_comparison_are_the_zoos_nets():
    torch = pytest.importorskip("torch")
    from benchmarks.peers import nets  # noqa: PLC0415 - needs torch

    for net in nets.NETS.values():
        with torch.device("meta"):
            module = net.make()
        zoo = cnnlive.zoo.load(net.name, **dict(net.options))
        assert sum(p.numel() for p in module.parameters()) == zoo.n_parameters, net.name


def test_cnnlive_answers_alike_in_each_of_its_ways():
    pytest.importorskip("torch")
    from benchmarks.peers import nets, tools  # noqa: PLC0415 - needs torch

    for question in tools.QUESTIONS:
        ways = {t.askers[question](nets.NETS["efficientnet_b0"])() for t in tools.TOOLS if t.package == "cnnlive"}
        assert len(ways) == 1, question


def test_real_runs_are_measured_as_cnnlive_counts():
    torch = pytest.importorskip("torch")
    from benchmarks.peers import tools, truth  # noqa: PLC0415 - needs torch

    nn = torch.nn
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
                           nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))  # fmt: skip
    graph = cnnlive.from_torch(module, (1, 3, 16, 16), train=True)
    assert truth.training(module, (3, 16, 16), tools.BATCH) == cnnlive.plan_training(graph, **tools.STEP).peak_bytes
    graph = cnnlive.from_torch(module, (1, 3, 16, 16))
    assert truth.inference(module, (3, 16, 16)) == cnnlive.plan_inference(graph, profile="torch").peak_bytes
    lowered = cnnlive.lower(graph)
    assert truth.counts(module, (3, 16, 16)) == (lowered.n_parameters, lowered.macs())
