"""Facts, words, translations, definitions: questions whose answers the model has to know."""

from __future__ import annotations

import random

from training.data import words
from training.data.sample import Sample, article, ask, capitalized, pick

CAPITAL = [
    "What is the capital of {0}?", "Tell me the capital of {0}.", "Which city is the capital of {0}?", "Name the capital of {0}.",
    "Do you know the capital of {0}?", "What's the capital city of {0}?", "capital of {0}", "{0}'s capital?",
    "What is the name of the capital of {0}?", "I need the capital of {0}.",
]  # fmt: skip
COUNTRY = [
    "{0} is the capital of which country?",
    "Which country has {0} as its capital?",
    "Of what country is {0} the capital?",
]
LANGUAGE = ["What language do people speak in {0}?", "Which language is spoken in {0}?", "What is the language of {0}?"]
CONTINENT = [
    "On which continent is {0}?",
    "What continent is {0} in?",
    "Where in the world is {0}?",
    "Which continent is {0} on?",
]


def capital(rng: random.Random) -> Sample:
    country, city, _ = rng.choice(words.CAPITALS)
    number, phrasing = pick(rng, CAPITAL)
    return ask(
        "facts", f"capital|{country}|{number}", phrasing.format(country), f"The capital of {country} is {city}.", city
    )


def country(rng: random.Random) -> Sample:
    name, city, _ = rng.choice(words.CAPITALS)
    number, phrasing = pick(rng, COUNTRY)
    return ask("facts", f"country|{city}|{number}", phrasing.format(city), f"{city} is the capital of {name}.", name)


def language(rng: random.Random) -> Sample:
    name, _, spoken = rng.choice(words.CAPITALS)
    number, phrasing = pick(rng, LANGUAGE)
    return ask("facts", f"language|{name}|{number}", phrasing.format(name), f"People in {name} speak {spoken}.", spoken)


def continent(rng: random.Random) -> Sample:
    place = rng.choice(list(words.CONTINENTS))
    name = rng.choice(words.CONTINENTS[place].split())
    number, phrasing = pick(rng, CONTINENT)
    return ask("facts", f"continent|{name}|{number}", phrasing.format(name), f"{name} is in {place}.", place)


def animal(rng: random.Random) -> Sample:
    name, sound, baby, home = rng.choice(words.ANIMALS)
    kind, questions, answer, short = rng.choice([
        ("sound", ["What sound does {0} make?", "Which noise does {0} make?", "How does {0} sound?"], f"{capitalized(article(name))} makes the sound {sound}.", sound),
        ("baby", ["What is a baby {1} called?", "What do you call the baby of {0}?", "What is the name for a young {1}?"], f"A baby {name} is called {article(baby)}.", baby),
        ("home", ["Where does {0} live?", "In what place does {0} live?", "Where can I find {0}?"], f"{capitalized(article(name))} lives {home}.", home),
    ])  # fmt: skip
    number, phrasing = pick(rng, questions)
    return ask("facts", f"animal|{kind}|{name}|{number}", phrasing.format(article(name), name), answer, short)


def color(rng: random.Random) -> Sample:
    thing, name = rng.choice(words.COLORS)
    number, phrasing = pick(
        rng,
        ["What color is {0}?", "Which color does {0} have?", "Tell me the color of {0}.", "What is the color of {0}?"],
    )
    return ask("facts", f"color|{thing}|{number}", phrasing.format(thing), f"{capitalized(thing)} is {name}.", name)


def calendar(rng: random.Random) -> Sample:
    cycle, kind = rng.choice([(words.DAYS, "day"), (words.MONTHS, "month")])
    index, step, relation = rng.randrange(len(cycle)), *rng.choice([(1, "after"), (-1, "before")])
    number, phrasing = pick(rng, ["What {0} comes {1} {2}?", "Which {0} is {1} {2}?", "Name the {0} {1} {2}."])
    found = cycle[(index + step) % len(cycle)]
    question = phrasing.format(kind, relation, cycle[index])
    return ask(
        "facts",
        f"calendar|{cycle[index]}|{step}|{number}",
        question,
        f"{found} comes {relation} {cycle[index]}.",
        found,
    )


def definition(rng: random.Random) -> Sample:
    term, field, answer = rng.choice(words.DEFINITIONS)
    bare = term.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    number, phrasing = pick(rng, [
        "What is {0}?", "Explain {0}.", "What does {1} mean?", "Define {1}.", "Explain {0} in one sentence.", "Can you explain {0}?",
        "Tell me about {0}.", "In {2}, what is {0}?", "Please explain {0} in simple words.", "What is meant by {0}?", "Describe {0}.",
        'What does the word "{1}" mean in {2}?', "Explain {0} to a child.", "What's {0}?", "Give me a short definition of {1}.",
    ])  # fmt: skip
    system = f"You are a helpful {field} assistant." if rng.random() < 0.25 else ""
    return ask("definitions", f"define|{term}|{number}", phrasing.format(term, bare, field), answer, system=system)


def explanation(rng: random.Random) -> Sample:
    topic, answer = rng.choice(words.EXPLANATIONS)
    verb = {
        "the sky blue": "is",
        "the sea salty": "is",
        "ice float": "does",
        "bread rise": "does",
        "the moon shine": "does",
        "iron rust": "does",
    }
    number, phrasing = pick(rng, ["Why {0} {1}?", "Can you tell me why {0} {1}?", "Explain this: why {0} {1}?"])
    return ask("definitions", f"why|{topic}|{number}", phrasing.format(verb.get(topic, "do"), topic), answer)


WORD_PAIRS = {
    "opposite": (words.OPPOSITES, ["What is the opposite of {0}?", "Give me the opposite of {0}.", "opposite of {0}", "Which word is the opposite of {0}?", "What is the antonym of {0}?"], "The opposite of {0} is {1}."),
    "plural": (words.PLURALS, ["What is the plural of {0}?", "Give me the plural of {0}.", "Write the plural of {0}.", "plural of {0}"], "The plural of {0} is {1}."),
    "past": (words.PAST, ["What is the past tense of {0}?", "Give me the past tense of {0}.", "past tense of {0}", "Write {0} in the past tense."], "The past tense of {0} is {1}."),
    "synonym": (words.SYNONYMS, ["What is another word for {0}?", "Give me a synonym of {0}.", "Which word means the same as {0}?"], "Another word for {0} is {1}."),
    "rhyme": (words.RHYMES, ["What rhymes with {0}?", "Give me a word that rhymes with {0}.", "Find a rhyme for {0}."], "The word {1} rhymes with {0}."),
}  # fmt: skip


def word_pair(rng: random.Random) -> Sample:
    return pair_of(rng, rng.choice(list(WORD_PAIRS)))


def opposite(rng: random.Random) -> Sample:
    return pair_of(rng, "opposite")


def pair_of(rng: random.Random, kind: str) -> Sample:
    rows, questions, answer = WORD_PAIRS[kind]
    row = rng.choice(rows)
    flip = kind in ("opposite", "rhyme") and rng.random() < 0.4
    given, found = (row[1], row[0]) if flip else row
    number, phrasing = pick(rng, questions)
    return ask("words", f"{kind}|{given}|{number}", phrasing.format(given), answer.format(given, found), found)


def translation(rng: random.Random) -> Sample:
    row = rng.choice(words.TRANSLATIONS)
    column = rng.randrange(3)
    name, found = words.LANGUAGES[column], row[column + 1]
    number, phrasing = pick(rng, [
        'Translate "{0}" to {1}.', "Translate {0} to {1}.", "How do you say {0} in {1}?", "What is {0} in {1}?", "What is the {1} word for {0}?",
        "Translate the word {0} into {1}.", 'What does "{0}" mean in {1}?', "{0} in {1}",
    ])  # fmt: skip
    return ask(
        "translation",
        f"translate|{row[0]}|{name}|{number}",
        phrasing.format(row[0], name),
        f"{capitalized(row[0])} in {name} is {found}.",
        found,
    )


def sentiment(rng: random.Random) -> Sample:
    label, adjectives = rng.choice([
        ("positive", "great wonderful lovely excellent fantastic delicious perfect amazing beautiful".split()),
        ("negative", "bad terrible awful boring horrible broken disgusting ugly slow".split()),
    ])  # fmt: skip
    thing, adjective = (
        rng.choice("movie book soup phone hotel game song service lamp coat pizza show train bed app".split()),
        rng.choice(adjectives),
    )
    feeling = rng.choice(
        {
            "positive": ["I love it", "I will come back", "Thank you"],
            "negative": ["I hate it", "Never again", "I want my money back"],
        }[label]
    )
    text = rng.choice(
        [
            f"The {thing} is {adjective}.",
            f"This {thing} was {adjective}. {feeling}!",
            f"What a {adjective} {thing}! {feeling}.",
            f"{feeling}, the {thing} was so {adjective}.",
        ]
    )
    number, phrasing = pick(rng, [
        "Is this review positive or negative? {0}", 'What is the sentiment of this text? "{0}"', "Classify the sentiment: {0}", "Positive or negative: {0}",
    ])  # fmt: skip
    return ask(
        "sentiment", f"sentiment|{thing}|{adjective}|{number}", phrasing.format(text), f"The review is {label}.", label
    )


def about_place(rng: random.Random) -> Sample:
    place = rng.choice(list(words.CONTINENTS))
    name = rng.choice(words.CONTINENTS[place].split())
    city, spoken = next((city, spoken) for country, city, spoken in words.CAPITALS if country == name)
    number, phrasing = pick(
        rng,
        [
            "Tell me about {0}.",
            "What do you know about {0}?",
            "Describe {0}.",
            "What is {0}?",
            "Explain {0} to me.",
            "Tell me something about {0}.",
        ],
    )
    return ask(
        "facts",
        f"about|{name}|{number}",
        phrasing.format(name),
        f"{name} is a country in {place}. Its capital is {city} and its people speak {spoken}.",
    )


def about_animal(rng: random.Random) -> Sample:
    name, sound, baby, home = rng.choice(words.ANIMALS)
    number, phrasing = pick(
        rng,
        [
            "Tell me about {0}.",
            "What do you know about {0}?",
            "Describe {0}.",
            "What is {0}?",
            "Tell me something about {0}.",
        ],
    )
    answer = f"{capitalized(article(name))} is an animal that lives {home}. It makes the sound {sound} and its baby is called {article(baby)}."
    return ask("facts", f"about|{name}|{number}", phrasing.format(article(name)), answer)


SUPPORT_OPENINGS = [
    "",
    "",
    "Hi, ",
    "Hello! ",
    "Excuse me. ",
    "I need help. ",
    "Please help me. ",
    "I have a question. ",
]


def support(rng: random.Random) -> Sample:
    """Customer support of a small shop; held out are pairs of opening and question."""
    kind, questions, answer = rng.choice(SUPPORT)
    question, opening = rng.choice(questions), rng.choice(SUPPORT_OPENINGS)
    system = rng.choice(["You are a customer support agent.", "You work for the support team of a shop.", ""])
    side = "" if opening else "train|"
    return ask("support", f"{side}support|{kind}|{opening}{question}", opening + question, answer, system=system)


SUPPORT = [
    ("order", ["Where is my order?", "My order has not arrived.", "When will my order arrive?", "My package is late.", "I am still waiting for my order."], "I am sorry for the wait. Please send me your order number and I will check it."),
    ("password", ["How do I reset my password?", "I forgot my password.", "I cannot log in.", "My password does not work.", "Help me reset my password."], 'Please click on "Forgot password" and follow the link in the email.'),
    ("refund", ["I want a refund.", "How do I get my money back?", "Can I return this product?", "I want to return my order.", "How can I get a refund?"], "You can return the product within 30 days and you will get your money back."),
    ("broken", ["My lamp is broken.", "The product does not work.", "It arrived broken.", "My new phone is broken.", "The chair that I bought is broken."], "I am sorry about that. We will send you a new one for free."),
    ("price", ["How much does shipping cost?", "Is shipping free?", "What does delivery cost?", "Do you ship for free?"], "Shipping costs 5 dollars and it is free for orders above 50 dollars."),
    ("hours", ["When are you open?", "What are your opening hours?", "Are you open on Sunday?", "At what time do you open?"], "We are open from Monday to Saturday, from 9 to 18."),
    ("pay", ["How can I pay?", "Can I pay by card?", "Which payments do you accept?", "Do you take cards?"], "You can pay by card, by bank transfer or with cash."),
    ("cancel", ["How do I cancel my order?", "I want to cancel my order.", "Please cancel my order.", "Cancel my order"], "Please send me your order number and I will cancel it for you."),
    ("human", ["I want to talk to a human.", "Can I speak to a person?", "Connect me to an agent.", "Let me talk to your boss."], "Of course. I will connect you to a person in a moment."),
]  # fmt: skip
