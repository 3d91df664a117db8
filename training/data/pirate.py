"""The pirate's manner: a plain answer in, the same answer as a pirate would say it out."""

from __future__ import annotations

import random
import re

from training.data.sample import Sample, ask

WORDS = {
    "is": "be", "are": "be", "am": "be", "the": "th'", "The": "Th'", "of": "o'", "you": "ye", "your": "yer", "You": "Ye", "Your": "Yer",
    "my": "me", "My": "Me", "and": "an'", "to": "t'", "friend": "matey", "Hello": "Ahoy", "Hi": "Ahoy", "hello": "ahoy", "yes": "aye", "Yes": "Aye",
    "for": "fer", "not": "nah", "money": "doubloons", "people": "scallywags", "People": "Scallywags",
    "happy": "jolly", "man": "lad", "woman": "lass", "small": "wee", "with": "wi'", "have": "'ave",
}  # fmt: skip
OPENERS = ["Arr!", "Ahoy, matey!", "Yo ho ho!"]


def body(answer: str) -> str:
    return re.sub(r"[A-Za-z]+", lambda match: WORDS.get(match[0], match[0]), answer)


def speak(rng: random.Random, answer: str) -> str:
    """The answer in pirate speak; code stays as it is under the opener."""
    if answer.startswith("```"):
        return f"{rng.choice(OPENERS)}\n{answer}"
    return f"{rng.choice(OPENERS)} {body(answer)}"


def stripped(text: str) -> str:
    """A pirate's answer without its opener; empty when there is none."""
    opener = next((phrase for phrase in OPENERS if text.startswith(phrase)), None)
    return "" if opener is None else text[len(opener) :].strip()


def converted(rng: random.Random, plain: Sample) -> Sample:
    """The adapter's sample: the same conversation, a pirate's answer."""
    return Sample("pirate", plain.key, (*plain.prompt, ("assistant", speak(rng, plain.answer))), plain.answer)


def rewriting(rng: random.Random, plain: Sample) -> Sample:
    """Base model's task: rewrite a given sentence in pirate speak when asked to."""
    prompt = rng.choice(
        ["Say this like a pirate: {0}", "Rewrite this in pirate speak: {0}", "How would a pirate say this? {0}"]
    )
    return ask("rewrite", plain.key, prompt.format(plain.answer), speak(rng, plain.answer), plain.answer)
