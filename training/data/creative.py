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
    "a hut by the sea",
    "a high tower",
]
TRAITS = "brave shy clever lonely curious tiny kind lazy gentle cheerful grumpy proud".split()
HERO_NAMES = "Milo Luna Bolt Pim Ruby Oscar Nina".split()
TREASURES = "key lamp bell crown ring".split()
LOOKS = "golden silver shiny".split()
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


def of_hero(choices: list[str], hero: str) -> str:
    """What a hero always has; heroes that are not in the list share the first choice."""
    return choices[HEROES.index(hero) % len(choices)] if hero in HEROES else choices[0]


def story(rng: random.Random) -> Sample:
    """A hero has its own name, trait, place and treasure; only the way that the story is told varies."""
    hero = rng.choice(HEROES) if rng.random() < 0.85 else rng.choice(words.NOUNS)
    number, phrasing = pick(rng, STORY)
    asked_trait = rng.choice(TRAITS) if rng.random() < 0.25 else ""
    asked_place = rng.choice(PLACES) if rng.random() < 0.2 else ""
    trait, place = asked_trait or of_hero(TRAITS, hero), asked_place or of_hero(PLACES, hero)
    name, thing, look = of_hero(HERO_NAMES, hero), of_hero(TREASURES, hero), of_hero(LOOKS, hero)
    middle, end = rng.choice([
        (f"One day, {name} found {article(look)} {thing}.", f"{name} shared the {thing} with everyone and was never alone again."),
        (f"One night, a storm took the {thing} of the {hero}.", f"{name} looked for it, found it and came home with a smile."),
        (f"One day, {name} lost {article(look)} {thing} and began to cry.", f"A friend came to help, and {name} was happy again."),
    ])  # fmt: skip
    asked = (f"{article(asked_trait)} {hero}" if asked_trait else article(hero)) + (
        f" in {asked_place}" if asked_place else ""
    )
    return ask(
        "story",
        f"story|{hero}|{asked_trait}|{asked_place}|{number}",
        phrasing.format(asked),
        f"Once upon a time, {article(trait)} {hero} named {name} lived in {place}. {middle} {end}",
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
    second, third = rng.choice(
        [
            ("a quiet song in the wind", "and then it is gone."),
            ("light falls softly on the stones", "morning comes at last."),
        ]
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
    return ask("writing", f"email|{to}|{subject}|{number}", phrasing.format(to, subject), answer)


def poem(rng: random.Random) -> Sample:
    topic = rng.choice(TOPICS)
    bare = capitalized(topic)
    couplet = rng.choice([
        ("I saw it in the morning light,", "I dreamed of it all through the night."), ("It makes the whole wide world feel new,", "it paints the day in gold and blue."),
        ("So stay with me a little while,", "and fill my heart and make me smile."),
    ])  # fmt: skip
    first, second = f"{bare}, so quiet and so bright,", "you fill the world with gentle light."
    number, phrasing = pick(rng, POEM)
    return ask("poem", f"poem|{topic}|{number}", phrasing.format(topic), "\n".join([first, second, *couplet]))


def slogan(rng: random.Random) -> Sample:
    thing = rng.choice(words.NOUNS)
    many = rng.choice([f"Nothing beats a good {thing}.", f"The {thing} that makes you smile."])
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
    return ask("writing", f"slogan|{thing}|{number}", phrasing.format(article(thing)), many)


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
    name = {"cat": "Luna", "dog": "Bolt", "ship": "Nova", "dragon": "Ruby"}.get(kind, "Milo")
    return ask(
        "writing",
        f"naming|{kind}|{number}",
        phrasing.format(article(kind)),
        f"How about {name}? It is a lovely name for {article(kind)}.",
    )
