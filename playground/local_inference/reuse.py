"""Reading nothing twice: a row begins with what is known of its prompt, leaves what it has read, and waits for its like.

Rows whose prompts begin alike and that come together (several answers of one prompt, users of one system prompt) would all
read the same: the later ones wait until the first has read what they share, and go on from there.

How much was known is told with each answer. On a server that strangers share nobody is to learn from it how another's prompt
goes on: there a user's texts serve that user alone, and a system prompt those who have all of it (`_spans`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch

from playground.local_inference import templates
from playground.local_inference.explain import ran_out
from playground.local_inference.prefixes import FEWEST_SHARED, Match, shared
from playground.local_inference.regimes import FIRST
from playground.local_inference.resident import Resident
from playground.local_inference.row import Row
from playground.local_inference.row_cache import cache_from, contents_of
from playground.local_inference.slots import Contents
from playground.types import Status

_log = logging.getLogger(__name__)

# To wait for another row costs a round of steps; fewer tokens are read sooner.
_WORTH_WAITING = 64
# A token that is read by itself takes about as long as this many of a prompt.
_ALONE_COSTS = 8


def reuses(row: Row) -> bool:
    """Whether the row takes part: not one that is to be computed by itself, nor a beam search."""
    resident: Resident = row.resident
    return (
        resident.prefixes.keeps
        and resident.resumes
        and not row.alone
        and row.request.settings.strategy != "beam_search"
        and resident.regimes.reusable(_regime(row))
    )


def take_up(row: Row) -> None:
    """Begin with what is known of the row's prompt: then only the rest of it is read, at least its last token."""
    if not reuses(row):
        return
    try:
        _take_up(row)
    except Exception as error:  # it was to save time: then the whole prompt is read
        _give_up(row, error)


def _take_up(row: Row) -> None:
    resident, state, ids = row.resident, row.state, row.prompt.token_ids  # type: ignore[union-attr]
    match = _find(row)
    if resident.whole_prompts and match and (len(ids) - match.positions) * _ALONE_COSTS > len(ids):
        match = None
    if resident.snapshots:
        # Where a text branches others will, and before the last token the same prompt can be answered once more.
        state.stops |= {_branch(row), row.opening[0], len(ids) - 1}
    if match is None:
        return
    if state.reading is not None:
        match.write_into(state.reading.planes, row.applied.positions)
        state.reading.read += match.positions
    else:
        state.cache = cache_from(resident.model, _after(state.cache, row, match.contents()))
        state.read = match.positions
    state.pending = list(ids[match.positions :])
    row.reused = match.positions


def remember(row: Row) -> None:
    """Keep what the row has read so far, for whoever begins alike; where there is no room for it, nothing is kept."""
    if row.state is None or not reuses(row):
        return
    try:
        contents = _contents(row)
        if contents is not None and contents.positions:
            _keep(row, contents)
    except Exception as error:  # the answer is good, whatever becomes of this
        _give_up(row, error)


def _give_up(row: Row, error: Exception) -> None:
    """Drop all that is kept: a tree that was being changed may be wrong."""
    short = "no memory to keep" if ran_out(error) else "a fault in keeping"
    _log.warning("%s what was read; all that was kept is given up", short, exc_info=error)
    row.resident.prefixes.clear()


def waits(row: Row, ahead: Sequence[Row]) -> bool:
    """Whether the row, which has not begun, waits for one of those ``ahead`` of it to read what both begin with."""
    if not reuses(row):
        return False
    while True:
        if row.behind is None:
            row.behind, row.in_common = _most_in_common(row, ahead)
            if row.behind is None:
                return False
            row.report(Status("prefilling", "waiting while another answer reads the beginning that both prompts share"))
        if _reading(row.behind):
            if _read(row.behind) < row.in_common:
                return True
            remember(row.behind)
            return False
        if not row.behind.settled:
            return False  # it has read its prompt
        row.behind = None  # it may have been stopped before that: the next one goes on


def opening(row: Row) -> tuple[int, str]:
    """How many tokens of the row's prompt anybody may find who sends all that comes before the user, and a digest of that.

    (0, "") for none, and where all is found by everybody.
    """
    resident: Resident = row.resident
    if row.prompt is None or not resident.prefixes.private or not resident.prefixes.keeps:
        return 0, ""
    if resident.recurrent and not resident.snapshots:  # what it reads cannot be parted
        return 0, ""
    text, count = templates.opening(row.request, row.prompt, resident.tokenizer(row.applied))
    if count < FEWEST_SHARED:
        return 0, ""
    return count, hashlib.sha256(repr((text, row.prompt.token_ids[:count])).encode()).hexdigest()


def _regime(row: Row) -> int:
    assert row.prompt is not None
    return int(row.resident.regimes.of(len(row.prompt.token_ids)))


class _Span(NamedTuple):
    """Tokens ``start`` to ``end`` (None for the last) of a row's text, and under which ``key`` they are kept."""

    key: Hashable
    start: int
    end: int | None

    def of(self, ids: Sequence[int], more: int = 0) -> Sequence[int]:
        """Its tokens of ``ids``, and as many ``more`` behind them."""
        return ids[self.start : None if self.end is None else self.end + more]


def _spans(row: Row, regime: int) -> list[_Span]:
    """Where the row's text is kept. Texts with equal keys leave the same in the model, token for token.

    In private the key of the opening is made of all of it, so that it cannot be guessed token by token, and that of the
    rest of the user besides.
    """
    adapters = tuple(sorted((a.info.sha256, scale) for a, scale in row.applied.adapters if scale != 0.0))
    if not row.resident.prefixes.private:
        return [_Span((adapters, regime), 0, None)]
    count, digest = row.opening
    first = [_Span((adapters, regime, digest), 0, count)] if count else []
    return [*first, _Span((adapters, regime, digest, row.user), count, None)]


def _find(row: Row) -> Match | None:
    """The longest beginning of its prompt that is known, but for its last token."""
    assert row.prompt is not None
    found: Match | None = None
    for span in _spans(row, _regime(row)):
        match = row.resident.prefixes.find(span.key, span.of(row.prompt.token_ids, more=1))
        if match is not None:
            found = found.then(match) if found else match
        if match is None or match.positions + span.start != span.end:
            break
    return found


def _branch(row: Row) -> int:
    """How many tokens of its prompt are known, with or without a state to go on from."""
    assert row.prompt is not None
    count = 0
    for span in _spans(row, _regime(row)):
        count += row.resident.prefixes.branch(span.key, span.of(row.prompt.token_ids, more=1))
        if count != span.end:
            break
    return count


def _contents(row: Row) -> Contents | None:
    """What the model keeps of the row, as far as it is read; views."""
    state = row.state
    if state.slot is not None and state.slot.slab is not None:
        return state.slot.slab.contents(state.slot)  # type: ignore[no-any-return]
    if state.reading is not None:
        return Contents(state.reading.planes, state.reading.read)
    if state.cache is None or not state.read:
        return None
    try:
        return contents_of(state.cache, state.read)
    except (TypeError, ValueError):  # a cache of another make, or one that has let go of what is behind a window
        return None


def _keep(row: Row, contents: Contents) -> None:
    assert row.prompt is not None
    regimes, offset, regime = row.resident.regimes, row.applied.positions, row.state.regime
    read = [*row.prompt.token_ids, *row.state.ids][: contents.positions - offset]
    if regimes.limit and _regime(row) == FIRST and not regimes.rereads:
        if contents.states and len(read) > regimes.limit:
            return
        read, regime = read[: regimes.limit], FIRST  # what came after it was read otherwise than in a prompt
    for span in _spans(row, regime):
        parted = span.end is not None and len(read) > span.end  # a state is of all that was read
        if len(read) > span.start and not (parted and contents.states):
            row.resident.prefixes.keep(span.key, span.of(read), contents, offset + span.start)


def _after(first: Any, row: Row, found: Contents) -> Contents:
    """``found`` after the row's soft prompt, which is in its ``first`` cache."""
    if not row.applied.prefix or row.resident.packed is not None:
        return found
    soft = contents_of(first)
    planes = [
        torch.cat((plane[: soft.positions], known)) for plane, known in zip(soft.planes, found.planes, strict=True)
    ]
    return Contents(planes, soft.positions + found.positions, found.states)


def _most_in_common(row: Row, ahead: Sequence[Row]) -> tuple[Row | None, int]:
    """Of the rows ``ahead`` that are still reading, the one whose prompt begins as this one's for longest, and how long."""
    like = [one for one in ahead if one.resident is row.resident and _reading(one) and reuses(one)]
    counts = [(one, count) for one in like if (count := _in_common(row, one)) >= _WORTH_WAITING]
    match = _find(row) if counts else None
    found: tuple[Row | None, int] = (None, _WORTH_WAITING - 1 + (match.positions if match else 0))
    for other, count in counts:
        if count > found[1] and _can_stop_at(other, count):
            found = other, count
    return found


def _in_common(row: Row, other: Row) -> int:
    """How many tokens of the row's prompt, but for its last one, the ``other`` reads and keeps for it."""
    assert row.prompt is not None
    assert other.prompt is not None
    ids = row.prompt.token_ids
    for ours, theirs in zip(_spans(row, _regime(row)), _spans(other, _regime(other)), strict=False):
        if ours.key != theirs.key:
            return min(ours.start, len(ids) - 1)
    return min(shared(ids, other.prompt.token_ids), len(ids) - 1)


def _can_stop_at(other: Row, count: int) -> bool:
    """Ask a row that is read by a model with states to leave one after ``count`` tokens; False where it is past that."""
    if not other.resident.recurrent:
        return True
    if not other.resident.snapshots or other.state is None or _read(other) >= count:
        return False
    other.state.stops.add(count)
    return True


def _reading(row: Row) -> bool:
    """Whether its prompt is still being read, or about to be; what one has read that is being stopped is kept as it ends."""
    if row.settled:
        return False
    return row.state is None or (row.state.slot is None and not row.state.ids)


def _read(row: Row) -> int:
    """How many tokens of its prompt are read."""
    if row.state is None:
        return 0
    return int(row.state.reading.read - row.applied.positions if row.state.reading is not None else row.state.read)
