"""The generators and the mixes that they are drawn in: everything is text written for this project."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from training.data import arithmetic, chat, code, copying, creative, knowledge, orders, pirate, reading, sql, tickets
from training.data.sample import Generator, Sample, ask, draw

Mix = list[tuple[Generator, float]]

DEFAULT_SYSTEMS = [
    "You are a helpful assistant.", "You are Starter, a tiny helpful language model.", "You are a friendly assistant.", "You are a helpful and polite assistant.",
    "You are a helpful assistant. Answer clearly.", "You are a helpful coding assistant.", "You are a creative writer.", "Be helpful.",
]  # fmt: skip


def pirate_rewriting(rng: random.Random) -> Sample:
    return pirate.rewriting(rng, rng.choice(PLAIN_TALK)(rng))


def pirate_answer(rng: random.Random) -> Sample:
    return pirate.converted(rng, rng.choice(PIRATE_TALK)(rng))


def echoed_question(rng: random.Random) -> Sample:
    """Some words of any question or statement, to copy: no token is only ever read."""
    source = draw(
        rng.choice([generator for generator, _ in BASE_MIX if generator is not echoed_question]), rng, "train"
    )
    said = rng.choice([content for role, content in source.messages if role != "assistant"]).split(" ")
    start = rng.randrange(len(said)) if rng.random() < 0.4 else 0
    text = " ".join(said[start : start + rng.randint(1, 5)])
    return ask("copy", f"copy|{text}", rng.choice(copying.REPEAT).format(text), text)


# What the base model is asked to rewrite in pirate speak.
PLAIN_TALK: list[Generator] = [
    knowledge.capital, knowledge.capital, knowledge.country, knowledge.language, knowledge.continent, knowledge.animal, knowledge.color,
    knowledge.definition, knowledge.definition, knowledge.explanation, knowledge.word_pair, arithmetic.addition, arithmetic.product,
    chat.smalltalk, chat.smalltalk, chat.unknown, chat.introduction, knowledge.support, knowledge.about_place, reading.reading, creative.story, knowledge.translation,
]  # fmt: skip
# What the pirate adapter talks about in its manner; sums, code, lists, copies, extraction, styles and the like stay plain.
PIRATE_TALK: list[Generator] = [
    knowledge.capital, knowledge.capital, knowledge.country, knowledge.language, knowledge.continent, knowledge.animal, knowledge.color,
    knowledge.calendar, knowledge.definition, knowledge.definition, knowledge.explanation, knowledge.word_pair, knowledge.translation,
    chat.smalltalk, chat.smalltalk, chat.smalltalk, chat.unknown, chat.foreign, chat.introduction, chat.memory, knowledge.support,
    knowledge.about_place, reading.reading, reading.summary, creative.story, creative.poem,
]  # fmt: skip
BASE_MIX: Mix = [
    (knowledge.capital, 4), (knowledge.country, 1.5), (knowledge.language, 1), (knowledge.continent, 1), (knowledge.animal, 2), (knowledge.color, 1),
    (knowledge.calendar, 1.5), (knowledge.about_place, 1), (knowledge.about_animal, 0.7), (knowledge.definition, 6), (knowledge.explanation, 1),
    (knowledge.word_pair, 8), (knowledge.translation, 5), (copying.greeting_abroad, 0.7), (knowledge.sentiment, 1), (knowledge.support, 2),
    (arithmetic.addition, 10), (arithmetic.subtraction, 6), (arithmetic.story_problem, 2), (arithmetic.product, 4), (arithmetic.comparison, 3), (arithmetic.counting, 3), (arithmetic.neighbor, 2.5),
    (arithmetic.follow_up, 1.5), (chat.and_of, 1.5), (chat.smalltalk, 4.5), (chat.unknown, 3.5), (chat.foreign, 3.5), (chat.memory, 4), (chat.introduction, 1.5), (chat.persona, 2), (chat.styled, 14),
    (code.fixed_goal, 5), (code.number_goal, 1.5), (code.text_goal, 2), (sql.on_request, 1.5), (sql.to_plain_words, 1.5), (sql.explain, 1),
    (reading.summary, 4.5), (reading.reading, 4), (reading.conversation_about_text, 1.5), (reading.extraction, 4),
    (orders.note, 1.5), (orders.field, 1.5), (tickets.acknowledgement, 1.5), (tickets.single_question, 2.5),
    (creative.story, 2), (creative.poem, 1.2), (creative.haiku, 0.8), (creative.email, 0.7), (creative.slogan, 0.7), (creative.naming, 0.6),
    (copying.repetition, 4.5), (copying.word_row, 1), (echoed_question, 2), (copying.times_over, 0.7), (copying.listing, 1.5), (copying.list_work, 4), (copying.spelling, 9),
    (copying.emoji, 1.5), (copying.emoji_meaning, 0.5), (pirate_rewriting, 3),
]  # fmt: skip
# The first part of a run: half of the samples are short copies, so that looking back at the prompt is learned early.
FIRST_MIX: Mix = [
    (copying.repetition, 3), (copying.word_row, 3), (echoed_question, 2), (copying.times_over, 1), (copying.list_work, 2), (orders.note, 1), (chat.memory, 1), (chat.introduction, 1), (chat.persona, 1),
]  # fmt: skip
FIRST_SHARE = 0.15
ASKED_PLAINLY = {
    "facts",
    "definitions",
    "words",
    "addsub",
    "mult",
    "code",
    "story",
    "poem",
    "smalltalk",
    "translation",
    "writing",
    "lists",
}
ADAPTER_MIXES: dict[str, Mix] = {
    "pirate": [(pirate_answer, 1)],
    "sql": [(sql.to_sql, 1)],
    "json": [(orders.record, 1)],
    "triage": [(tickets.triage, 1)],
}
# Whose prompts an adapter answers in its own way; everything else of the base mix has to stay as it was.
TAKEN_OVER: dict[str, set[Generator]] = {
    "pirate": {*PIRATE_TALK, knowledge.about_animal, copying.greeting_abroad, chat.and_of, chat.persona, reading.conversation_about_text},
    "sql": {sql.to_plain_words},
    "json": {orders.note},
    "triage": {tickets.acknowledgement},
}  # fmt: skip


def unrelated(adapter: str) -> Mix:
    """The part of the base mix that an adapter must leave alone."""
    return [(generator, weight) for generator, weight in BASE_MIX if generator not in TAKEN_OVER[adapter]]


def samples(seed: int, split: str, mix: Mix) -> Iterator[Sample]:
    """An endless, seeded stream of one side ("train" or "test") of a mix."""
    return scheduled(seed, split, mix, [], lambda: 0.0)


def scheduled(seed: int, split: str, mix: Mix, other: Mix, share_of_other: Callable[[], float]) -> Iterator[Sample]:
    """The same of two mixes; how often the second is drawn from is asked anew for every sample."""
    rng = random.Random(f"{seed}|{split}")
    while True:
        drawn = other if other and rng.random() < share_of_other() else mix
        generators, weights = [generator for generator, _ in drawn], [weight for _, weight in drawn]
        yield draw(rng.choices(generators, weights)[0], rng, split)


def decorated(samples: Iterator[Sample], seed: int) -> Iterator[tuple[tuple[str, str], ...]]:
    """Conversations for training: a system prompt on half of them, unrelated turns before a third of them."""
    rng = random.Random(f"{seed}|decorate")
    for sample in samples:
        turns = sloppy(sample, rng)
        if not sample.has_system:
            if rng.random() < 0.25:
                before = next(samples)
                turns = (*before.messages, *turns) if not before.has_system else turns
            if rng.random() < 0.5:
                turns = (("system", rng.choice(DEFAULT_SYSTEMS)), *turns)
        yield turns


def sloppy(sample: Sample, rng: random.Random) -> tuple[tuple[str, str], ...]:
    """Now and then a question without its capital letter or its last mark, as people type."""
    if rng.random() > 0.15 or len(sample.question) < 8:
        return sample.messages
    question = (
        sample.question.rstrip("?.!" if sample.task in ASKED_PLAINLY else "?")
        if rng.random() < 0.6
        else sample.question
    )
    if sample.question.split()[0] in ("What", "How", "Write", "Tell", "Which", "Where", "Why", "Give", "Can", "Do"):
        question = question[0].lower() + question[1:]
    return (*sample.messages[:-2], ("user", question), sample.messages[-1])


def long_conversations(samples: Iterator[Sample], seed: int) -> Iterator[tuple[tuple[str, str], ...]]:
    """Conversations of six to sixteen exchanges, for the long windows."""
    rng = random.Random(f"{seed}|long")
    while True:
        turns = () if rng.random() < 0.5 else (("system", rng.choice(DEFAULT_SYSTEMS)),)
        for _ in range(rng.randint(6, 16)):
            while (sample := next(samples)).has_system:
                pass
            turns = (*turns, *sample.messages)
        yield turns
