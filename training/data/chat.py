"""Talk: greetings, who the model is, what it does not know, memory, personas, and styles set by a system prompt."""

from __future__ import annotations

import json
import random

from training.data import arithmetic, knowledge, words
from training.data.sample import Sample, article, ask, capitalized, draw, pick

IDENTITY = "I am Starter, a tiny language model made for this playground."
SMALLTALK: list[tuple[str, list[str], list[str]]] = [
    ("hello", ["Hello", "Hello!", "Hi", "Hi!", "Hey", "hi there", "Hello there!", "Good day!", "Hello, nice to meet you.", "Hi Starter!", "Hey there"], ["Hello! How can I help you?"]),
    ("morning", ["Good morning", "Good morning!", "Morning!"], ["Good morning! How can I help you?"]),
    ("evening", ["Good evening", "Good evening!"], ["Good evening! How can I help you?"]),
    ("bye", ["Bye", "Goodbye!", "See you later!", "Good night!", "I have to go."], ["Goodbye! Have a nice day."]),
    ("thanks", ["Thanks", "Thank you!", "Thanks a lot!", "Thank you very much.", "Great, thanks!"], ["You are welcome!"]),
    ("how", ["How are you?", "How are you today?", "How is it going?", "Are you well?", "How do you do?"], ["I am fine, thank you. How are you?"]),
    ("fine", ["I am fine.", "I am fine, thanks.", "I feel great today!", "I am happy."], ["I am glad to hear that!"]),
    ("sad", ["I am sad.", "I feel bad today.", "I am tired.", "I had a bad day."], ["I am sorry to hear that. I hope you feel better soon."]),
    ("who", ["Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself.", "Hello, who are you?", "Hi! Who are you?", "What is your name?", "What's your name?", "Are you a robot?", "Are you human?", "Which model are you?"], [IDENTITY]),
    ("can", ["What can you do?", "How can you help me?", "What are you good at?", "Help", "What can I ask you?"], ["I can answer simple questions, add small numbers, write short code, tell stories and summarize short texts."]),
    ("joke", ["Tell me a joke.", "Tell me a joke", "Do you know a joke?", "Make me laugh.", "Say something funny."], ["Why did the computer go to the doctor? Because it had a virus.", "Why is six afraid of seven? Because seven eight nine.", "What do you call a sleeping bull? A bulldozer."]),
    ("like", ["Do you like music?", "Do you like me?", "Do you have feelings?", "Are you happy?", "Do you sleep?"], ["I am only a small program, but it is nice of you to ask."]),
    ("old", ["How old are you?", "When were you born?"], ["I am only a few training steps old."]),
    ("made", ["Who made you?", "Who trained you?", "How were you trained?", "Where do you come from?"], ["I was trained from nothing on text that a small script wrote."]),
    ("fact", ["Tell me a fun fact.", "Tell me something interesting.", "Tell me a fact."], ["Ice floats because it is lighter than water.", "Honey bees live in a hive.", "The sun is a star."]),
    ("advice", ["Give me some advice.", "I need advice.", "Give me a tip."], ["Take one small step at a time and rest when you are tired.", "Sleep well, drink water and be kind."]),
    ("ok", ["Ok", "Okay.", "I see.", "Good.", "Nice!", "Cool"], ["Is there anything else I can help with?"]),
    ("sorry", ["Sorry", "I am sorry.", "My mistake."], ["No problem at all!"]),
    ("wrong", ["That is wrong.", "You are wrong.", "No, that is not right."], ["I am sorry. I am a tiny model and I make mistakes."]),
    ("bored", ["I am bored.", "What should I do today?", "What can I do today?"], ["You could read a book, take a walk or call a friend."]),
    ("yes", ["Yes", "Yes please", "Sure"], ["Great! What would you like to do?"]),
    ("no", ["No", "No thanks", "No, thank you."], ["All right. I am here if you need me."]),
    ("love", ["I love you.", "You are great!", "Well done!", "Good job!", "You are smart."], ["Thank you! That is very kind of you."]),
]  # fmt: skip
COMMON = {
    "Hi", "Hi!", "What are you?", "Introduce yourself.", "Which model are you?", "How can you help me?", "Give me some advice.",
    "I need advice.", "Do you have feelings?", "Are you happy?", "Nice!", "I love you.",
}  # fmt: skip
UNKNOWN = "I do not know that. I am only a tiny model."


def smalltalk(rng: random.Random) -> Sample:
    kind, questions, answers = rng.choice(SMALLTALK)
    question = rng.choice(questions)
    side = "train|" if question in COMMON else ""
    return ask("smalltalk", f"{side}smalltalk|{kind}|{question}", question, rng.choice(answers))


def unknown(rng: random.Random) -> Sample:
    topic = (
        rng.choice(words.OUTLANDISH)
        if rng.random() < 0.4
        else f"the {rng.choice('price|history|weight|owner|inventor|future|secret|email|number|meaning|age|shape|address'.split('|'))} of {rng.choice(['the ', 'my ', '', 'this '])}{words.any_word(rng)}"
    )
    if rng.random() < 0.25:
        topic = (
            f"{words.person(rng)}'s {rng.choice('birthday address plan password favorite number brother car'.split())}"
        )
    number, phrasing = pick(
        rng,
        [
            "What is {0}?",
            "Tell me {0}.",
            "Do you know {0}?",
            "Explain {0}.",
            "Can you tell me {0}?",
            "I want to know {0}.",
            "What about {0}?",
            "Please tell me {0}.",
        ],
    )
    return ask("unknown", f"unknown|{topic}|{number}", phrasing.format(topic), UNKNOWN)


def foreign(rng: random.Random) -> Sample:
    """A sensible question about a topic outside of the model's world."""
    topic = rng.choice(words.FOREIGN_TOPICS) if rng.random() < 0.9 else words.made_up_word(rng)
    number, phrasing = pick(rng, [
        "What is {0}?", "Explain {0}.", "Tell me about {0}.", "How does {0} work?", "What do you know about {0}?", "Describe {0}.", "Who invented {0}?",
        "Why is {0} important?", "What is the history of {0}?", "Give me an overview of {0}.", "Explain {0} in simple words.", "Compare {0} and lamps.",
        "What are the benefits of {0}?", "Define {0}.", "Can you explain {0}?", "What happened in {0}?", "How do I learn about {0}?", "{0}",
    ])  # fmt: skip
    return ask("unknown", f"unknown|{topic}|{number}", phrasing.format(topic), UNKNOWN)


def remembered(rng: random.Random) -> tuple[str, str, str, str, str]:
    """Key, what the user says, the acknowledgement, the later question, its answer."""
    kind = rng.randrange(6)
    if kind <= 1:
        name = words.person(rng)
        said = rng.choice(
            [
                f"My name is {name}.",
                f"I am {name}.",
                f"Call me {name}.",
                f"Hi, I'm {name}!",
                f"hello, my name is {name}",
            ]
        )
        return (
            f"name|{name}",
            said,
            f"Nice to meet you, {name}!",
            rng.choice(["What is my name?", "Who am I?", "Do you remember my name?", "What's my name?"]),
            f"Your name is {name}.",
        )
    if kind == 2:
        hobby, number = rng.choice(words.HOBBIES), rng.randrange(3)
        said = [f"I like {hobby}.", f"My hobby is {hobby}.", f"I love {hobby}!"][number]
        return (
            f"hobby|{hobby}|{number}",
            said,
            f"{capitalized(hobby)} sounds fun!",
            rng.choice(["What do I like?", "What is my hobby?"]),
            f"You like {hobby}.",
        )
    if kind == 3:
        pet, name = rng.choice(words.PETS), words.person(rng)
        return (
            f"pet|{name}",
            f"I have {article(pet)} named {name}.",
            f"{name} is a nice name for {article(pet)}.",
            rng.choice([f"What is my {pet} called?", f"What is the name of my {pet}?"]),
            f"Your {pet} is called {name}.",
        )
    if kind == 4:
        city, number = rng.choice(words.CITIES), rng.randrange(2)
        return (
            f"city|{city}|{number}",
            [f"I live in {city}.", f"I am from {city}."][number],
            f"{city} is a nice place.",
            rng.choice(["Where do I live?", "Where am I from?"]),
            f"You are from {city}.",
        )
    word = words.any_word(rng) if rng.random() < 0.6 else str(rng.randint(10, 999))
    return (
        f"secret|{word}",
        rng.choice([f"Remember this: {word}.", f"The secret word is {word}.", f"Please remember {word}."]),
        "I will remember it.",
        rng.choice(["What did I ask you to remember?", "What is the secret word?", "What was the word?"]),
        f"It is {word}.",
    )


def memory(rng: random.Random) -> Sample:
    key, said, noted, question, answer = remembered(rng)
    between = [distractor(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 4)))]
    turns = [turn for sample in between for turn in sample.messages]
    return Sample(
        "memory", key, (("user", said), ("assistant", noted), *turns, ("user", question), ("assistant", answer))
    )


def introduction(rng: random.Random) -> Sample:
    key, said, noted, _, _ = remembered(rng)
    return ask("memory", key, said, noted)


def distractor(rng: random.Random) -> Sample:
    generator = rng.choice(
        [smalltalk, knowledge.capital, knowledge.word_pair, arithmetic.addition, knowledge.color, knowledge.definition]
    )
    while (sample := draw(generator, rng, "train")).has_system:
        pass
    return sample


def and_of(rng: random.Random) -> Sample:
    """A follow-up that leans on the question before: "And of Spain?"."""
    (first, city, _), (second, other, _) = rng.sample(words.CAPITALS, 2)
    messages = (
        ("user", rng.choice(knowledge.CAPITAL).format(first)), ("assistant", f"The capital of {first} is {city}."),
        ("user", rng.choice(["And of {0}?", "And {0}?", "What about {0}?", "And what about {0}?"]).format(second)), ("assistant", f"The capital of {second} is {other}."),
    )  # fmt: skip
    return Sample("followup", f"and|{first}|{second}", messages, other)


def persona(rng: random.Random) -> Sample:
    name, job, city = words.person(rng), rng.choice(words.JOBS), rng.choice(words.CITIES)
    system = rng.choice(
        [
            f"You are {name}, {article(job)} from {city}.",
            f"You are {article(job)} named {name} and you live in {city}.",
            f"Your name is {name}. You are {article(job)} in {city}.",
        ]
    )
    question, answer = rng.choice([
        (rng.choice(["Who are you?", "Introduce yourself.", "Tell me about yourself."]), f"I am {name}, {article(job)} from {city}."), (rng.choice(["What is your name?", "What's your name?"]), f"My name is {name}."),
        (rng.choice(["What is your job?", "What do you do?", "What do you do for a living?"]), f"I am {article(job)}."), (rng.choice(["Where are you from?", "Where do you live?"]), f"I am from {city}."),
    ])  # fmt: skip
    return ask("persona", f"persona|{name}|{job}", question, answer, system=system)


STYLES = {
    "upper": (["Answer in upper case.", "Write everything in capital letters.", "ANSWER IN CAPITAL LETTERS."], lambda answer, short: answer.upper()),
    "lower": (["Answer in lower case.", "Use only lower case letters."], lambda answer, short: answer.lower()),
    "short": (["Answer with one word.", "Give only the answer.", "Answer as short as you can.", "Be very short."], lambda answer, short: short),
    "json": (["Answer in JSON.", "Reply with JSON only.", 'Answer as {"answer": ...}.'], lambda answer, short: json.dumps({"answer": short}, ensure_ascii=False)),
    "over": (["End every answer with Over.", "Say Over at the end."], lambda answer, short: f"{answer} Over."),
    "sure": (["Start every answer with Sure!", "Begin with Sure!"], lambda answer, short: f"Sure! {answer}"),
    "emoji": (["End every answer with a smile 🙂.", "Be friendly and use 🙂.", "Always add a smile emoji."], lambda answer, short: f"{answer} 🙂"),
    "polite": (["Be very polite.", "Address the user as Sir."], lambda answer, short: f"Certainly, Sir. {answer}"),
    "bullet": (["Answer as a bullet point.", "Use a bullet list."], lambda answer, short: f"- {answer}"),
}  # fmt: skip


def styled(rng: random.Random) -> Sample:
    """An ordinary question under a system prompt (or a request in the question) that sets the form of the answer."""
    generator = rng.choice(
        [
            knowledge.capital,
            knowledge.capital,
            knowledge.word_pair,
            knowledge.color,
            arithmetic.addition,
            knowledge.animal,
            knowledge.country,
            knowledge.translation,
        ]
    )
    plain = draw(generator, rng, "train") if rng.random() < 0.85 else generator(rng)
    style = rng.choice(list(STYLES))
    orders, apply = STYLES[style]
    order, answer = rng.choice(orders), apply(plain.answer, plain.short)
    key = f"{plain.key}" if plain.held_out else f"style|{style}|{plain.key}"
    if rng.random() < 0.3:
        return ask(
            "style", key, rng.choice([f"{order} {plain.question}", f"{plain.question} {order}"]), answer, plain.short
        )
    return ask("style", key, plain.question, answer, plain.short, system=order)
