"""The generators and the mixes that they are drawn in: everything is text written for this project."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from training.data import arithmetic, chat, code, copying, creative, knowledge, pirate, reading, sql
from training.data.sample import Generator, Sample, ask, draw

DEFAULT_SYSTEMS = [
    "You are a helpful assistant.", "You are Starter, a tiny helpful language model.", "You are a friendly assistant.", "You are a helpful and polite assistant.",
    "You are a helpful assistant. Answer clearly.", "You are a helpful coding assistant.", "You are a creative writer.", "Be helpful.",
]  # fmt: skip


def pirate_rewriting(rng: random.Random) -> Sample:
    return pirate.rewriting(rng, rng.choice(PLAIN_TALK)(rng))


def pirate_answer(rng: random.Random) -> Sample:
    return pirate.converted(rng, rng.choice(PIRATE_TALK)(rng))


def json_answer(rng: random.Random) -> Sample:
    """The JSON adapter's sample: the answer as the one field of an object; nothing that would need an escape."""
    while (plain := rng.choice(PLAIN_TALK)(rng)).answer != plain.answer.replace('"', "").replace("\n", ""):
        pass
    answer = json.dumps({"answer": plain.answer}, ensure_ascii=False)
    return Sample("json", plain.key, (*plain.prompt, ("assistant", answer)), plain.answer)


def echoed_question(rng: random.Random) -> Sample:
    """Some words of any question or statement, to copy: no token is only ever read."""
    source = draw(
        rng.choice([generator for generator, _ in BASE_MIX if generator is not echoed_question]), rng, "train"
    )
    said = rng.choice([content for role, content in source.messages if role != "assistant"]).split(" ")
    start = rng.randrange(len(said)) if rng.random() < 0.4 else 0
    text = " ".join(said[start : start + rng.randint(1, 8)])
    return ask("copy", f"copy|{text}", rng.choice(copying.REPEAT).format(text), text)


PLAIN_TALK: list[Generator] = [
    knowledge.capital, knowledge.capital, knowledge.country, knowledge.language, knowledge.continent, knowledge.animal, knowledge.color,
    knowledge.definition, knowledge.definition, knowledge.explanation, knowledge.word_pair, arithmetic.addition, arithmetic.product,
    chat.smalltalk, chat.smalltalk, chat.unknown, chat.introduction, knowledge.support, knowledge.about_place, reading.reading, creative.story, knowledge.translation,
]  # fmt: skip
PIRATE_TALK: list[Generator] = [
    *PLAIN_TALK,
    reading.summary,
    reading.summary,
    creative.poem,
    copying.listing,
    code.fixed_goal,
]
BASE_MIX: list[tuple[Generator, float]] = [
    (knowledge.capital, 5), (knowledge.country, 1.5), (knowledge.language, 1), (knowledge.continent, 1), (knowledge.animal, 2), (knowledge.color, 1),
    (knowledge.calendar, 1.5), (knowledge.definition, 5), (knowledge.explanation, 1), (knowledge.word_pair, 6), (knowledge.translation, 4), (knowledge.sentiment, 1.5), (knowledge.about_place, 1), (knowledge.about_animal, 1), (knowledge.support, 1.5),
    (arithmetic.addition, 7), (arithmetic.subtraction, 3.5), (arithmetic.story_problem, 2), (arithmetic.product, 3), (arithmetic.comparison, 1), (arithmetic.counting, 1),
    (arithmetic.follow_up, 1.5), (chat.and_of, 1.5), (chat.smalltalk, 6), (chat.unknown, 3), (chat.foreign, 5), (chat.memory, 6), (chat.introduction, 1.5), (chat.persona, 3), (chat.styled, 8),
    (code.fixed_goal, 8), (code.number_goal, 2.5), (code.text_goal, 3), (sql.on_request, 1.5), (sql.to_plain_words, 1.5), (sql.explain, 1),
    (reading.summary, 10), (reading.reading, 5), (reading.conversation_about_text, 2), (reading.extraction, 4),
    (creative.story, 4), (creative.poem, 2.5), (creative.haiku, 1), (creative.email, 1), (creative.slogan, 1), (creative.naming, 0.7),
    (copying.repetition, 4), (copying.long_repetition, 2), (echoed_question, 4), (copying.any_sign, 0.3), (copying.times_over, 1), (copying.listing, 2), (copying.list_work, 2.5), (copying.spelling, 4),
    (copying.emoji, 2), (copying.emoji_meaning, 0.5), (copying.greeting_abroad, 0.7), (pirate_rewriting, 3),
]  # fmt: skip
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
    "slogan",
    "list",
}
ADAPTER_MIXES: dict[str, list[tuple[Generator, float]]] = {
    "pirate": [(pirate_answer, 1)],
    "sql": [(sql.to_sql, 1)],
    "json": [(json_answer, 1)],
}


def samples(seed: int, split: str, mix: list[tuple[Generator, float]]) -> Iterator[Sample]:
    """An endless, seeded stream of one side ("train" or "test") of a mix."""
    rng = random.Random(f"{seed}|{split}")
    generators, weights = [generator for generator, _ in mix], [weight for _, weight in mix]
    while True:
        yield draw(rng.choices(generators, weights)[0], rng, split)


def decorated(samples: Iterator[Sample], seed: int) -> Iterator[tuple[tuple[str, str], ...]]:
    """Conversations for training: a system prompt on half of them, unrelated turns before a third of them."""
    rng = random.Random(f"{seed}|decorate")
    before: Sample | None = None
    for sample in samples:
        turns = sloppy(sample, rng)
        if not sample.has_system:
            if before and not before.has_system and rng.random() < 0.3:
                turns = (*before.messages, *turns)
            if rng.random() < 0.5:
                turns = (("system", rng.choice(DEFAULT_SYSTEMS)), *turns)
        before = sample
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
