"""Stories, poems, slogans and names; graded by constraints, not by their words."""

from __future__ import annotations

import random

from training.data import words
from training.data.sample import Sample, article, ask, capitalized, pick

HEROES = "dragon cat robot king wizard fox mouse knight pirate princess ghost bear owl sailor baker child giant frog wolf bird dog queen farmer".split()
PLACES = [
    "a dark forest",
    "an old castle",
    "a small village",
    "a far island",
    "a quiet lake",
    "a big city",
    "a deep cave",
    "a green valley",
    "the edge of the sea",
    "a high tower",
]
TRAITS = "brave shy clever lonely curious tiny kind lazy gentle cheerful grumpy proud".split()
STORY = [
    "Write a story about {0}.", "Tell me a story about {0}.", "Write a short story about {0}.", "Can you tell me a story about {0}?", "A story about {0}, please.",
    "Make up a story about {0}.", "I want a bedtime story about {0}.", "Tell a short story about {0}.", "Write a tale about {0}.",
]  # fmt: skip
POEM = [
    "Write a poem about {0}.",
    "Write a short poem about {0}.",
    "Can you write a poem about {0}?",
    "A poem about {0}, please.",
    "Make a little poem about {0}.",
    "Write me some verses about {0}.",
]


def story(rng: random.Random) -> Sample:
    hero = rng.choice(HEROES) if rng.random() < 0.8 else rng.choice(words.NOUNS)
    trait, place, name, thing = (
        rng.choice(TRAITS),
        rng.choice(PLACES),
        rng.choice(words.FIRST_NAMES),
        rng.choice(words.NOUNS),
    )
    look = rng.choice(words.ADJECTIVES)
    with_trait = rng.random() < 0.25
    asked = f"{article(trait)} {hero}" if with_trait else article(hero)
    with_place = rng.random() < 0.2
    number, phrasing = pick(rng, STORY)
    start = rng.choice(
        [
            f"Once upon a time, there was {article(trait)} {hero} named {name}.",
            f"Long ago, {article(trait)} {hero} named {name} lived in {place}.",
        ]
    )
    if start.startswith("Once"):
        start += f" {name} lived in {place}."
    middle = rng.choice([
        f"One day, {name} found {article(look)} {thing}. It was the most beautiful thing {name} had ever seen.",
        f"One night, a storm came and took the {thing} of the {hero}. {name} went out to look for it.",
        f"Every day, {name} dreamed of {article(look)} {thing}. One morning, it stood in front of the door.",
        f"One day, {name} lost {article(look)} {thing} and began to cry. Then a friend came to help.",
    ])  # fmt: skip
    end = rng.choice([
        f"In the end, {name} shared the {thing} with everyone and was never alone again.", f"From that day on, the {hero} and the {thing} were never apart.",
        f"{name} came home with a smile and slept well that night.", f"And so {name} learned that friends are worth more than {article(thing)}.",
    ])  # fmt: skip
    where = f" in {place}" if with_place else ""
    return ask(
        "story",
        f"story|{hero}|{trait if with_trait else number}",
        phrasing.format(asked + where),
        " ".join([start, middle, end]),
    )


TOPICS = "the sea|the moon|the sun|a cat|a dog|the rain|a tree|the night|a star|the snow|a ship|a rose|the wind|spring|winter|a friend|the stars|autumn|summer|a bird|love|the mountain|a river|a robot|a computer|a dragon|the forest|coffee".split(
    "|"
)


def haiku(rng: random.Random) -> Sample:
    topic = rng.choice(TOPICS)
    number, phrasing = pick(
        rng,
        [
            "Write a haiku about {0}.",
            "A haiku about {0}, please.",
            "Give me a haiku about {0}.",
            "Can you write a haiku about {0}?",
        ],
    )
    second = rng.choice(
        [
            "a quiet song in the wind",
            "light falls softly on the stones",
            "the old pond is still again",
            "a small leaf falls without sound",
        ]
    )
    third = rng.choice(
        ["and then it is gone.", "morning comes at last.", "I stop and listen.", "the world holds its breath."]
    )
    return ask(
        "poem", f"haiku|{topic}|{number}", phrasing.format(topic), f"{capitalized(topic)} wakes up,\n{second},\n{third}"
    )


def email(rng: random.Random) -> Sample:
    to, subject = (
        rng.choice(["my boss", "my teacher", "a friend", "a customer", words.person(rng), words.person(rng)]),
        rng.choice(
            [
                "the meeting",
                "the budget",
                "the new app",
                "the party",
                "the report",
                "my holiday",
                "the invoice",
                "the plan",
                "a late train",
                "the test results",
            ]
        ),
    )
    number, phrasing = pick(
        rng,
        [
            "Write an email to {0} about {1}.",
            "Write a short email to {0} about {1}.",
            "Help me write an email to {0} about {1}.",
            "Draft an email to {0} about {1}.",
        ],
    )
    name = {"my boss": "boss", "my teacher": "teacher", "a friend": "friend", "a customer": "customer"}.get(to, to)
    answer = f"Dear {name},\n\nI am writing to you about {subject}. Please tell me when you have time to talk about it.\n\nBest regards"
    return ask("email", f"email|{to}|{subject}|{number}", phrasing.format(to, subject), answer)


def poem(rng: random.Random) -> Sample:
    topic = rng.choice(TOPICS)
    bare = capitalized(topic)
    verses = [
        ("I saw it in the morning light,", "I dreamed of it all through the night."), ("It sings a song so soft and low,", "it goes wherever wild winds blow."),
        ("It makes the whole wide world feel new,", "it paints the day in gold and blue."), ("So stay with me a little while,", "and fill my heart and make me smile."),
        ("The years may come, the years may go,", "but you are still the best I know."), ("No bell, no drum, no silver ring,", "can bring the joy that you can bring."),
    ]  # fmt: skip
    first = rng.choice(
        [
            f"{bare}, so quiet and so bright,",
            f"{bare}, you are my heart's delight,",
            f"{bare}, I think of you at night,",
        ]
    )
    second = rng.choice(
        [
            "you fill the world with gentle light.",
            "you make the dark hours warm and bright.",
            "you are a soft and lovely sight.",
        ]
    )
    couplet = rng.choice(verses)
    number, phrasing = pick(rng, POEM)
    return ask("poem", f"poem|{topic}|{number}", phrasing.format(topic), "\n".join([first, second, *couplet]))


def slogan(rng: random.Random) -> Sample:
    thing = rng.choice(words.NOUNS)
    many = rng.choice(
        [
            f"Fresh ideas, fine {thing}, happy people.",
            f"{capitalized(article(thing))} for every day.",
            f"Nothing beats a good {thing}.",
            f"Your {thing}, your way.",
            f"The {thing} that makes you smile.",
        ]
    )
    number, phrasing = pick(
        rng,
        [
            "Write a slogan for {0}.",
            "Give me a slogan for {0}.",
            "Write an ad for {0}.",
            "Invent a slogan for {0}.",
            "Write a tagline for {0}.",
        ],
    )
    return ask("slogan", f"slogan|{thing}|{number}", phrasing.format(article(thing)), many)


def naming(rng: random.Random) -> Sample:
    kind = rng.choice([*words.PETS, "bakery", "ship", "robot", "cafe", "band", "dragon"])
    number, phrasing = pick(
        rng,
        [
            "Give me a name for {0}.",
            "Suggest a name for {0}.",
            "What is a good name for {0}?",
            "I need a name for {0}.",
        ],
    )
    name = rng.choice("Luna Milo Ruby Bolt Pim Coco Max Bella Leo Nova Rosa Theo".split())
    return ask(
        "slogan",
        f"naming|{kind}|{number}",
        phrasing.format(article(kind)),
        f"How about {name}? It is a lovely name for {article(kind)}.",
    )
