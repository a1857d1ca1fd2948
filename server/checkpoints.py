"""Running turns are given to the store as they grow, a slice of them at a time, so that thousands make no stall."""

import asyncio
from itertools import islice

from server.asking import Asking
from server.stores import Store

ROUND_SECONDS = 0.8  # in which each running turn is saved once
SLICE_TURNS = 250  # are saved at once; more, where there would be too many slices: each is a commit to the disk
MOST_SLICES = 10


class Checkpoints:
    """Keeps the running turns in the order in which they were saved: those who have waited longest come first."""

    def __init__(self, store: Store, running: dict[str, Asking]) -> None:
        self._store = store
        self._running = running
        self._slices = 0  # of the round under way
        self._timer: asyncio.TimerHandle | None = None

    def one_more(self) -> None:
        """A turn has begun to run."""
        if len(self._running) > SLICE_TURNS * self._slices and self._slices < MOST_SLICES:
            self._save()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _save(self) -> None:
        """One slice; the others follow."""
        self.stop()
        running = self._running
        self._slices = min(MOST_SLICES, -(-len(running) // SLICE_TURNS))
        if not running:
            return
        parts = []
        for turn_id, asking in tuple(islice(running.items(), -(-len(running) // self._slices))):
            running[turn_id] = running.pop(turn_id)
            part = asking.part()
            if part is not None:
                parts.append(part)
        if parts:
            self._store.checkpoint(parts)
        self._timer = asyncio.get_running_loop().call_later(ROUND_SECONDS / self._slices, self._save)
