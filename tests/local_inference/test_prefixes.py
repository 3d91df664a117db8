"""G11: what is kept of texts is found again by whoever begins alike, is right to the number, and stays within its budget."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from playground.local_inference.prefixes import FEWEST_SHARED, LONGEST_EDGE, Match, Prefixes
from playground.local_inference.slots import Contents

SYSTEM = list(range(100, 150))
KEY = ((("sha", 1.0),), 0)
# Of one position in the contents made here: two planes of two float32, and the token.
POSITION = 2 * 2 * 4 + 8


def _left(ids: Sequence[int], offset: int = 0, *, states: bool = False) -> Contents:
    """What a model might leave of ``ids``: each position depends on every token up to it."""
    so_far = torch.tensor(
        [float(sum(token * (at + 1) for at, token in enumerate(ids[: end + 1]))) for end in range(len(ids))]
    )
    planes = [torch.stack((so_far, so_far * factor), dim=1) for factor in (2.0, 3.0)]
    before = torch.full((offset, 2), -1.0)
    after = [so_far[-1:].clone(), so_far[-1:] * 5] if states else []
    return Contents([torch.cat((before, plane)) for plane in planes], offset + len(ids), after)


def _keep(tree: Prefixes, ids: Sequence[int], *, states: bool = False, key: object = KEY) -> None:
    tree.keep(key, ids, _left(ids, states=states))


def _right(match: Match | None, ids: Sequence[int], positions: int) -> None:
    """``match`` is the first ``positions`` of ``ids``, to the number."""
    assert match is not None
    assert match.positions == positions
    expected, found = _left(ids[:positions], states=bool(match.states)), match.contents()
    assert found.positions == positions
    for one, other in zip((*found.planes, *found.states), (*expected.planes, *expected.states), strict=True):
        assert torch.equal(one, other)


def test_a_longer_text_finds_what_it_begins_with() -> None:
    """G11: the whole of what is known, and always one token less than is asked for, which must be read."""
    tree = Prefixes(10**6)
    _keep(tree, SYSTEM)
    _right(tree.find(KEY, [*SYSTEM, 1, 2]), SYSTEM, 50)
    _right(tree.find(KEY, SYSTEM), SYSTEM, 49)
    assert tree.find(KEY, SYSTEM[:FEWEST_SHARED]) is None  # too little to be worth it
    assert tree.find((("other", 1.0),), SYSTEM) is None


def test_what_is_known_lands_at_its_place_in_a_prompt() -> None:
    """G11: behind a soft prompt's own positions, over several edges, and from a slot that is larger than its text."""
    tree, text = Prefixes(10**7), [*SYSTEM, *range(2 * LONGEST_EDGE)]
    tree.keep(KEY, text, _left(text, offset=7), 7)
    _keep(tree, [*SYSTEM, 3, 4, 5])  # splits the first edge
    match = tree.find(KEY, [*text[:900], 9])
    _right(match, text, 900)
    planes = [torch.zeros(1000, 2) for _ in range(2)]
    assert match is not None
    match.write_into(planes, 7)
    for plane, expected in zip(planes, _left(text[:900], offset=7).planes, strict=True):
        assert torch.equal(plane[7:907], expected[7:])
        assert not plane[:7].any()
        assert not plane[907:].any()


def test_texts_share_the_memory_of_their_beginning() -> None:
    """G11: bytes are counted once, and exactly, also after a branch in the middle."""
    tree = Prefixes(10**6)
    for end in ([1, 2, 3], [1, 2, 3], [4, 5], [1, 7]):
        _keep(tree, [*SYSTEM, *end])
    assert tree.bytes == (50 + 3 + 2 + 1) * POSITION


def test_what_is_kept_is_a_copy() -> None:
    """G11: rows go on in their own memory, and a branch does not hold on to the other half of what it split."""
    tree, contents = Prefixes(10**6), _left(SYSTEM)
    tree.keep(KEY, SYSTEM, contents)
    for plane in contents.planes:
        plane.zero_()
    _right(tree.find(KEY, [*SYSTEM, 1]), SYSTEM, 50)
    found = tree.find(KEY, [*SYSTEM, 1])
    assert found is not None
    with torch.inference_mode():
        found.contents().planes[0].zero_()
    _right(tree.find(KEY, [*SYSTEM, 1]), SYSTEM, 50)


def test_what_was_not_used_for_longest_goes_first() -> None:
    """G11: the ends of texts, before their beginnings."""
    tree = Prefixes(100 * POSITION)
    for end in (1, 2):
        _keep(tree, [*SYSTEM, *[end] * 20])
    _right(tree.find(KEY, [*SYSTEM, *[1] * 21]), [*SYSTEM, *[1] * 20], 70)
    _keep(tree, [*SYSTEM, *[3] * 20])
    _right(tree.find(KEY, [*SYSTEM, *[2] * 21]), SYSTEM, 50)  # dropped
    _right(tree.find(KEY, [*SYSTEM, *[1] * 21]), [*SYSTEM, *[1] * 20], 70)
    assert tree.bytes == 90 * POSITION
    assert tree.shrink(1) == 20 * POSITION  # the end of the one of 3, found last
    assert tree.shrink(10**9) == 70 * POSITION
    assert tree.bytes == 0
    assert tree.shrink(1) == 0


def test_bases_in_one_memory_share_the_budget() -> None:
    """G11: whatever was not used for longest goes, on whichever base; what one shrinks by is its own."""
    trees: list[Prefixes] = []
    trees += [Prefixes(100 * POSITION, beside=lambda: trees) for _ in range(2)]
    one, other = trees
    texts = [list(range(start, start + 40)) for start in (0, 100, 200, 300)]
    one.keep("base", texts[0], _left(texts[0]))
    other.keep("base", texts[1], _left(texts[1]))
    assert one.find("base", [*texts[0], 1])
    one.keep("base", texts[2], _left(texts[2]))
    assert [one.bytes, other.bytes] == [80 * POSITION, 0], "the other's was used before"
    other.keep("base", texts[3], _left(texts[3]))
    assert [one.bytes, other.bytes] == [40 * POSITION, 40 * POSITION]
    assert one.find("base", [*texts[2], 1])
    assert one.shrink(10**9) == 40 * POSITION
    assert other.bytes == 40 * POSITION


def test_a_text_larger_than_the_budget_is_kept_as_far_as_it_fits() -> None:
    """G11: its beginning, for that is what others share."""
    tree = Prefixes(30 * POSITION + 3)
    _keep(tree, SYSTEM)
    _right(tree.find(KEY, SYSTEM), SYSTEM, 30)
    nothing = Prefixes(0)
    _keep(nothing, SYSTEM)
    assert nothing.bytes == 0
    assert not nothing.keeps
    assert nothing.find(KEY, SYSTEM) is None


def test_where_the_device_is_full_nothing_is_added() -> None:
    """G12: the budget is an upper bound; what the device has left counts, and what is kept makes way for what is newer."""
    free = [1000]
    tree = Prefixes(10**6, lambda: free[0])
    _keep(tree, SYSTEM)
    assert tree.bytes == 1000 // POSITION * POSITION
    free[0] = 0
    _keep(tree, range(1000, 1020))
    assert tree.find(KEY, SYSTEM) is None
    _right(tree.find(KEY, range(1000, 1021)), range(1000, 1020), 20)


def test_states_are_gone_on_from_only_where_they_were_kept() -> None:
    """G13: at the end of a text, or where one branched once a state was kept there."""
    tree = Prefixes(10**6)
    text = [*SYSTEM, *range(20)]
    _keep(tree, text, states=True)
    assert tree.find(KEY, [*SYSTEM, 7]) is None
    assert tree.branch(KEY, [*SYSTEM, 7]) == 50
    _keep(tree, SYSTEM, states=True)
    _right(tree.find(KEY, [*SYSTEM, 7]), SYSTEM, 50)
    _right(tree.find(KEY, [*text, 7]), text, 70)
    _right(tree.find(KEY, text), SYSTEM, 50)  # its last token must be read, and there is no state before it
    assert tree.bytes == 70 * POSITION + 2 * 8


def test_states_that_were_not_gone_on_from_make_way_first() -> None:
    """G13: of one long conversation the older turns' states go, its newest end stays."""
    tree = Prefixes(10**6)
    for end in range(1, 5):
        _keep(tree, [*SYSTEM, *range(10 * end)], states=True)
    _right(tree.find(KEY, [*SYSTEM, *range(20), -1]), [*SYSTEM, *range(20)], 70)
    assert tree.shrink(16) == 16  # two states
    for end, still in ((1, False), (2, True), (3, False), (4, True)):
        match = tree.find(KEY, [*SYSTEM, *range(10 * end), -1])
        assert (match is not None and match.positions == 50 + 10 * end) == still


def test_an_adapter_takes_what_was_read_with_it_along() -> None:
    """G11: alone or in a mix; what was read without it stays."""
    tree = Prefixes(10**6)
    for key in (((), 0), ((("sha", 1.0),), 0), ((("other", 1.0), ("sha", 0.5)), 0)):
        _keep(tree, SYSTEM, key=key)
    tree.forget("sha")
    assert tree.bytes == 50 * POSITION
    _right(tree.find(((), 0), SYSTEM), SYSTEM, 49)


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("budget", [10**7, 150 * POSITION])
def test_it_finds_what_a_plain_list_of_texts_would(states: bool, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """G11: whatever is kept, found and dropped in whatever order, each number is right and every byte is counted."""
    monkeypatch.setattr("playground.local_inference.prefixes.FEWEST_SHARED", 1)
    monkeypatch.setattr("playground.local_inference.prefixes.LONGEST_EDGE", 7)
    chance, tree, known = random.Random(budget + states), Prefixes(budget), list[list[int]]()
    for _ in range(400):
        begin = chance.choice(known)[: chance.randint(0, 60)] if known and chance.random() < 0.8 else []
        text = [*begin, *(chance.randint(0, 2) for _ in range(chance.randint(1, 12)))]
        if chance.random() < 0.6:
            _keep(tree, text, states=states)
            known.append(text)
        match = tree.find(KEY, text)
        ends = [len(one) for one in known if text[: len(one)] == one and len(one) < len(text)]
        most = max([_shared(one, text[:-1]) for one in known] if not states else ends, default=0)
        if match is not None:
            _right(match, text, match.positions)
        if budget > 10**6:
            assert (match.positions if match else 0) == most
        else:
            assert (match.positions if match else 0) <= most
            assert tree.bytes <= budget
        if chance.random() < 0.05 and budget < 10**6:
            before, back = tree.bytes, tree.shrink(5 * POSITION)
            assert tree.bytes == before - back
            assert back >= 5 * POSITION or tree.bytes == 0
    assert tree.bytes == _counted(tree) > 0
    tree.shrink(10**9)
    assert tree.bytes == _counted(tree) == 0


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _counted(tree: Prefixes) -> int:
    return sum(node.bytes() for root in tree._roots.values() for node in root.below())
