"""Random draws that define bytes.

Promise: the draws of a key are the same for ever, on every platform. NumPy promises stable raw words of its bit
generators but not of its distributions, so the words come from Philox and the mapping to integers and floats is ours.
Augmentation at training time defines no bytes and may use NumPy's distributions.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16


class Draws:
    """A stream of draws that depends on nothing but its key, any integers and strings."""

    def __init__(self, *key: int | str) -> None:
        text = "\x1f".join(f"{type(part).__name__[0]}{part}" for part in key)
        words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
        self._bits = np.random.Philox(key=words.astype(np.uint64))
        self._buffer: list[int] = []

    def words(self, n: int) -> NDArray[np.uint64]:
        """Return `n` raw 64-bit words."""
        return self._bits.random_raw(n).astype(np.uint64, copy=False)

    def _word(self) -> int:
        if not self._buffer:
            self._buffer = self._bits.random_raw(_BLOCK).tolist()[::-1]
        return self._buffer.pop()

    def below(self, n: int) -> int:
        """Return a uniform integer in [0, n); a `ValueError` if n is not positive."""
        if n <= 0:
            raise ValueError(f"below() needs a positive bound, got {n}")
        # Rejecting the words past the largest multiple of n keeps the draw exactly uniform.
        limit = (1 << 64) - (1 << 64) % n
        while (word := self._word()) >= limit:
            pass
        return word % n

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a float in [low, high) with 53 random bits."""
        return low + (high - low) * ((self._word() >> 11) * 2.0**-53)

    def uniforms(self, n: int) -> NDArray[np.float64]:
        """Return `n` float64 in [0, 1) with 53 random bits each."""
        return (self.words(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutation(self, n: int) -> NDArray[np.int64]:
        """Return a uniform permutation of 0 … n − 1 (the stable order of n raw words)."""
        words = self.words(n)
        ordered = np.sort(words)
        # Without equal words every order is the stable one, and NumPy's own is twice as fast.
        equal = (ordered[1:] == ordered[:-1]).any()
        return np.argsort(words, kind="stable" if equal else None).astype(np.int64, copy=False)
