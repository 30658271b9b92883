"""Streamed pieces never change, and together are the answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shirg.serve.final_text import FinalText


def decoded(ids) -> str:
    """As a tokenizer of bytes."""
    return bytes(ids).decode("utf-8", errors="replace").strip()


TEXTS = st.text(alphabet="abé€ \n", max_size=12)


@given(TEXTS, st.lists(st.text(alphabet="abé ", min_size=1, max_size=3), max_size=2), st.data())
def test_the_pieces_are_the_answer_up_to_the_first_stop(text, stops, data):
    ids = list(text.encode())
    ends = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    final = FinalText(decoded, stops)
    pieces = [final.update(ids[:end], complete=False) for end in ends]
    pieces.append(final.update(ids, complete=True))
    whole = text.strip()
    found = [place for place in (whole.find(stop) for stop in stops) if place >= 0]
    expected = whole[: min(found)] if found else whole
    assert "".join(pieces) == final.sent == expected


def test_what_may_change_waits():
    final = FinalText(decoded, ["END"])
    assert final.update(b"cost: 5 \xe2\x82", complete=False) == "cost: 5"  # two of the three bytes of a euro sign
    assert final.update(b"cost: 5 \xe2\x82\xac E", complete=False) == " \u20ac"
    assert final.update(b"cost: 5 \xe2\x82\xac EN", complete=False) == ""
    assert final.update(b"cost: 5 \xe2\x82\xac ENglish", complete=False) == " ENglish"
    assert final.update(b"cost: 5 \xe2\x82\xac ENglish END more", complete=False) == " " and final.stopped
    assert final.update(b"cost: 5 \xe2\x82\xac ENglish END more words", complete=True) == ""


def test_damaged_bytes_inside_are_sent():
    final = FinalText(decoded)
    assert final.update(b"a\xffb", complete=False) == "a\ufffdb"
    assert final.update(b"a\xffb\xff", complete=True) == "\ufffd"
