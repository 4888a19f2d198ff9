"""When weights and optimiser may be looked at by another thread than the one that trains."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LONG = 5.0  # seconds, for a change that hangs: a device that waits for a rank that fell silent


class Changes:
    """Keeps weights and the optimiser's state from changing while they are saved, and knows of how many steps they are.
    All that changes them does so inside one of its blocks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: int | None = 0

    def begin(self, done: int) -> None:
        """Note how many steps a run had done that goes on."""
        self._done = done

    @contextmanager
    def up_to(self, done: int) -> Iterator[None]:
        """Change them inside the block, after which they are those of so many steps; after an error, of none."""
        with self._lock:
            self._done = None
            yield
            self._done = done

    @contextmanager
    def held(self) -> Iterator[int | None]:
        """Let nothing change inside the block, once whoever is at it is done; yield how many steps are. None where they
        are half changed, or a change does not end.
        """
        while not (mine := self._lock.acquire(timeout=_LONG)) and self._done is not None:
            pass  # another thread writes a checkpoint
        try:
            yield self._done if mine else None
        finally:
            if mine:
                self._lock.release()
