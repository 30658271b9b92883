"""The cache of pages is bounded in bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shirg.serve.cache import ByteCache


def test_the_least_recently_used_goes_first():
    cache = ByteCache(10, len)
    cache.put("a", b"1234")
    cache.put("b", b"1234")
    assert cache.get("a") == b"1234"
    cache.put("c", b"1234")
    assert cache.get("b") is None and cache.get("a") and cache.get("c") and cache.nbytes == 8
    cache.put("d", b"12345678901")
    assert cache.get("d") is None and cache.nbytes == 8


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12))))
def test_its_bytes_are_those_of_what_it_holds(puts):
    cache = ByteCache(20, len)
    for key, size in puts:
        cache.put(key, bytes(size))
        assert cache.nbytes == sum(len(cache.get(one)) for one in range(6) if cache.get(one) is not None) <= 20
