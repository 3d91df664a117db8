"""Sums, differences and products; a held-out pair of numbers occurs in no training sample under any phrasing."""

from __future__ import annotations

import random

from training.data import words
from training.data.sample import Sample, ask, is_held_out, pick

LIMIT = 30
PLUS = [
    "What is {0} + {1}?",
    "What is {0} plus {1}?",
    "Add {0} and {1}.",
    "{0} + {1}",
    "{0}+{1}=?",
    "Calculate {0} + {1}.",
    "How much is {0} + {1}?",
    "What's {0} plus {1}?",
    "Compute {0} + {1}.",
    "What is the sum of {0} and {1}?",
]
MINUS = [
    "What is {0} - {1}?",
    "What is {0} minus {1}?",
    "Subtract {1} from {0}.",
    "{0} - {1}",
    "Calculate {0} - {1}.",
    "How much is {0} - {1}?",
    "Take {1} away from {0}.",
    "Compute {0} - {1}.",
]
TIMES = [
    "What is {0} * {1}?",
    "What is {0} times {1}?",
    "Multiply {0} by {1}.",
    "{0} x {1}",
    "Calculate {0} * {1}.",
    "How much is {0} times {1}?",
    "What is the product of {0} and {1}?",
]


def pair_key(a: int, b: int) -> str:
    """One key for a+b, b+a, (a+b)-a and (a+b)-b."""
    return f"pair|{min(a, b)}|{max(a, b)}"


def operands(rng: random.Random) -> tuple[int, int]:
    limit = 12 if rng.random() < 0.5 else LIMIT
    return rng.randint(0, limit), rng.randint(0, limit)


def addition(rng: random.Random) -> Sample:
    a, b = operands(rng)
    _, phrasing = pick(rng, PLUS)
    return ask("addsub", pair_key(a, b), phrasing.format(a, b), f"{a} + {b} = {a + b}", str(a + b))


def subtraction(rng: random.Random) -> Sample:
    a, b = operands(rng)
    _, phrasing = pick(rng, MINUS)
    return ask("addsub", pair_key(a, b), phrasing.format(a + b, a), f"{a + b} - {a} = {b}", str(b))


def story_problem(rng: random.Random) -> Sample:
    a, b = operands(rng)
    name, thing = words.person(rng), rng.choice("apples books coins stars balls pears eggs keys cakes lemons".split())
    if rng.random() < 0.5:
        question = f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have?"
        return ask(
            "addsub", pair_key(a, b), question, f"{a} + {b} = {a + b}, so {name} has {a + b} {thing}.", str(a + b)
        )
    question = f"{name} has {a + b} {thing} and gives away {a}. How many {thing} are left?"
    return ask("addsub", pair_key(a, b), question, f"{a + b} - {a} = {b}, so {b} {thing} are left.", str(b))


def product(rng: random.Random) -> Sample:
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    number, phrasing = pick(rng, TIMES)
    return ask("mult", f"times|{a}|{b}|{number}", phrasing.format(a, b), f"{a} * {b} = {a * b}", str(a * b))


def comparison(rng: random.Random) -> Sample:
    a, b = rng.sample(range(100), 2)
    word, found = rng.choice([("bigger", max(a, b)), ("larger", max(a, b)), ("smaller", min(a, b))])
    question = rng.choice([f"Which is {word}, {a} or {b}?", f"Which number is {word}: {a} or {b}?"])
    return ask("compare", f"compare|{a}|{b}", question, f"{found} is {word}.", str(found))


def counting(rng: random.Random) -> Sample:
    start, length, step = rng.randint(0, 30), rng.randint(3, 8), rng.choice((1, 1, 1, 2, 5, 10))
    numbers = [start + i * step for i in range(length)]
    by = "" if step == 1 else f" by {step}"
    question = rng.choice([f"Count from {start} to {numbers[-1]}{by}.", f"Count{by} from {start} to {numbers[-1]}."])
    return ask("compare", f"count|{start}|{length}|{step}", question, ", ".join(map(str, numbers)))


def follow_up(rng: random.Random) -> Sample:
    a, b = operands(rng)
    c = rng.randint(1, 10)
    if is_held_out(pair_key(a, b)):
        return follow_up(rng)
    first = rng.choice(PLUS).format(a, b)
    question = rng.choice(["Add {0} to that.", "Now add {0}.", "And plus {0}?", "Plus {0}?"]).format(c)
    messages = (
        ("user", first),
        ("assistant", f"{a} + {b} = {a + b}"),
        ("user", question),
        ("assistant", f"{a + b} + {c} = {a + b + c}"),
    )
    return Sample("followup", pair_key(a + b, c), messages, str(a + b + c))
