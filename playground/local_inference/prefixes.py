"""What texts left in the model that it has read: kept after an answer, for the next prompt that begins with the same tokens.

A tree for each set of adapters (keys and values differ with them): an edge holds some tokens and, for each plane of the
cache, what they left there; texts that begin alike share the edges of their beginning. A recurrent layer has no positions:
its state is kept where a text ended or branched, and only there can be gone on from. Edges are dropped from the leaves,
those not used for longest first, to stay within a budget in bytes, and whenever rows or models need the room.

After RadixAttention (Zheng et al. 2023, arXiv:2312.07104); states at branches: Marconi (Pan et al. 2024, arXiv:2411.19379).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from playground.local_inference.slots import Contents

# A text that shares fewer tokens with what is known is read anew: finding and copying them would cost as much.
FEWEST_SHARED = 16
# An edge has at most so many positions: long enough that copying is a few large calls, and short enough that what is
# dropped for want of room is the end of a long text and not all of it.
LONGEST_EDGE = 512
_TOKEN_BYTES = 8
# When something was last used, told alike in all trees.
_clock = itertools.count(1)

_Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Match:
    """The longest beginning of a prompt that is known: ``positions`` tokens of it.

    ``parts`` are (planes, how many of their positions), one after another; ``states`` those after the last position.
    """

    positions: int
    parts: tuple[tuple[Sequence[torch.Tensor], int], ...] = ()
    states: tuple[torch.Tensor, ...] = ()

    def then(self, rest: Match) -> Match:
        """It and ``rest``, what is known of the text that follows."""
        return Match(self.positions + rest.positions, (*self.parts, *rest.parts), rest.states)

    def write_into(self, planes: Sequence[torch.Tensor], offset: int = 0) -> None:
        """Copy what is known to positions ``offset`` on of ``planes`` [positions, ...]."""
        with torch.inference_mode():  # as the passes that write into them
            for known, count in self.parts:
                for plane, part in zip(planes, known, strict=True):
                    plane[offset : offset + count] = part[:count]
                offset += count

    def contents(self) -> Contents:
        """A copy of it, for a row of transformers' own pass."""
        with torch.inference_mode():
            columns = zip(*([part[:count] for part in known] for known, count in self.parts), strict=True)
            planes = [torch.cat(parts) for parts in columns]
            return Contents(planes, self.positions, [state.clone() for state in self.states])


class _Node:
    """The end of an edge: the edge's ``tokens`` and ``planes``, the ``states`` after its last token, and what follows."""

    __slots__ = ("children", "gone", "key", "parent", "planes", "states", "states_used", "tokens", "used")

    def __init__(self, key: Hashable, parent: _Node | None, tokens: _Tokens, planes: list[torch.Tensor]) -> None:
        self.key, self.parent = key, parent
        self.tokens, self.planes = tokens, planes
        self.states: tuple[torch.Tensor, ...] = ()
        self.children: dict[int, _Node] = {}
        self.used = self.states_used = 0  # when, on the tree's clock
        self.gone = False

    def bytes(self) -> int:
        """Memory of the edge and of the states at its end."""
        return int(self.tokens.nbytes) + _bytes(self.planes) + _bytes(self.states)

    def below(self) -> Iterator[_Node]:
        """This node and all under it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children.values()


class Prefixes:
    """The texts of one base. Used by the compute thread only, but for `bytes`, which any thread may ask."""

    def __init__(
        self,
        budget: int,
        free: Callable[[], int] | None = None,
        *,
        private: bool = False,
        beside: Callable[[], Iterable[Prefixes]] = tuple,
    ) -> None:
        """``budget`` in bytes; 0 keeps nothing. ``free`` says how many bytes more may be taken of the device at all.

        ``private`` is for whoever makes the keys: whether nobody may find another user's texts. ``beside`` are the texts of
        other bases in the same memory, for all of which the budget is: of all together goes what was not used for longest.
        """
        self._budget, self._beside = budget, beside
        self.private = private
        self._free = free
        self._roots: dict[Hashable, _Node] = {}
        self._bytes = 0
        self._stateful = False  # a model has states or it has none

    @property
    def keeps(self) -> bool:
        """False where nothing is ever kept."""
        return self._budget > 0

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        return self._bytes

    def find(self, key: Hashable, ids: Sequence[int]) -> Match | None:
        """What is known of a text that begins as ``ids`` do and has at least one token more than what is found.

        Where states are kept, it ends at one of them.
        """
        path = self._walk(key, _array(ids[:-1]))
        while path and self._stateful and not _end_states(path):
            path.pop()
        positions = sum(count for _, count in path)
        if positions < FEWEST_SHARED:
            return None
        end = path[-1][0]
        end.states_used = self._touch(node for node, _ in path)
        return Match(positions, tuple((node.planes, count) for node, count in path), _end_states(path))

    def branch(self, key: Hashable, ids: Sequence[int]) -> int:
        """How many tokens of ``ids`` are known, with or without a state to go on from: there one is worth keeping."""
        return sum(count for _, count in self._walk(key, _array(ids[:-1])))

    def keep(self, key: Hashable, ids: Sequence[int], contents: Contents, offset: int = 0) -> None:
        """Remember what ``ids`` left, which lies at positions ``offset`` on in ``contents``: copied, as far as it is new.

        With states only as a whole; else as much of its beginning as there is room for.
        """
        tokens = _array(ids)
        path = self._walk(key, tokens)
        known = sum(count for _, count in path)
        self._touch(node for node, _ in path)
        self._stateful = self._stateful or bool(contents.states)
        states = () if known == len(tokens) and _end_states(path) else contents.states
        missing = self._fitting(len(tokens) - known, contents, states, {id(node) for node, _ in path})
        if missing is None or not (missing or states):
            return
        with torch.inference_mode():
            planes = [plane[offset : offset + known + missing] for plane in contents.planes]
            node = self._extend(self._cut(key, path), tokens[: known + missing], known, planes)
            if states and not node.states:
                node.states = tuple(state.clone() for state in states)
                self._bytes += _bytes(states)
        node.states_used = self._touch(self._up(node))

    def shrink(self, count: int) -> int:
        """Give up at least ``count`` bytes, what was not used for longest first, and return how many came back."""
        return _shrink((self,), count, ())

    def forget(self, adapter: Any) -> None:
        """Drop what was read with ``adapter``, a key's part: its files have changed, or it was dropped."""
        for key in [key for key in self._roots if _mentions(key, adapter)]:
            self._bytes -= sum(node.bytes() for node in self._roots.pop(key).below())

    def clear(self) -> None:
        """Drop everything."""
        self._roots.clear()
        self._bytes = 0

    def _walk(self, key: Hashable, tokens: _Tokens) -> list[tuple[_Node, int]]:
        """The edges along ``tokens``, each with how many of its positions agree: all, but for the last one."""
        found: list[tuple[_Node, int]] = []
        node, at = self._roots.get(key), 0
        while node is not None and at < len(tokens):
            node = node.children.get(int(tokens[at]))
            if node is not None:
                count = _common(node.tokens, tokens[at:])
                found.append((node, count))
                at += count
                node = node if count == len(node.tokens) else None
        return found

    def _touch(self, nodes: Iterator[_Node]) -> int:
        now = next(_clock)
        for node in nodes:
            node.used = now
        return now

    @staticmethod
    def _up(node: _Node) -> Iterator[_Node]:
        """``node`` and all before it."""
        above: _Node | None = node
        while above is not None:
            yield above
            above = above.parent

    def _cut(self, key: Hashable, path: list[tuple[_Node, int]]) -> _Node:
        """The node at the end of ``path``, in the middle of an edge a new one that splits it."""
        if not path:
            return self._roots.setdefault(key, _Node(key, None, _array(()), []))
        tail, count = path[-1]
        if count == len(tail.tokens):
            return tail
        # Both halves are copies: a view would keep all of the edge in memory when the other half is dropped.
        head = _Node(key, tail.parent, tail.tokens[:count].copy(), [plane[:count].clone() for plane in tail.planes])
        tail.tokens, tail.planes = tail.tokens[count:].copy(), [plane[count:].clone() for plane in tail.planes]
        assert head.parent is not None
        head.parent.children[int(head.tokens[0])] = head
        head.children[int(tail.tokens[0])] = tail
        head.used, tail.parent = tail.used, head
        return head

    def _extend(self, node: _Node, tokens: _Tokens, known: int, planes: Sequence[torch.Tensor]) -> _Node:
        """Add what follows position ``known`` under ``node``: to its edge while that is short and nothing hangs on it."""
        if node.parent is not None and not node.children and not node.states and len(node.tokens) < LONGEST_EDGE:
            end = min(len(tokens), known + LONGEST_EDGE - len(node.tokens))
            node.tokens = np.concatenate((node.tokens, tokens[known:end]))
            node.planes = [torch.cat((old, plane[known:end])) for old, plane in zip(node.planes, planes, strict=True)]
            self._bytes += (end - known) * _TOKEN_BYTES + sum(_bytes((plane[known:end],)) for plane in planes)
            known = end
        for start in range(known, len(tokens), LONGEST_EDGE):
            end = min(start + LONGEST_EDGE, len(tokens))
            new = _Node(node.key, node, tokens[start:end].copy(), [plane[start:end].clone() for plane in planes])
            node.children[int(tokens[start])] = new
            self._bytes += new.bytes()
            node = new
        return node

    def _fitting(
        self, missing: int, contents: Contents, states: Sequence[torch.Tensor], path: Collection[int]
    ) -> int | None:
        """How many of ``missing`` positions there is room for, once what is not of ``path`` made way; None for no room.

        States are worth something after the last position only.
        """
        size = _TOKEN_BYTES + _bytes([plane[:1] for plane in contents.planes])
        needed = missing * size + _bytes(states)
        trees = {self, *self._beside()}
        kept = sum(tree.bytes for tree in trees)
        limit = self._budget if self._free is None else min(self._budget, kept + max(0, self._free()))
        room = max(0, limit - kept + _shrink(trees, kept + needed - limit, path))
        if self._stateful:
            return missing if needed <= room else None
        return min(missing, room // size)

    def droppable(self) -> Iterator[tuple[int, _Node]]:
        """(when it was last used, node) of all that nothing but itself is lost with."""
        for root in self._roots.values():
            for node in root.below():
                if (used := self.unused_since(node)) is not None:
                    yield used, node

    def drop(self, node: _Node) -> _Node | None:
        """Give up a `droppable` node, or where texts go on from it its states alone; the node before one that is gone."""
        if node.children:
            self._bytes -= _bytes(node.states)
            node.states = ()
            return None
        self._bytes -= node.bytes()
        node.gone = True
        if node.parent is None:
            del self._roots[node.key]
        else:
            del node.parent.children[int(node.tokens[0])]
        return node.parent

    def unused_since(self, node: _Node) -> int | None:
        """When what can be dropped of ``node`` was last used: it or, before a single child, its states; None for nothing.

        0 for what nothing can be gone on from: a root under which nothing is left, an edge behind which a state was.
        """
        if node.children:
            return node.states_used if node.states and len(node.children) == 1 else None
        return 0 if node.parent is None or (self._stateful and not node.states) else node.used


def _shrink(trees: Iterable[Prefixes], count: int, path: Collection[int]) -> int:
    """Drop of ``trees`` what was not used for longest until ``count`` bytes came back, and return how many did.

    Nodes of ``path`` stay.
    """
    if count <= 0:
        return 0
    came, order = 0, itertools.count()
    heap = [(used, next(order), tree, node) for tree in trees for used, node in tree.droppable()]
    heapq.heapify(heap)
    while heap and came < count:
        _, _, tree, node = heapq.heappop(heap)
        if id(node) in path or node.gone:
            continue
        before = tree.bytes
        parent = tree.drop(node)
        came += before - tree.bytes
        if parent and (used := tree.unused_since(parent)) is not None:
            heapq.heappush(heap, (used, next(order), tree, parent))
    return came


def _end_states(path: Sequence[tuple[_Node, int]]) -> tuple[torch.Tensor, ...]:
    """The states at the end of ``path``; none in the middle of an edge."""
    return path[-1][0].states if path and path[-1][1] == len(path[-1][0].tokens) else ()


def _mentions(key: Hashable, part: Any) -> bool:
    """Whether ``part`` is in ``key``, a tuple of tuples."""
    return key == part or (isinstance(key, tuple) and any(_mentions(one, part) for one in key))


def _array(ids: Sequence[int]) -> _Tokens:
    return np.asarray(ids, dtype=np.int64)


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common from the beginning."""
    return _common(_array(one), _array(other))


def _common(one: _Tokens, other: _Tokens) -> int:
    """How many tokens agree from the beginning."""
    count = min(len(one), len(other))
    differ = one[:count] != other[:count]
    at = int(differ.argmax()) if count else 0
    return at if count and differ[at] else count


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(int(tensor.numel() * tensor.element_size()) for tensor in tensors)
