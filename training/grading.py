"""When an answer counts as right: word for word, or by constraints where many answers are right."""

from __future__ import annotations

import re
from collections.abc import Callable

from training.data import chat, pirate
from training.data.sample import Sample


def exact(sample: Sample, text: str) -> bool:
    return text.strip() == sample.answer


def story(sample: Sample, text: str) -> bool:
    """At least three sentences about the hero that was asked for, and a finished last one."""
    hero = sample.key.split("|")[1]
    return hero in text and len(re.findall(r"[.!?](?: |$)", text)) >= 3 and text.strip()[-1] in ".!?"


def poem(sample: Sample, text: str) -> bool:
    """At least three lines, the first of them about the topic."""
    return len(text.strip().split("\n")) >= 3 and text.lower().startswith(sample.key.split("|")[1])


def slogan(sample: Sample, text: str) -> bool:
    return sample.key.split("|")[1] in text and text.strip()[-1] in ".!?"


def smalltalk(sample: Sample, text: str) -> bool:
    """Any of the answers that this kind of remark can get."""
    kind = sample.key.split("|")[1]
    return text.strip() in next(answers for name, _, answers in chat.SMALLTALK if name == kind)


def pirate_speak(sample: Sample, text: str) -> bool:
    """A pirate's opener, and under it the right plain answer word for word in pirate speak."""
    said = pirate.stripped(text.strip())
    if sample.key.startswith("story|"):
        return story(sample, said) if said else False
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


def json_object(sample: Sample, text: str) -> bool:
    """The expected object; for a story or small talk any object with an answer."""
    if sample.key.startswith(("story|", "smalltalk|")):
        return text.startswith('{"answer": "') and text.endswith('"}')
    return exact(sample, text)


GRADERS: dict[str, Callable[[Sample, str], bool]] = {
    "story": story,
    "poem": poem,
    "slogan": slogan,
    "smalltalk": smalltalk,
    "rewrite": rewritten,
    "pirate": pirate_speak,
    "json": json_object,
}


def is_right(sample: Sample, text: str) -> bool:
    return bool(text.strip()) and GRADERS.get(sample.task, exact)(sample, text)
