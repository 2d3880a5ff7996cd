"""What one batch of messages brings for one pipeline, sorted by what it costs to score.

The first samples of all streams go side by side (`edge_runtime.results.Abreast`), then the second
ones, and so on while enough streams have one; what is left of a stream becomes one block. A
stream's samples stay in their order; that of different streams decides nothing.
"""

import numpy as np

from edge_runtime.results import NO_SEQ, Abreast, Block, counted
from edge_runtime.typed import One

# Fewer than so many are cheaper as blocks, whose rows are scored in one call for each stream.
_LEAST_ABREAST = 4


class Intake:
    """Collects the samples of a batch.

    Attributes:
        publish: Where each stream of the batch publishes.
    """

    def __init__(self) -> None:
        self.publish: dict[str, str] = {}
        self._ones: dict[str, list[One]] = {}
        self._blocks: list[Block] = []
        self._in_blocks: set[str] = set()

    def add_one(self, stream: str, one: One) -> None:
        """Adds a sample."""
        known = self._ones.get(stream)
        if known is None:
            self._ones[stream] = [one]
        else:
            known.append(one)

    def add_block(self, block: Block) -> None:
        """Adds a block as it is."""
        before = self._ones.pop(block.stream, None)
        if before is not None:
            self._blocks.append(_block(block.stream, before))
        self._in_blocks.add(block.stream)
        self._blocks.append(block)

    def take(self) -> tuple[list[Block], list[Abreast]]:
        """What was collected: blocks, and what comes before them, in this order."""
        rows = {name: ones for name, ones in self._ones.items() if name not in self._in_blocks}
        waves = []
        depth, names = 0, list(rows)
        while len(names) >= _LEAST_ABREAST or (names and depth == 0):
            waves.append(_abreast(names, [rows[name][depth] for name in names]))
            depth += 1
            names = [name for name in names if len(rows[name]) > depth]
        self._blocks += [_block(name, rows[name][depth:]) for name in names]
        behind = [name for name in self._ones if name in self._in_blocks]
        self._blocks += [_block(name, self._ones[name]) for name in behind]
        return self._blocks, waves


def _abreast(names: list[str], ones: list[One]) -> Abreast:
    ts, seq, rows = zip(*ones, strict=True)
    count = len(names)
    return Abreast(
        names,
        np.fromiter(ts, np.int64, count),
        np.array(rows, np.float32),
        np.fromiter(seq, np.int64, count),
    )


def _block(stream: str, ones: list[One]) -> Block:
    ts, seq, rows = zip(*ones, strict=True)
    counts = None if max(seq) == NO_SEQ else counted(np.array(seq, np.int64))
    return Block(stream, np.array(ts, np.int64), np.array(rows, np.float32), counts)
