"""CSV of buffers: what is read, what is written, and what each kind of damage is called."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnlive.buffers import Buffers
from cnnlive.errors import ArenaError, ReadError
from cnnlive.io.buffers import read_buffers, write_buffers
from cnnlive.plan.arena import plan_arena
from cnnlive.verify import check_arena

PLAIN = "id,lower,upper,size\na,0,2,64\nb,1,3,32\n"


def read(text):
    return read_buffers(io.StringIO(text))


def columns(b):
    return b.ids, *(a.tolist() for a in (b.lower, b.upper, b.nbytes, b.alignment, b.fixed))


def test_columns_stand_in_any_order_and_cells_may_have_spaces():
    b = read(" size,offset,id , upper,alignment,lower\r\n64,,a,2,,0\r\n\r\n 32 ,64,b,3,32,-1\r\n+5,-1,c,3,1,2\r\n")
    assert columns(b) == (("a", "b", "c"), [0, -1, 2], [2, 3, 3], [64, 32, 5], [1, 32, 1], [-1, 64, -1])
    assert b.name == ""


def test_a_file_is_called_by_its_name_and_may_begin_with_a_mark(tmp_path):
    path = tmp_path / "tiny.12.csv"
    path.write_text("\ufeff" + PLAIN, encoding="utf-8")
    for source in (path, str(path)):
        b = read_buffers(source)
        assert b.name == "tiny.12"
        assert b.ids == ("a", "b")
    with path.open(encoding="utf-8-sig") as file:
        assert read_buffers(file).ids == ("a", "b")


def test_a_header_alone_is_no_buffers():
    assert read("id,lower,upper,size\n").n == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the text is empty; needed: a first line"),
        ("\n\n", "the text is empty"),
        ("id,lower,upper\na,0,1\n", "line 1: the column 'size' is missing; allowed: id, lower, upper, size"),
        ("a,0,2,64\n", "line 1: there is a column 'a'; allowed: id"),
        ("id,lower,upper,size,gaps\na,0,2,4,\n", "line 1: the column 'gaps' is not supported"),
        ("id,lower,upper,size,size\na,0,2,4,4\n", "line 1: the column 'size' is there twice"),
        ("id,lower,upper,size\na,0,2\n", "line 2: 3 values for the 4 columns id,lower,upper,size"),
        ("id,lower,upper,size\na,0,2,4,5\n", "line 2: 5 values for the 4 columns"),
        ("id,lower,upper,size\na,0,2,4\nb,0", "line 3: 2 values for the 4 columns"),
        ("id,lower,upper,size\na,zero,2,4\n", "line 2: lower is 'zero'; allowed: an integer"),
        ("id,lower,upper,size\na,0,2,4.0\n", "line 2: size is '4.0'; allowed: an integer"),
        ("id,lower,upper,size\na,0,2,1_000\n", "line 2: size is '1_000'; allowed: an integer"),
        ("id,lower,upper,size\na,0,2,\u0664\n", "line 2: size is '\u0664'; allowed: an integer"),
        ("id,lower,upper,size\na,0,," + "4\n", "line 2: upper is empty; allowed: an integer"),
        ("id,lower,upper,size\na,0,2," + "9" * 5000 + "\n", r"line 2: size is '9{37}\.\.\.'; allowed"),
        ("id,lower,upper,size\na,0,2,4611686018427387904\n", "line 2: size is 4611686018427387904; allowed: below"),
        ("id,lower,upper,size\na,0,2,-4\n", "line 2: size is -4; allowed: 0 or more"),
        ("id,lower,upper,size\na,3,2,4\n", "line 2: upper is 2; allowed: lower, which is 3, or more"),
        ("id,lower,upper,size,alignment\na,0,2,4,0\n", "line 2: alignment is 0; allowed: 1 or more"),
        ("id,lower,upper,size,offset\na,0,2,4,-2\n", "line 2: offset is -2; allowed: 0 or more, and -1"),
        ("id,lower,upper,size,alignment,offset\na,0,2,4,8,4\n", "offset is 4; allowed: multiples of the alignment"),
        ("id,lower,upper,size\na,0,2,4\n\na,0,2,4\n", "line 4: the id 'a' is that of line 2"),
        ('id,lower,upper,size\n"a,0,2,4\n', "line 2: unexpected end of data"),
        ("id,lower,upper,size\na\0,0,2,4\n", "line 2: there is a NUL character"),
        ("id,lower,upper,size\na,0,2,4611686018427387903\n", "the text: sizes and alignments together"),
    ],
)
def test_damage_is_named(text, words):
    with pytest.raises(ReadError, match=words):
        read(text)


def test_files_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "x.csv"
    with pytest.raises(ReadError, match=r"x\.csv' cannot be read as buffers: No such file"):
        read_buffers(path)
    with pytest.raises(ReadError, match="cannot be read as buffers"):
        read_buffers(tmp_path)
    with pytest.raises(ReadError, match="cannot be read as buffers: embedded null"):
        read_buffers("a\0b")
    path.write_bytes(b"id,lower,upper,size\n\xff\xfe,0,2,4\n")
    with pytest.raises(ReadError, match=r"x\.csv' is no UTF-8 text"):
        read_buffers(path)
    path.write_text(PLAIN, encoding="utf-16")
    with pytest.raises(ReadError, match=r"x\.csv' is no UTF-8 text"):
        read_buffers(path)
    path.write_bytes(PLAIN.encode("utf-16-le"))
    with pytest.raises(ReadError, match="NUL character"):
        read_buffers(path)


@settings(max_examples=80)
@given(
    rows=st.lists(
        st.tuples(st.integers(-9, 9), st.integers(0, 9), st.integers(0, 2**40), st.integers(1, 64), st.integers(-1, 9)),
        max_size=8,
    ),
    names=st.lists(st.text(min_size=1, max_size=4).map(str.strip), min_size=8, max_size=8, unique=True),
)
def test_what_is_written_is_read(rows, names):
    lower = [r[0] for r in rows]
    upper = [r[0] + r[1] for r in rows]
    fixed = [r[4] * r[3] if r[4] >= 0 else -1 for r in rows]
    names = [x for x in names if "\0" not in x][: len(rows)]
    ids = names if len(names) == len(rows) else None
    b = Buffers.of(lower, upper, [r[2] for r in rows], alignment=[r[3] for r in rows], fixed=fixed, ids=ids)
    text = io.StringIO(newline="")
    write_buffers(text, b)
    text.seek(0)
    assert columns(read_buffers(text)) == columns(b)


def test_a_plan_comes_back_with_its_offsets_fixed(tmp_path):
    b = read("id,lower,upper,size,alignment\na,0,2,64,16\nb,1,3,33,16\nc,2,4,64,1\nnone,1,1,5,1\n")
    plan = plan_arena(b)
    path = tmp_path / "placed.csv"
    write_buffers(path, plan)
    assert path.read_text().splitlines()[0] == "id,lower,upper,size,alignment,offset"
    again = read_buffers(path)
    assert again.fixed.tolist() == plan.offsets.tolist()
    placed = plan_arena(again)
    check_arena(placed)
    assert (placed.arena_bytes, placed.offset_of) == (plan.arena_bytes, plan.offset_of)


def test_columns_that_say_nothing_are_left_out():
    text = io.StringIO()
    write_buffers(text, read(PLAIN))
    assert text.getvalue() == PLAIN
    text = io.StringIO()
    write_buffers(text, read(PLAIN), [0, 64])
    assert text.getvalue() == "id,lower,upper,size,offset\na,0,2,64,0\nb,1,3,32,64\n"


def test_what_cannot_be_written_leaves_the_file_that_is_there(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("mine")
    b = read(PLAIN)
    with pytest.raises(ArenaError, match="there are 1 offsets for 2 buffers"):
        write_buffers(path, b, [0])
    with pytest.raises(ArenaError, match="there are no offsets: infeasible"):
        write_buffers(path, plan_arena(b, capacity=1))
    for name in ("\ud800", "a\0"):
        with pytest.raises(ArenaError, match="cannot stand in a CSV file"):
            write_buffers(path, Buffers.of([0], [1], [1], ids=[name]))
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["x.csv"]
    write_buffers(path, b)
    assert path.read_text() == PLAIN


def test_the_instances_of_minimalloc_are_read():
    folder = Path(__file__).parents[2] / "shared" / "data" / "minimalloc"
    if not folder.is_dir():
        pytest.skip("the folder of shared instances is not there")
    sizes = {
        "A": 154,
        "B": 170,
        "C": 203,
        "D": 213,
        "E": 215,
        "F": 296,
        "G": 308,
        "H": 316,
        "I": 374,
        "J": 409,
        "K": 454,
    }
    for name, n in sizes.items():
        b = read_buffers(folder / f"{name}.1048576.csv")
        assert (b.name, b.n) == (f"{name}.1048576", n)
    assert read_buffers(folder / "input.12.csv").n == 5


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", " a "])
def test_any_id_is_read_as_it_was_written(name, tmp_path):
    path = tmp_path / "buffers.csv"
    write_buffers(path, Buffers.of([0, 1], [2, 3], [8, 9], ids=[name, "plain"]))
    again = read_buffers(path)
    assert again.ids == (name, "plain")
    assert again.nbytes.tolist() == [8, 9]
