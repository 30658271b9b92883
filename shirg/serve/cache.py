"""A cache of encoded pages, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """The most recently used values whose sizes sum to at most `limit` bytes. Every thread may use it.

    Args:
        size: bytes of a value.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]):
        self.limit, self.size = limit, size
        self.nbytes = self.hits = self.misses = 0
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value of `key`, now the most recently used, or None."""
        with self._lock:
            if key not in self._values:
                self.misses += 1
                return None
            self.hits += 1
            self._values.move_to_end(key)
            return self._values[key]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def put(self, key: Hashable, value: Value) -> None:
        """Store a value, and drop the least recently used ones above the limit; a value above it alone is not stored."""
        size = self.size(value)
        with self._lock:
            if key in self._values or size > self.limit:
                return
            self._values[key] = value
            self.nbytes += size
            while self.nbytes > self.limit:
                self.nbytes -= self.size(self._values.popitem(last=False)[1])
