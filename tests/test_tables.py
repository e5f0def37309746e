"""Tables for a terminal: every word is there, no line is too long, numbers are aligned."""

import math

import hypothesis.strategies as st
import pandas as pd
from hypothesis import given

from course_lib.tables import as_text

WORDS = st.lists(st.text("abcdefg", min_size=1, max_size=9), max_size=8).map(" ".join)


@given(
    st.integers(1, 12).flatmap(
        lambda columns: st.lists(st.lists(WORDS, min_size=columns, max_size=columns), min_size=1, max_size=4)
    )
)
def test_each_word_is_there_and_each_line_fits(rows):
    table = pd.DataFrame(rows, columns=[f"column number {place}" for place in range(len(rows[0]))])
    text = as_text(table, width=40)
    assert max(map(len, text.splitlines())) <= 40
    printed = text.split()
    for row in rows:
        for cell in row:
            assert all(word in printed for word in cell.split())


def test_a_narrow_table_is_one_block_of_aligned_columns():
    table = pd.DataFrame(dict(name=["a", "bb"], accuracy=[1.5, 12.25], ok=[True, False], n=[3, 40]))
    assert as_text(table).splitlines() == [
        "name  accuracy  ok      n",
        "a         1.50  True    3",
        "bb       12.25  False  40",
    ]


def test_a_wide_table_repeats_its_first_column():
    table = pd.DataFrame([[0.5] * 12], index=["conv1.weight"], columns=[f"quantity{i}" for i in range(12)])
    blocks = as_text(table, index=True, width=60).split("\n\n")
    assert len(blocks) > 1 and all(block.splitlines()[1].startswith("conv1.weight") for block in blocks)
    assert sum(block.count("0.50") for block in blocks) == 12


def test_long_text_is_wrapped_within_its_column():
    table = pd.DataFrame([["a claim of many words that goes on and on " * 3, "holds"]], columns=["claim", "verdict"])
    lines = as_text(table, width=50).splitlines()
    assert max(map(len, lines)) <= 50 and lines[1].endswith("holds")


def test_odd_values_are_written():
    assert as_text(pd.DataFrame(dict(a=[math.nan], b=[None], c=[()]))).splitlines()[1].split() == ["nan", "None", "()"]
    assert as_text(pd.DataFrame(dict(a=[]))) == "a"
    assert as_text(pd.DataFrame()) == ""


def test_headings_are_wrapped_before_texts():
    table = pd.DataFrame([["a text of words", 1]], columns=["what", "a long heading over a number"])
    assert "a text of words" in as_text(table, width=30) and max(map(len, as_text(table, width=30).splitlines())) <= 30
