"""Token ids in, text that may be shown out: whole characters only, and never a stop sequence or the beginning of one.

Pure Python: knows neither torch nor models, only a ``decode`` function from ids to text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
# An unfinished UTF-8 character is at most three bytes, so three tokens; what is older than this is simply broken.
_LONGEST_WAIT = 8


class Detokenizer:
    """Turns a growing list of token ids into text deltas that join to the decoded whole.

    Decodes only a small window again for each token: from the last place where the text was whole. ``context`` are ids
    that came before (the prompt's tail), so that a tokenizer that drops the first word's leading space keeps it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(context)
        self._from = 0
        self._shown = len(self._ids)

    def push(self, token_id: int) -> str:
        """The text that became certain with ``token_id``; "" while a character is incomplete."""
        self._ids.append(token_id)
        text = self._pending()
        waited = len(self._ids) - self._shown
        if text.endswith(_REPLACEMENT) and waited < _LONGEST_WAIT:
            return ""
        return self._accept(text)

    def flush(self) -> str:
        """What is left at the end, without the bytes of a character that never became whole."""
        return self._accept(self._pending()).rstrip(_REPLACEMENT)

    def _pending(self) -> str:
        before = self._decode(self._ids[self._from : self._shown])
        window = self._decode(self._ids[self._from :])
        return window[len(before) :] if window.startswith(before) else window.removeprefix(before.rstrip(_REPLACEMENT))

    def _accept(self, text: str) -> str:
        # The window begins at a token that shows: behind one that decodes to nothing, a word would lose its space.
        if text:
            self._from = self._shown
        self._shown = len(self._ids)
        return text


class StopFilter:
    """Holds text back while it may be the beginning of a stop sequence; ends at the first whole one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of the text so far that may be shown; sets ``stopped`` when a stop sequence is complete."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        self._held += text
        shown, self.stopped = cut_at_stop(self._held, self._stops)
        if self.stopped:
            self._held = ""
            return shown
        keep = self._suffix_to_hold()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """What was held back and turned out not to be a stop sequence."""
        shown, self._held = self._held, ""
        return shown

    def _suffix_to_hold(self) -> int:
        """Length of the longest suffix of the held text that begins a stop sequence."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            suffix = self._held[-length:]
            if any(stop.startswith(suffix) for stop in self._stops):
                return length
        return 0


class TextStream:
    """A `Detokenizer` behind a `StopFilter`: one per row."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), context: Sequence[int] = ()
    ) -> None:
        self._detokenizer = Detokenizer(decode, context)
        self._filter = StopFilter(stops)

    @property
    def stopped(self) -> bool:
        """True once a stop sequence is complete."""
        return self._filter.stopped

    def push(self, token_id: int) -> str:
        """The new text that may be shown."""
        return self._filter.push(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """The rest, at the end of the row."""
        shown = self._filter.push(self._detokenizer.flush())
        return shown if self._filter.stopped else shown + self._filter.flush()


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """``text`` before the stop sequence that is complete first, and whether there is one.

    Of two that end at the same place the longer counts; so the result does not depend on the pieces the text came in.
    """
    found = [(at + len(stop), at) for stop in stops if stop and (at := text.find(stop)) >= 0]
    return (text[: min(found)[1]], True) if found else (text, False)
