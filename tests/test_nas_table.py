"""Tables of every member of a benchmark's space."""

import csv
import os
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tabled_space import ROWS, Tabled, value

import cnnlive
from cnnlive import cli
from cnnlive.errors import AttributeValueError, MissingExtraError, SpaceError
from cnnlive.nas import spaces, table
from cnnlive.nas.table import COLUMNS, native_name, write_table
from cnnlive.plan.order import minimum_peak


def read(path):
    """Return the header and the rows of a table."""
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        found = parquet.read_table(path)
        return found.column_names, [tuple(row.values()) for row in found.to_pylist()]
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header, [(row[0], *map(int, row[1:])) for row in rows]


def expected(batch=1, train_batch=1, **how):
    return [
        (
            native_name(Tabled(), row),
            *(value(row, m, batch=batch, **how) for m in COLUMNS.values() if "training" not in m),
            *(value(row, m, batch=train_batch) for m in COLUMNS.values() if "training" in m),
        )
        for row in ROWS
    ]


FORMS = ["a.csv", "a.parquet"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [7, 24, 1000])
def test_a_table_has_a_row_for_each_member(tmp_path, form, chunk):
    path = tmp_path / form
    seen = []
    assert write_table(Tabled(), path, chunk=chunk, progress=seen.append) == 24
    header, rows = read(path)
    assert header == ["name", *COLUMNS]
    assert rows == expected()
    assert seen == [*range(chunk, 24, chunk), 24]
    assert os.listdir(tmp_path) == [form]


@pytest.mark.parametrize("form", FORMS)
def test_inference_and_training_are_asked_apart(tmp_path, form):
    path = tmp_path / form
    write_table(Tabled(), path, batch=2, dtype="int8", train_batch=3)
    assert read(path)[1] == expected(2, 3, dtype="int8")
    write_table(Tabled(), str(path), batch=2)
    assert read(path)[1] == expected(2, 2)


def test_a_parquet_file_says_what_its_numbers_are_of(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(Tabled(), tmp_path / "a.parquet", dtype="float16", train_batch=8)
    schema = parquet.read_schema(tmp_path / "a.parquet")
    about = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    assert about["cnnlive.space"] == "tabled"
    assert about["cnnlive.dtype"] == "float16"
    assert (about["cnnlive.batch"], about["cnnlive.train_batch"], about["cnnlive.profile"]) == ("1", "8", "ideal")
    assert "all execution orders" in about["cnnlive.minimum_peak"]
    assert [str(t) for t in schema.types] == ["string"] + ["int64"] * 6


class Failing(Tabled):
    """Fails, or is interrupted, in its third chunk."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def evaluate(self, X, metrics, **how):
        if len(self.asked) >= 4:
            raise self.error
        return super().evaluate(X, metrics, **how)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken"), SystemExit(3)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_an_interrupted_table_leaves_nothing_half_written(tmp_path, form, error, before):
    path = tmp_path / form
    if before is not None:
        path.write_bytes(before)
    seen = []
    with pytest.raises(type(error)):
        write_table(Failing(error), path, chunk=5, progress=seen.append)
    assert seen == [5, 10]
    assert os.listdir(tmp_path) == ([] if before is None else [form])
    assert before is None or path.read_bytes() == before


def test_a_table_needs_a_known_ending(tmp_path):
    for name in ("a.xlsx", "a", "parquet"):
        with pytest.raises(AttributeValueError, match=r"allowed: \.parquet, \.csv"):
            write_table(Tabled(), tmp_path / name)
    write_table(Tabled(), tmp_path / "A.CSV")
    assert (tmp_path / "A.CSV").exists()


def test_a_place_that_cannot_be_written_is_known_at_once(tmp_path):
    space = Tabled()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.csv"):
        write_table(space, tmp_path / "nowhere" / "a.csv")
    with pytest.raises(IsADirectoryError, match=r"folder\.csv"):
        write_table(space, tmp_path / "folder.csv")
    assert not space.asked


def test_csv_needs_nothing_and_parquet_says_what(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    space = Tabled()
    with pytest.raises(MissingExtraError, match=r"cnnlive\[table\]"):
        write_table(space, tmp_path / "a.parquet")
    assert not space.asked
    assert os.listdir(tmp_path) == []
    assert write_table(space, tmp_path / "a.csv") == 24


def test_a_name_is_a_text():
    space = Tabled()
    space.text = lambda _: {"depth": 2}
    with pytest.raises(SpaceError, match="have no text as name: {'depth': 2}"):
        native_name(space, ROWS[0])


# ---------------------------------------------------------------------------------- the command


def run(*arguments):
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], catch_exceptions=False)


def complaint(*arguments):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"cnnlive: error: .*\n", result.stderr)
    return result.stderr


@pytest.mark.parametrize("form", FORMS)
def test_the_command_writes_a_table(tmp_path, monkeypatch, form):
    asked = []
    monkeypatch.setattr(table, "benchmark", lambda name, **arguments: asked.append((name, arguments)) or Tabled())
    out = tmp_path / form
    how = ["--batch", 2, "--dtype", "int8", "--train-batch", 3, "--set", "dataset=cifar100"]
    result = run("nasbench-memory", "nasbench201", "--out", out, *how)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"24 rows: {out}\n", "")
    assert read(out)[1] == expected(2, 3, dtype="int8")
    assert asked == [("nasbench201", {"dataset": "cifar100"})]


def test_the_command_fails_in_one_line(tmp_path, monkeypatch):
    words = complaint("nasbench-memory", "nasbench202", "--out", tmp_path / "a.csv")
    assert "unknown benchmark 'nasbench202'; did you mean nasbench201" in words
    assert "allowed: nasbench101, nasbench201, nats_size, nasbench_macro" in words
    monkeypatch.setattr(table, "benchmark", lambda *_, **__: Tabled())
    assert "ending of no table" in complaint("nasbench-memory", "nats_size", "--out", tmp_path / "a.txt")
    assert "nowhere/a.csv: No such file" in complaint(
        "nasbench-memory", "nats_size", "--out", tmp_path / "nowhere/a.csv"
    )
    assert "float17" in complaint("nasbench-memory", "nats_size", "--out", tmp_path / "a.csv", "--dtype", "float17")
    assert "--out" in complaint("nasbench-memory", "nats_size")
    assert list(Path(tmp_path).iterdir()) == []


def test_control_c_ends_the_command_with_130_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "benchmark", lambda *_, **__: Failing(KeyboardInterrupt()))
    monkeypatch.setattr(table.write_table, "__kwdefaults__", {**table.write_table.__kwdefaults__, "chunk": 5})
    result = run("nasbench-memory", "nasbench101", "--out", tmp_path / "a.csv")
    assert result.exit_code == 130
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------- the benchmarks themselves


def planned(graph):
    order = cnnlive.plan_inference(graph)
    return (
        graph.n_parameters, order.macs, order.activation_peak_bytes, minimum_peak(graph),
        cnnlive.plan_training(graph, batch=4, optimizer="sgd").peak_bytes,
        cnnlive.plan_training(graph, batch=4, optimizer="adam").peak_bytes,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "n"), [("nasbench201", 15_625), ("nats_size", 32_768), ("nasbench_macro", 6_561)])
def test_a_row_is_what_planning_its_net_gives(tmp_path, name, n):
    out = tmp_path / "a.csv"
    result = run("nasbench-memory", name, "--out", out, "--train-batch", 4)
    assert result.stdout == f"{n:,} rows: {out}\n"
    space = table.benchmark(name)
    rows = read(out)[1]
    assert len({row[0] for row in rows}) == len(rows) == n
    for native, *numbers in random.Random(0).sample(rows, 6):
        assert tuple(numbers) == planned(space.graph(space.encode(native)))
    columns = np.array([row[1:] for row in rows])
    assert (columns[:, 3] <= columns[:, 2]).all()
    assert (columns[:, 4] < columns[:, 5]).all()


def test_the_name_of_a_cell_of_nasbench101_is_read_again():
    space = spaces.nasbench101()
    for row in space.sample(20, rng=0):
        assert np.array_equal(space.encode(native_name(space, row)), row)
