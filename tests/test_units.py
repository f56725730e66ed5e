"""Amounts of bytes and data types as people write them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnlive._types import DTYPES, ITEMSIZE, dtype_name
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
