"""Amounts of bytes and data types as people write them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnlive._types import DTYPES, ITEMSIZE, dtype_name, promote
from cnnlive.errors import CnnliveError, DTypeError, UnitError
from cnnlive.units import format_bytes, format_count, parse_bytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0), ("18", 18), (17, 17), ("256KiB", 262_144), ("256 kib", 262_144), ("1MB", 10**6),
        ("24 GiB", 24 * 2**30), ("1.5GB", 1_500_000_000), ("0.1kB", 100), ("1_000 B", 1000),
        ("2T", 2 * 10**12), ("1.00000001GiB", 2**30 + 10),
    ],
)  # fmt: skip
def test_amounts_of_bytes_are_read_exactly(text, nbytes):
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "-2", "1.2.3MB", "12 parsecs", "1e6", -1, 1.5, True, None])
def test_other_texts_are_errors(text):
    with pytest.raises(UnitError, match="amount of bytes|negative|decimal"):
        parse_bytes(text)


@given(st.integers(0, 2**62))
def test_formatted_bytes_read_back_within_their_digits(nbytes):
    assert parse_bytes(format_bytes(nbytes)) == pytest.approx(nbytes, rel=0.006)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10_240, "10.0 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (2**50, "1024.00 TiB"),
    ],
)
def test_bytes_are_formatted_for_people(nbytes, text):
    assert format_bytes(nbytes) == text


def test_counts_are_formatted_for_people():
    assert [format_count(n) for n in (0, 9_999, 25_557_032, 4_089_184_256, 10**13)] == [
        "0", "9999", "25.56 M", "4.089 G", "10 T"]  # fmt: skip


def test_types_have_many_spellings():
    assert dtype_name("half") == dtype_name(np.float16) == dtype_name(np.dtype("float16")) == "float16"
    assert dtype_name("torch.bfloat16") == "bfloat16"
    assert [dtype_name(d) for d in DTYPES] == list(ITEMSIZE)
    for wrong in ("int7", None, 3, np.complex64):
        with pytest.raises(DTypeError, match="unknown dtype"):
            dtype_name(wrong)


def test_every_error_is_a_cnnlive_error_and_a_builtin():
    import cnnlive.errors as module  # noqa: PLC0415

    for name in module.__all__:
        error = getattr(module, name)
        assert issubclass(error, CnnliveError)
        if error is not CnnliveError:
            assert issubclass(error, ValueError | LookupError | ImportError | TypeError)


def test_every_unit_is_a_power_of_1000_or_of_1024_in_any_case():
    for unit, power in {"k": 1, "M": 2, "g": 3, "T": 4}.items():
        for text in (unit, unit.swapcase(), f"{unit}B", f"{unit}b", f"{unit.swapcase()}B"):
            assert parse_bytes(f"7{text}") == 7 * 1000**power
        for text in (f"{unit}iB", f"{unit}ib", f"{unit}IB"):
            assert parse_bytes(f"7{text}") == 7 * 1024**power
    assert parse_bytes("7b") == parse_bytes(" 7 B ") == parse_bytes("7") == 7


def test_amounts_are_rounded_down():
    assert [parse_bytes(t) for t in ("1.9", "0.9999kB", "2.00048828124KiB", "1_0.5 B")] == [1, 999, 2048, 10]


def test_units_change_where_the_digits_would_run_over():
    nearly = [1023 * 1024, 1023.94 * 1024, 1023.96 * 1024, 9.99 * 2**20, 10 * 2**20, 1023.94 * 2**30, 1023.96 * 2**30]
    assert [format_bytes(int(n)) for n in nearly] == [
        "1023.0 KiB", "1023.9 KiB", "1.00 MiB", "9.99 MiB", "10.0 MiB", "1023.9 GiB", "1.00 TiB"]  # fmt: skip
    assert [format_count(n) for n in (10_000, 999_940, 999_960, 999_940_000_000, 999_960_000_000)] == [
        "10 k", "999.9 k", "1 M", "999.9 G", "1 T"]  # fmt: skip


def test_elements_have_the_sizes_of_numpy():
    assert ITEMSIZE["bfloat16"] == 2  # numpy has none
    assert {d: n for d, n in ITEMSIZE.items() if d != "bfloat16"} == {
        d: np.dtype(d).itemsize for d in ITEMSIZE if d != "bfloat16"}  # fmt: skip


def test_mixed_types_promote_as_far_as_they_have_to():
    assert promote(("int8", "int8")) == "int8"
    assert promote(("uint8", "float16", "int64")) == "float16"
    assert promote(("bfloat16", "float32")) == promote(("float16", "bfloat16", "float16")) == "float32"
    assert promote(("float64", "float16", "bfloat16")) == "float64"
    assert promote(("int32", "int16")) == "int32"
    assert promote(("uint8", "int8")) == promote(("bool", "int8", "uint8")) == "int16"  # as in PyTorch
    assert promote(("uint8", "int8", "int32")) == "int32"
