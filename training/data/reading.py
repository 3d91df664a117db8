"""Passages to summarize, to answer questions about and to extract fields from."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from training.data import words
from training.data.sample import Sample, article, ask, pick

SUMMARIZE = [
    "Summarize: {0}", "Summarize this text: {0}", "Summarize this in one sentence: {0}", "Give me a short summary: {0}", "{0}\n\nSummarize the text above.",
    "Please summarize the following text.\n\n{0}", "What is this text about? {0}", "Write a one sentence summary of this: {0}", "TL;DR: {0}", "Shorten this text: {0}",
]  # fmt: skip
ASK = [
    "{0} {1}",
    "{0}\n\n{1}",
    "Read this: {0} {1}",
    "Text: {0}\nQuestion: {1}",
    "{1} {0}",
    "Answer from the text. {0} {1}",
]
EXTRACT = [
    "Extract the {0} as JSON: {1}",
    "{1}\n\nExtract the {0} as JSON.",
    "Give me the {0} as JSON. {1}",
    "Return JSON with the {0}: {1}",
]


@dataclass(frozen=True)
class Passage:
    key: str
    text: str
    summary: str
    questions: tuple[tuple[str, str, str], ...]
    fields: tuple[tuple[str, str], ...]


def portrait(rng: random.Random) -> Passage:
    name, job, city, hobby, pet = (
        words.person(rng),
        rng.choice(words.JOBS),
        rng.choice(words.CITIES),
        rng.choice(words.HOBBIES),
        rng.choice(words.PETS),
    )
    sentences = [f"{name} is {article(job)} from {city}.", f"{name} likes {hobby}.", f"{name} has {article(pet)}."]
    extra = rng.choice(
        [
            "The mornings are quiet.",
            "The work is hard but good.",
            "Life there is calm.",
            f"The {pet} is very old.",
            "It is a nice place.",
            "Many friends live there.",
        ]
    )
    if rng.random() < 0.6:
        sentences.insert(rng.randint(1, 3), extra)
    return Passage(
        f"portrait|{name}|{job}", " ".join(sentences), f"{name} is {article(job)} from {city} who likes {hobby}.",
        (
            (f"What is {name}'s job?", f"{name} is {article(job)}.", job), (f"Where is {name} from?", f"{name} is from {city}.", city),
            (f"What does {name} like?", f"{name} likes {hobby}.", hobby), (f"What pet does {name} have?", f"{name} has {article(pet)}.", pet),
            (f"Who is the {job}?", f"{name} is the {job}.", name), (f"Who likes {hobby}?", f"{name} likes {hobby}.", name),
        ),
        (("name", name), ("job", job), ("city", city), ("hobby", hobby), ("pet", pet)),
    )  # fmt: skip


def event(rng: random.Random) -> Passage:
    name, job, city, day = words.person(rng), rng.choice(words.JOBS), rng.choice(words.CITIES), rng.choice(words.DAYS)
    verb, thing = (
        rng.choice("found lost bought sold painted repaired broke built stole made".split()),
        words.any_word(rng),
    )
    look = rng.choice(words.ADJECTIVES)
    crowd = rng.choice(
        [
            "Everyone was surprised.",
            "The neighbors talked about it all day.",
            "Nobody knows why.",
            "The people of the town were glad.",
            "It was in the news.",
            "A crowd came to see it.",
        ]
    )
    weather = rng.choice(
        ["It was a cold morning.", "The sun was shining.", "It was raining hard.", "The market was full.", ""]
    )
    text = f"{weather} On {day}, {article(job)} named {name} {verb} {article(look)} {thing} in {city}. {crowd}".strip()
    return Passage(
        f"event|{name}|{thing}", text, f"{name} {verb} {article(look)} {thing} in {city}.",
        (
            (f"Who {verb} the {thing}?", f"{name} {verb} the {thing}.", name), (f"Where was the {thing}?", f"The {thing} was in {city}.", city),
            (f"When was it that {name} {verb} the {thing}?", f"It was on {day}.", day), (f"What is {name}'s job?", f"{name} is {article(job)}.", job),
            (f"How did the {thing} look?", f"The {thing} was {look}.", look),
        ),
        (("name", name), ("job", job), ("city", city), ("day", day)),
    )  # fmt: skip


def opening(rng: random.Random) -> Passage:
    name, city, day, price = words.person(rng), rng.choice(words.CITIES), rng.choice(words.DAYS), rng.randint(2, 90)
    place, thing = (
        rng.choice("shop museum library bakery cafe school garden market theater studio".split()),
        rng.choice(words.PLURALS[:40])[1],
    )
    text = (
        f"A new {place} opened in {city} on {day}. It is run by {name} and it is known for its {thing}. A visit costs {price} coins. "
        + rng.choice(
            [
                "Many people came on the first day.",
                "The street is much busier now.",
                "The owner hopes for many guests.",
                "Children may come for free.",
            ]
        )
    )
    return Passage(
        f"opening|{name}|{place}", text, f"{name} opened a new {place} in {city} known for its {thing}.",
        (
            (f"Who runs the {place}?", f"{name} runs the {place}.", name), (f"Where is the {place}?", f"The {place} is in {city}.", city),
            ("When did it open?", f"It opened on {day}.", day), ("How much is a visit?", f"A visit costs {price} coins.", str(price)),
            ("What is it known for?", f"It is known for its {thing}.", thing),
        ),
        (("name", name), ("city", city), ("day", day), ("price", str(price))),
    )  # fmt: skip


def meeting(rng: random.Random) -> Passage:
    (a, b), day, hour = (words.person(rng), words.person(rng)), rng.choice(words.DAYS), rng.randint(1, 12)
    topic = rng.choice(
        [
            "the budget",
            "the new app",
            "the party",
            "the website",
            "the plan",
            "the garden",
            "the report",
            "the trip",
            "the test results",
        ]
    )
    action = rng.choice(
        [
            "write a report",
            "call the bank",
            "buy the tickets",
            "fix the bug",
            "send the invoice",
            "clean the room",
            "check the numbers",
            "train the model",
        ]
    )
    text = f"{a} and {b} met on {day} at {hour} to talk about {topic}. They talked for a long time. In the end {b} agreed to {action}. {a} will help."
    return Passage(
        f"meeting|{a}|{b}", text, f"{a} and {b} met about {topic}, and {b} will {action}.",
        (
            ("When did they meet?", f"They met on {day} at {hour}.", day), ("What did they talk about?", f"They talked about {topic}.", topic),
            (f"What will {b} do?", f"{b} will {action}.", action), ("Who will help?", f"{a} will help.", a),
        ),
        (("first", a), ("second", b), ("day", day)),
    )  # fmt: skip


def facts_of_nature(rng: random.Random) -> Passage:
    term, _, sentence = rng.choice(words.DEFINITIONS)
    filler = rng.sample(
        [
            "Many people know this.",
            "It is taught in school.",
            "It is used every day.",
            "There are many books about it.",
            "Experts talk about it often.",
            "It is not hard to understand.",
        ],
        2,
    )
    return Passage(f"nature|{term}|{filler[0]}", " ".join([sentence, *filler]), sentence, (), ())


PASSAGES = (portrait, event, opening, meeting)


def summary(rng: random.Random) -> Sample:
    passage = rng.choice((*PASSAGES, *PASSAGES, facts_of_nature))(rng)
    _, phrasing = pick(rng, SUMMARIZE)
    return ask("summary", passage.key, phrasing.format(passage.text), passage.summary)


def reading(rng: random.Random) -> Sample:
    passage = rng.choice(PASSAGES)(rng)
    question, answer, short = rng.choice(passage.questions)
    _, phrasing = pick(rng, ASK)
    return ask("reading", passage.key, phrasing.format(passage.text, question), answer, short)


def conversation_about_text(rng: random.Random) -> Sample:
    """Several questions about one passage, one after the other."""
    passage = rng.choice(PASSAGES)(rng)
    chosen = rng.sample(passage.questions, rng.randint(2, 3))
    messages = [("user", f"{passage.text} {chosen[0][0]}"), ("assistant", chosen[0][1])]
    for question, answer, _ in chosen[1:]:
        messages += [("user", question), ("assistant", answer)]
    return Sample("reading", passage.key, tuple(messages), chosen[-1][2])


def extraction(rng: random.Random) -> Sample:
    passage = rng.choice(PASSAGES)(rng)
    chosen = rng.sample(passage.fields, rng.randint(2, min(4, len(passage.fields))))
    names = [field for field, _ in chosen]
    listed = ", ".join(names[:-1]) + " and " + names[-1]
    _, phrasing = pick(rng, EXTRACT)
    return ask("extract", passage.key, phrasing.format(listed, passage.text), json.dumps(dict(chosen)))
