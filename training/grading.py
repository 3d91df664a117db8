"""When an answer counts as right: word for word, or by constraints where many answers are right."""

from __future__ import annotations

import re
from collections.abc import Callable

from training.data import chat, pirate
from training.data.sample import Sample


def exact(sample: Sample, text: str) -> bool:
    return text.strip() == sample.answer


def story(sample: Sample, text: str) -> bool:
    """At least three sentences with the hero, trait and place that were asked for, the last one finished."""
    _, hero, trait, place, _ = sample.key.split("|")
    asked_for = all(part in text for part in (hero, trait, place))
    return asked_for and len(re.findall(r"[.!?](?: |$)", text)) >= 3 and text.strip()[-1] in ".!?"


def poem(sample: Sample, text: str) -> bool:
    """At least three lines, the first of them about the topic."""
    return len(text.strip().split("\n")) >= 3 and text.lower().startswith(sample.key.split("|")[1])


def writing(sample: Sample, text: str) -> bool:
    """A slogan names its thing and a naming its kind; an email is judged word for word."""
    kind, subject = sample.key.split("|")[:2]
    return exact(sample, text) if kind == "email" else subject in text and text.strip()[-1] in ".!?"


def smalltalk(sample: Sample, text: str) -> bool:
    """Any of the answers that this kind of remark can get."""
    kind = sample.key.split("|")[1]
    return text.strip() in next(answers for name, _, answers in chat.SMALLTALK if name == kind)


def pirate_speak(sample: Sample, text: str) -> bool:
    """A pirate's opener, and after it the right plain answer word for word in pirate speak."""
    said = pirate.stripped(text.strip())
    if sample.key.startswith("story|"):
        _, hero, trait, place, _ = sample.key.split("|")
        return all(pirate.body(part) in said for part in (hero, trait, place)) and said[-1:] in (".", "!", "?")
    if sample.key.startswith(("poem|", "haiku|")):
        return bool(said) and len(said.split("\n")) >= 3
    if sample.key.startswith("smalltalk|"):
        kind = sample.key.split("|")[1]
        return said in [
            pirate.body(answer) for name, _, answers in chat.SMALLTALK if name == kind for answer in answers
        ]
    plain = sample.short
    return said == (plain if plain.startswith("```") else pirate.body(plain))


def rewritten(sample: Sample, text: str) -> bool:
    """The given sentence in pirate speak, under any opener."""
    return pirate.stripped(text.strip()) == pirate.body(sample.short)


GRADERS: dict[str, Callable[[Sample, str], bool]] = {
    "story": story,
    "poem": poem,
    "writing": writing,
    "smalltalk": smalltalk,
    "rewrite": rewritten,
    "pirate": pirate_speak,
}


def is_right(sample: Sample, text: str) -> bool:
    return bool(text.strip()) and GRADERS.get(sample.task, exact)(sample, text)
