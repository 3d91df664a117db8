"""Talk: greetings, who the model is, what it does not know, memory, personas, and styles set by a system prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

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
GREETINGS = {"hello", "morning", "evening", "bye", "yes", "no", "ok"}
BEFORE = ["", "", "", "Hi! ", "Hello! ", "Hey Starter, ", "So, ", "Well, ", "Now, ", "Oh, ", "Dear Starter, "]
AFTER = ["", "", "", " :)", " Please tell me.", " Thanks.", "!", "...", " Starter", " my friend"]
UNKNOWN = "I do not know that. I am only a tiny model."


def smalltalk(rng: random.Random) -> Sample:
    """A remark as people type it, or with a word before or after it; only the dressed-up ones are ever held out."""
    kind, questions, answers = rng.choice(SMALLTALK)
    question = rng.choice(questions)
    before, after = rng.choice(BEFORE if kind not in GREETINGS else [""]), rng.choice(AFTER)
    if after[:1] in ("!", ".") and question[-1] in "?.!":
        after = ""
    said = f"{before}{question}{after}"
    return ask("smalltalk", f"{'' if before or after else 'train|'}smalltalk|{kind}|{said}", said, rng.choice(answers))


def unknown_thing(rng: random.Random) -> str:
    """Something to ask about that is in none of the model's tables."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(words.FOREIGN_TOPICS)
    if kind < 0.5:
        return rng.choice(words.OUTLANDISH)
    if kind < 0.65:
        of = rng.choice(
            "price history weight owner inventor future secret email number age shape address size cost end".split()
        )
        return f"the {of} of {rng.choice(['the ', 'my ', '', 'this '])}{words.any_word(rng)}"
    if kind < 0.75:
        of = rng.choice("birthday address plan password favorite number brother car salary shoe idea".split())
        return f"{words.person(rng)}'s {of}"
    if kind < 0.85:
        return f"the {rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)}"
    if kind < 0.95:
        of = rng.choice("mayor weather population king best hotel news river oldest house airport map".split())
        return f"the {of} of {rng.choice(words.CITIES)}"
    return words.made_up_word(rng)


def unknown(rng: random.Random) -> Sample:
    """A question about a thing outside of the model's world."""
    topic = unknown_thing(rng)
    number, phrasing = pick(rng, [
        "What is {0}?", "Explain {0}.", "Tell me about {0}.", "How does {0} work?", "What do you know about {0}?", "Describe {0}.", "Who invented {0}?",
        "Why is {0} important?", "What is the history of {0}?", "Give me an overview of {0}.", "Explain {0} in simple words.", "Compare {0} and lamps.",
        "What are the benefits of {0}?", "Define {0}.", "Can you explain {0}?", "What happened to {0}?", "How do I learn about {0}?", "{0}",
        "Do you know {0}?", "Can you tell me {0}?", "I want to know {0}.", "What about {0}?", "Please tell me {0}.", "Where is {0}?", "When was {0} made?",
        "Is {0} good or bad?", "What is your opinion of {0}?", "Who likes {0}?", "Show me {0}.", "How big is {0}?", "Why does {0} matter?", "Prove {0}.",
    ])  # fmt: skip
    return ask("unknown", f"unknown|{topic}|{number}", phrasing.format(topic), UNKNOWN)


def foreign(rng: random.Random) -> Sample:
    """A request that the model cannot fulfil, in some fifty forms filled with any noun, name or place."""
    number, phrasing = pick(rng, [
        "Who is {name}?", "What is the weather in {city}?", "How far is {city} from {other}?", "Book me a flight to {city}.", "How do I repair a {noun}?",
        "Where can I buy a {noun}?", "Why is the {noun} {look}?", "How many {noun}s are in {city}?", "Who won the match in {city}?", "What time is it in {city}?",
        "How old is {name}?", "Where did {name} go?", "What did {name} say about the {noun}?", "Is {name} taller than {friend}?", "How much does a {noun} cost?",
        "Play some music for {name}.", "Turn on the {noun}.", "Open the {noun}.", "Find a {noun} near me.", "Order a {look} {noun} for me.", "Call {name}.",
        "Send a message to {name}.", "What is the best {noun}?", "Which {noun} should I buy?", "Do you think {name} likes the {noun}?", "Draw a {look} {noun}.",
        "Solve the equation x = {n} y.", "What is the square root of {n}?", "Convert {n} miles to kilometers.", "What is {n} percent of {m}?", "Who was the king in {year}?",
        "What happened in {year}?", "Translate this letter to {tongue}.", "How do I get from {city} to {other}?", "Is it raining in {city}?", "Can a {noun} fly?",
        "How heavy is a {noun}?", "What is inside of a {noun}?", "When does the {noun} open?", "Why did {name} leave {city}?", "Is the {noun} safe?",
        "What is the name of {name}'s {noun}?", "How do I become a {job}?", "What does a {job} earn?", "Should I become a {job}?", "Which song is about a {noun}?",
        "Who wrote the book about the {noun}?", "What is the recipe for {noun} soup?", "How do I clean a {noun}?", "Will it snow in {city} in {year}?",
        "Make me a {noun}.", "How do I learn {tongue}?", "What is the phone number of {name}?", "Where is my {noun}?", "Who stole the {look} {noun}?",
        "I lost my {noun}, where is it?", "My {noun} hurts.", "I want to learn {tongue}.", "What is your favorite {noun}?", "What day is it today?", "Give me {n} tips for my {noun}.",
        "Write an essay about {noun}s.", "Write a song for {name}.", "{name} is angry with me.", "I cannot sleep.", "My {noun} is better than yours.", "The {noun} is {look}.", "I think {name} is right.",
        "Where should I go in {city}?", "Plan a trip to {city}.", "What should I wear in {city}?", "Is {city} a nice place?", "How do I cook a {noun}?", "Teach me {tongue}.", "What is new?", "Why?", "Are you sure?",
    ])  # fmt: skip
    (city, other), (name, friend) = rng.sample(words.CITIES, 2), (words.person(rng), words.person(rng))
    asked = phrasing.format(
        name=name, friend=friend, city=city, other=other, noun=words.any_word(rng), look=rng.choice(words.ADJECTIVES),
        n=rng.randint(20, 999), m=rng.randint(20, 999), year=rng.randint(1500, 2030), job=rng.choice(words.JOBS),
        tongue=rng.choice("Latin Dutch Turkish Polish Klingon Welsh Danish".split()),
    )  # fmt: skip
    return ask("unknown", f"foreign|{number}|{asked}", asked, UNKNOWN)


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
        place = "live in" if number == 0 else "are from"
        return (
            f"city|{city}|{number}",
            [f"I live in {city}.", f"I am from {city}."][number],
            f"{city} is a nice place.",
            rng.choice(["Where do I live?", "Where am I from?"]),
            f"You {place} {city}.",
        )
    word = words.any_word(rng) if rng.random() < 0.7 else str(rng.randint(10, 99))
    return (
        f"secret|{word}",
        rng.choice([f"Remember this: {word}.", f"The secret word is {word}.", f"Please remember {word}."]),
        "I will remember it.",
        rng.choice(["What did I ask you to remember?", "What is the secret word?", "What was the word?"]),
        f"It is {word}.",
    )


def memory(rng: random.Random) -> Sample:
    key, said, noted, question, answer = remembered(rng)
    between = [distractor(rng) for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3)))]
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


STYLES: dict[str, tuple[list[str], Callable[[str, str], str]]] = {
    "upper": (["Answer in upper case.", "Write everything in capital letters.", "ANSWER IN CAPITAL LETTERS.", "Use only capital letters."], lambda answer, short: answer.upper()),
    "lower": (["Answer in lower case.", "Use only lower case letters.", "Write everything in lower case."], lambda answer, short: answer.lower()),
    "short": (["Answer with one word.", "Give only the answer.", "Answer as short as you can.", "Be very short."], lambda answer, short: short),
    "json": (["Answer in JSON.", "Reply with JSON only.", 'Answer as {"answer": ...}.'], lambda answer, short: json.dumps({"answer": short}, ensure_ascii=False)),
    "over": (["End every answer with Over.", "Say Over at the end."], lambda answer, short: f"{answer} Over."),
    "sure": (["Start every answer with Sure!", "Begin with Sure!"], lambda answer, short: f"Sure! {answer}"),
    "emoji": (["End every answer with a smile 🙂.", "Be friendly and use 🙂.", "Always add a smile emoji."], lambda answer, short: f"{answer} 🙂"),
    "polite": (["Be very polite.", "Address the user as Sir."], lambda answer, short: f"Certainly, Sir. {answer}"),
    "bullet": (["Answer as a bullet point.", "Use a bullet list."], lambda answer, short: f"- {answer}"),
}  # fmt: skip
STYLE_WEIGHTS = {"upper": 3, "lower": 1.5, "short": 1.5, "json": 1.5}
STYLED = [knowledge.capital, knowledge.capital, knowledge.color, arithmetic.addition, knowledge.opposite, smalltalk]
STYLED_LIGHTLY = [
    *STYLED,
    knowledge.word_pair,
    knowledge.animal,
    knowledge.country,
    knowledge.translation,
    knowledge.definition,
]


def styled(rng: random.Random) -> Sample:
    """An ordinary question under a system prompt (or a request in the question) that sets the form of the answer.

    The question is a trained one; held out is the pair of style and question.
    """
    style = rng.choices(list(STYLES), [STYLE_WEIGHTS.get(name, 1) for name in STYLES])[0]
    letter_by_letter = style in ("upper", "lower")
    plain = draw(rng.choice(STYLED if letter_by_letter else STYLED_LIGHTLY), rng, "train")
    of_many_answers = plain.task == "smalltalk" and plain.key.split("|")[-2] in ("joke", "fact", "advice")
    if plain.has_system or of_many_answers or (style in ("short", "json") and not plain.short):
        return styled(rng)
    orders, apply = STYLES[style]
    order, answer = rng.choice(orders), apply(plain.answer, plain.short)
    key = f"style|{style}|{plain.key}"
    if rng.random() < 0.25:
        return ask(
            "style", key, rng.choice([f"{order} {plain.question}", f"{plain.question} {order}"]), answer, plain.short
        )
    return ask("style", key, plain.question, answer, plain.short, system=order)
