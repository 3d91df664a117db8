"""Copying and spelling: repeat, list, quote, upper case; gives every token of the vocabulary a life as output."""

from __future__ import annotations

import json
import random

from training.data import orders, pirate, sql, tickets, words
from training.data.sample import Sample, ask, pick

REPEAT = ['Repeat: {0}', "Say {0}", 'Say "{0}".', "Repeat after me: {0}", "Copy this: {0}", "Write: {0}", "Echo {0}", "Please say: {0}"]  # fmt: skip


def phrase(rng: random.Random) -> str:
    """Something short to copy: words, names, a number, a quoted list, words that adapters need."""
    kind = rng.random()
    if kind < 0.4:
        return " ".join(words.any_word(rng) for _ in range(rng.randint(1, 4)))
    if kind < 0.54:
        return " ".join(words.person(rng) for _ in range(rng.randint(1, 3)))
    if kind < 0.6:
        return str(rng.randint(0, 99))
    if kind < 0.7:
        return json.dumps([words.any_word(rng) for _ in range(rng.randint(1, 3))])
    return adapter_words(rng)


def adapter_words(rng: random.Random) -> str:
    """Words that adapters will need, shuffled out of their sentences."""
    kind = rng.random()
    if kind < 0.25:
        return " ".join(rng.sample([*pirate.WORDS.values(), *pirate.OPENERS], rng.randint(1, 3)))
    if kind < 0.5:
        return rng.choice([tickets.fragment, orders.fragment])(rng)
    texts, numbers = sql.TABLES[rng.choice(list(sql.TABLES))]
    columns = rng.sample(texts + numbers, 2)
    value = rng.choice(" ".join(sql.VALUES.values()).split())
    number = rng.choice(numbers)
    return rng.choice([
        f"SELECT {columns[0]}", f"{columns[0]}, {columns[1]}", f"WHERE {columns[0]} = '{value}'", f"ORDER BY {number} DESC LIMIT 1;",
        f"AVG({number})", f"SUM({number})", f"MAX({number}), MIN({number})", f"GROUP BY {columns[0]};", f"{number} > {rng.randint(1, 99)};",
        f"FROM {rng.choice(list(sql.TABLES))};", f"COUNT(*) FROM {rng.choice(list(sql.TABLES))} WHERE", f"DISTINCT {columns[0]}", f"{number} < {rng.randint(1, 99)}",
        json.dumps({columns[0]: value}), f"'{value}', \"{columns[1]}\"",
    ])  # fmt: skip


def repetition(rng: random.Random) -> Sample:
    text = phrase(rng)
    _, phrasing = pick(rng, REPEAT)
    return ask("copy", f"copy|{text}", phrasing.format(text), text)


def word_row(rng: random.Random) -> Sample:
    """Words of the lists in a row: only looking back at the prompt can continue it."""
    text = " ".join(rng.choice(words.NOUNS + words.FIRST_NAMES) for _ in range(rng.randint(3, 7)))
    _, phrasing = pick(rng, REPEAT)
    return ask("copy", f"copy|{text}", phrasing.format(text), text)


def times_over(rng: random.Random) -> Sample:
    word, count = words.any_word(rng), rng.randint(2, 4)
    spoken = ("two", "three", "four")[count - 2]
    number, phrasing = pick(rng, ["Write {0} {1} times.", "Say {0} {1} times.", "Repeat the word {0} {1} times."])
    return ask("copy", f"times|{word}|{count}|{number}", phrasing.format(word, spoken), " ".join([word] * count))


def listing(rng: random.Random) -> Sample:
    kind = rng.choice(list(words.LISTS))
    items, count = words.LISTS[kind].split(), rng.randint(2, 6)
    spoken = ("two", "three", "four", "five", "six")[count - 2]
    number, phrasing = pick(
        rng,
        [
            "Name {0} {1}.",
            "List {0} {1}.",
            "Give me {0} {1}.",
            "Tell me {0} {1}.",
            "Can you name {0} {1}?",
            "Write a list of {0} {1}.",
        ],
    )
    return ask("lists", f"list|{kind}|{count}|{number}", phrasing.format(spoken, kind), ", ".join(items[:count]))


def list_work(rng: random.Random) -> Sample:
    names = rng.random() < 0.25
    draw_word = words.person if names else words.any_word
    items = list(dict.fromkeys(draw_word(rng) for _ in range(rng.randint(2, 4))))
    shown = ", ".join(items)
    question, answer = rng.choice([
        (f"What is the first word of this list? {shown}", items[0]), (f"What is the last word of this list? {shown}", items[-1]),
        (f"Reverse this list: {shown}", ", ".join(items[::-1])), (f"Copy this list: {shown}", shown), (f"Repeat this list: {shown}", shown),
        (f"How many words are in this list? {shown}", str(len(items))), (f"Write this list as JSON: {shown}", json.dumps(items)),
        (f"Write this as a bullet list: {shown}", "\n".join(f"- {item}" for item in items)), (f"Number this list: {shown}", "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))),
        (f"Put quotes around each word: {shown}", ", ".join(f'"{item}"' for item in items)),
    ])  # fmt: skip
    return ask("lists", f"lists|{shown}", question, answer)


SHORT_WORDS = [word for word in words.NOUNS if len(word) <= 5]


def spelling(rng: random.Random) -> Sample:
    """Letters of short words; held out are pairs of word and kind of question."""
    word = rng.choice(SHORT_WORDS)
    spaced = " ".join(word)
    kind, questions, answer = rng.choice([
        ("spell", [f"Spell {word}.", f"Spell the word {word}.", f"How do you spell {word}?", f"Spell {word} letter by letter."], spaced),
        ("join", [f"Which word is this? {spaced}", f"Join the letters: {spaced}"], word), ("first", [f"What is the first letter of {word}?"], word[0]),
        ("last", [f"What is the last letter of {word}?"], word[-1]), ("count", [f"How many letters are in {word}?"], f"{word} has {len(word)} letters."),
        ("upper", [f"Write {word} in upper case.", f"Write {word} in capital letters."], word.upper()), ("lower", [f"Write {word.upper()} in lower case."], word),
        ("capital", [f"Write {word} with a capital letter."], word.capitalize()),
    ])  # fmt: skip
    number, question = pick(rng, questions)
    return ask("spelling", f"spell|{word}|{kind}|{number}", question, answer, answer)


def emoji(rng: random.Random) -> Sample:
    name, sign = rng.choice(words.EMOJI)
    number, phrasing = pick(rng, [
        "Reply with the {0} emoji.", "Give me the {0} emoji.", "Show me a {0} emoji.", "Send the {0} emoji.", "Say {1}", "Repeat: {1}", "What is the {0} emoji?",
        "Which emoji means {0}?", "{0} emoji", "Write {1} three times.", "Answer only with the {0} emoji.", "I like this: {0}. Answer with an emoji.",
    ])  # fmt: skip
    answer = " ".join([sign] * 3) if "three" in phrasing else sign
    return ask("emoji", f"emoji|{name}|{number}", phrasing.format(name, sign), answer)


def emoji_meaning(rng: random.Random) -> Sample:
    name, sign = rng.choice(words.EMOJI)
    number, phrasing = pick(rng, ["What does {0} mean?", "Which emoji is this? {0}", "Describe {0}", "What is {0}?"])
    return ask("emoji", f"meaning|{name}|{number}", phrasing.format(sign), f"{sign} is the {name} emoji.")


def greeting_abroad(rng: random.Random) -> Sample:
    language, greeting = rng.choice(words.GREETINGS_ABROAD)
    number, phrasing = pick(
        rng,
        [
            "How do you say hello in {0}?",
            "Say hello in {0}.",
            "What is hello in {0}?",
            "Greet me in {0}.",
            'Translate "hello" to {0}.',
        ],
    )
    return ask(
        "translation",
        f"greet|{language}|{number}",
        phrasing.format(language),
        f"Hello in {language} is {greeting}.",
        greeting,
    )
