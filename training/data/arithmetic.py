"""Sums, differences and products; a held-out pair of numbers occurs in no training sample under any phrasing."""

from __future__ import annotations

import random

from training.data import words
from training.data.sample import Sample, ask, is_held_out, pick

LARGEST_TERM, LARGEST_FACTOR = 15, 10
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
    return rng.randint(0, LARGEST_TERM), rng.randint(0, LARGEST_TERM)


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
    a, b = rng.randint(0, LARGEST_FACTOR), rng.randint(0, LARGEST_FACTOR)
    number, phrasing = pick(rng, TIMES)
    return ask("mult", f"times|{a}|{b}|{number}", phrasing.format(a, b), f"{a} * {b} = {a * b}", str(a * b))


def comparison(rng: random.Random) -> Sample:
    a, b = rng.sample(range(31), 2)
    word, found = rng.choice([("bigger", max(a, b)), ("larger", max(a, b)), ("smaller", min(a, b))])
    number, phrasing = pick(
        rng, ["Which is {0}, {1} or {2}?", "Which number is {0}: {1} or {2}?", "What is {0}, {1} or {2}?"]
    )
    return ask("numbers", f"compare|{a}|{b}|{number}", phrasing.format(word, a, b), f"{found} is {word}.", str(found))


def counting(rng: random.Random) -> Sample:
    start, length, step = rng.randint(0, 12), rng.randint(3, 6), rng.choice((1, 1, 2))
    numbers = [start + i * step for i in range(length)]
    by = "" if step == 1 else f" by {step}"
    number, phrasing = pick(
        rng, ["Count from {0} to {1}{2}.", "Count{2} from {0} to {1}.", "Can you count from {0} to {1}{2}?"]
    )
    return ask(
        "numbers",
        f"count|{start}|{length}|{step}|{number}",
        phrasing.format(start, numbers[-1], by),
        ", ".join(map(str, numbers)),
    )


def neighbor(rng: random.Random) -> Sample:
    n, (word, step) = rng.randint(1, 30), rng.choice([("after", 1), ("before", -1)])
    number, phrasing = pick(rng, ["Which number comes {0} {1}?", "What number is {0} {1}?", "What comes {0} {1}?"])
    return ask(
        "numbers",
        f"neighbor|{n}|{word}|{number}",
        phrasing.format(word, n),
        f"{n + step} comes {word} {n}.",
        str(n + step),
    )


def follow_up(rng: random.Random) -> Sample:
    """Two small sums in a row; neither of the pairs is a held-out one."""
    a, b, c = rng.randint(0, 6), rng.randint(0, 6), rng.randint(1, 6)
    if is_held_out(pair_key(a, b)) or is_held_out(pair_key(a + b, c)):
        return follow_up(rng)
    number, phrasing = pick(rng, ["Add {0} to that.", "Now add {0}.", "And plus {0}?", "Plus {0}?"])
    messages = (
        ("user", rng.choice(PLUS).format(a, b)),
        ("assistant", f"{a} + {b} = {a + b}"),
        ("user", phrasing.format(c)),
        ("assistant", f"{a + b} + {c} = {a + b + c}"),
    )
    return Sample("followup", f"then|{a}|{b}|{c}|{number}", messages, str(a + b + c))
