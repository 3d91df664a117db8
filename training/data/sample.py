"""One training sample, and the rule that says which samples are held out."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

HELD_OUT_PERCENT = 12


@dataclass(frozen=True)
class Sample:
    """A short conversation that ends with the answer to learn.

    `key` names what the sample tests (fact and phrasing, pair of numbers, remembered value, ...): the split is
    made on it, so no key is ever on both sides. `short` is the bare answer for system prompts that ask for it.
    """

    task: str
    key: str
    messages: tuple[tuple[str, str], ...]
    short: str = ""

    @property
    def prompt(self) -> tuple[tuple[str, str], ...]:
        return self.messages[:-1]

    @property
    def question(self) -> str:
        return self.messages[-2][1]

    @property
    def answer(self) -> str:
        return self.messages[-1][1]

    @property
    def has_system(self) -> bool:
        return self.messages[0][0] == "system"

    @property
    def held_out(self) -> bool:
        return is_held_out(self.key)


Generator = Callable[[random.Random], Sample]


def is_held_out(key: str) -> bool:
    """The side of a key; what every user types first ("train|...") is never held out."""
    return not key.startswith("train|") and zlib.crc32(key.encode()) % 100 < HELD_OUT_PERCENT


def ask(task: str, key: str, question: str, answer: str, short: str = "", system: str = "") -> Sample:
    """A single-turn sample."""
    head = (("system", system),) if system else ()
    return Sample(task, key, (*head, ("user", question), ("assistant", answer)), short)


def draw(generator: Generator, rng: random.Random, split: str) -> Sample:
    """Draw until the sample is on the wanted side: "train" or "test"."""
    wanted = split == "test"
    while (sample := generator(rng)).held_out != wanted:
        pass
    return sample


def pick(rng: random.Random, phrasings: list[str]) -> tuple[int, str]:
    """A phrasing and its number, which goes into the key."""
    index = rng.randrange(len(phrasings))
    return index, phrasings[index]


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
