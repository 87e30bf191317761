"""Texts that say nearly the same: Jaccard similarity of word shingles, candidates found by MinHash (Broder 1997).

A text is the set of its runs of three words (in scripts without spaces, of three characters). Every pair of texts with a
similarity of 0.8 is a candidate with probability .9998 (16 bands of 4 of 64 minima), and every candidate is checked exactly.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from poise.data.records import Text
from poise.data.splits import normalised

Hashes = NDArray[np.uint64]
RUN = 3
BANDS, ROWS = 16, 4
CHUNK = 2_000_000
LOOK_BACK = 256
"""Earlier members of a bucket that a text is compared with at most: what repeats more often is found by those."""
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")


def words(text: Text) -> list[str]:
    """Lower-case words and signs of a text, roles left out."""
    plain = text if isinstance(text, str) else "\n".join(message.content for message in text)
    return WORD.findall(normalised(plain))


def shingles(texts: Iterable[Text]) -> Hashes:
    """The set of shingles of all ``texts`` together, as sorted 64-bit hashes; shorter texts are one shingle."""
    numbers = [np.fromiter((hash_of(word) for word in words(text)), dtype=np.uint64) for text in texts]
    runs = []
    for row in numbers:
        padded = row if len(row) >= RUN else np.pad(row, (0, RUN - len(row)))
        runs.append(_mixed(padded[:-2] + _mixed(padded[1:-1] + _mixed(padded[2:]))))
    return np.unique(np.concatenate(runs)) if runs else np.zeros(0, dtype=np.uint64)


def hash_of(word: str, known: dict[str, int] = {}) -> int:  # noqa: B006 - a memory, on purpose
    """64 bits that are the same in every process (FNV-1a)."""
    found = known.get(word)
    if found is None:
        found = 0xCBF29CE484222325
        for byte in word.encode("utf8"):
            found = (found ^ byte) * 0x100000001B3 % 2**64
        known[word] = found
    return found


def jaccard(first: Hashes, second: Hashes) -> float:
    """|both| / |either| of two sets; 1 where both are empty."""
    both = len(np.intersect1d(first, second, assume_unique=True))
    either = len(first) + len(second) - both
    return both / either if either else 1.0


def candidates(sets: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    """(later, earlier) numbers of the sets that may be alike, each once, by the later one."""
    keys = _bands(sets)
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, row in enumerate(keys):
        earlier: set[int] = set()
        for band, key in enumerate(row.tolist()):
            bucket = buckets[band, key]
            earlier.update(bucket[:LOOK_BACK])
            bucket.append(number)
        for other in sorted(earlier):
            yield number, other


def _bands(sets: Sequence[Hashes]) -> Hashes:
    """[n, BANDS] hashes of the minima of each band."""
    draw = np.random.default_rng(0)
    factors = draw.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = draw.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)
    minima = np.zeros((len(sets), BANDS * ROWS), dtype=np.uint64)
    for start, stop in _chunks(sets):
        flat = np.concatenate(sets[start:stop])
        sizes = [len(one) for one in sets[start:stop]]
        starts = np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int64)
        for k in range(BANDS * ROWS):
            minima[start:stop, k] = np.minimum.reduceat(flat * factors[k] + offsets[k], starts)
    bands = minima.reshape(len(sets), BANDS, ROWS)
    keys = np.zeros((len(sets), BANDS), dtype=np.uint64)
    for row in range(ROWS):
        keys = _mixed(keys + bands[:, :, row])
    return keys


def _chunks(sets: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    start = total = 0
    for number, one in enumerate(sets):
        total += len(one)
        if total > CHUNK:
            yield start, number + 1
            start, total = number + 1, 0
    if start < len(sets):
        yield start, len(sets)


def _mixed(x: Hashes) -> Hashes:
    """The finaliser of splitmix64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)
