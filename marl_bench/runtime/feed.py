"""The data that an offline pack learns from, chunk by chunk: the whole data set at once, or shards read ahead."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np


class Feed:
    """Gives each chunk of training its data.

    With one shard it is loaded once. With several, each chunk has one of them, every shard once in an order that changes from
    round to round; the next one is loaded while the chunk trains. Which shard a chunk has depends on its number only, so a
    resumed run sees the same data.

    Args:
      load: number of a shard -> its data, placed on the devices.
      shards: S.
    """

    def __init__(self, load: Callable[[int], Any], shards: int) -> None:
        self._load, self._shards = load, shards
        self._held: tuple[int, Any] | None = None
        self._ahead: tuple[int, Future[Any]] | None = None
        self._thread = ThreadPoolExecutor(1, "data")

    def order(self, chunk: int) -> int:
        """The shard of chunk number `chunk`."""
        turn, place = divmod(chunk, self._shards)
        return int(np.random.default_rng(turn).permutation(self._shards)[place])

    def get(self, chunk: int) -> Any:
        """The data of chunk number `chunk`, counted from 0."""
        wanted = self.order(chunk)
        if self._held is None or self._held[0] != wanted:
            self._held = None  # first, so that never more than two shards are alive
            self._held = (wanted, self._loaded(wanted))
        following = self.order(chunk + 1)
        if following != wanted and (self._ahead is None or self._ahead[0] != following):
            self._ahead = (following, self._thread.submit(self._load, following))
        return self._held[1]

    def _loaded(self, shard: int) -> Any:
        if self._ahead is not None and self._ahead[0] == shard:
            data = self._ahead[1].result()
            self._ahead = None
            return data
        return self._load(shard)
