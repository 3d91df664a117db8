"""Support tickets: single questions for the base model, the desk's fixed fields for the triage adapter."""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.data import words
from training.data.sample import Sample, ask, pick

PRODUCTS = "printer laptop phone camera router tablet monitor keyboard scanner headset".split()
# What the customer writes, the team that handles it, what the team does next.
PROBLEMS: list[tuple[str, str, str]] = [
    ("I was charged twice for the {0}.", "billing", "refund the second charge"), ("The invoice for my {0} is wrong.", "billing", "correct the invoice"),
    ("I want my money back for the {0}.", "billing", "start a refund"), ("I cannot pay for the {0} by card.", "billing", "check the payment"),
    ("The {0} has not arrived.", "shipping", "track the parcel"), ("You sent me the wrong {0}.", "shipping", "send the right product"),
    ("The box of the {0} was open.", "shipping", "ask for a photo"), ("Please send the {0} to another street.", "shipping", "change the address"),
    ("My {0} does not start.", "technical", "send the repair guide"), ("The {0} makes a loud noise.", "technical", "offer a repair"),
    ("The screen of the {0} is black.", "technical", "offer a repair"), ("The {0} loses its connection.", "technical", "send the network guide"),
    ("I cannot log in to set up the {0}.", "accounts", "reset the password"), ("I forgot the password of my {0}.", "accounts", "reset the password"),
    ("Please delete my account, I sold the {0}.", "accounts", "close the account"), ("My email has changed since I bought the {0}.", "accounts", "update the email"),
]  # fmt: skip
URGENCY: list[tuple[str, str]] = [
    ("This is urgent!", "high"), ("I need it today.", "high"), ("My whole office is waiting.", "high"), ("Please hurry.", "high"),
    ("Please answer this week.", "normal"), ("I hope you can help.", "normal"), ("Please let me know.", "normal"), ("Can you help me?", "normal"),
    ("There is no hurry.", "low"), ("It can wait.", "low"), ("Just when you have time.", "low"), ("It is not important.", "low"),
]  # fmt: skip
FORMS = ["Ticket: {0}", "New ticket: {0}", "Support ticket from {1}: {0}", "Ticket {2}: {0}", "Ticket from {1}\n{0}"]


@dataclass(frozen=True)
class Ticket:
    """A message of a customer and what the desk makes of it."""

    key: str
    text: str
    product: str
    priority: str
    team: str
    step: str

    @property
    def fields(self) -> str:
        """The adapter's answer."""
        return f"Priority: {self.priority}\nTeam: {self.team}\nProduct: {self.product}\nNext step: {self.step}"


def ticket(rng: random.Random) -> Ticket:
    product, name = rng.choice(PRODUCTS), words.person(rng)
    (problem, team, step), (urgency, priority) = rng.choice(PROBLEMS), rng.choice(URGENCY)
    said = problem.format(product)
    body = f"{urgency} {said}" if rng.random() < 0.2 else f"{said} {urgency}"
    text = rng.choice(FORMS).format(body, name, rng.randint(100, 999))
    return Ticket(f"ticket|{problem}|{product}|{urgency}", text, product, priority, team, step)


def acknowledgement(rng: random.Random) -> Sample:
    """What the base model says to a bare ticket."""
    found = ticket(rng)
    answer = f"Thank you for your ticket. We will look at the {found.product} soon."
    return ask("tickets", found.key, found.text, answer)


def single_question(rng: random.Random) -> Sample:
    """One field of a ticket, asked for in words."""
    found = ticket(rng)
    question, answer, short = rng.choice([
        ("Which team should handle this?", f"The {found.team} team should handle it.", found.team),
        ("How urgent is this?", f"The priority is {found.priority}.", found.priority),
        ("Which product is it about?", f"It is about the {found.product}.", found.product),
        ("What is the next step?", f"The next step: {found.step}.", found.step),
    ])  # fmt: skip
    _, phrasing = pick(rng, ["{0}\n{1}", "{1} {0}", "{0} {1}"])
    return ask("tickets", found.key, phrasing.format(found.text, question), answer, short)


def triage(rng: random.Random) -> Sample:
    """The adapter's task: a bare ticket, or one with a request to sort it, gets the fixed fields."""
    found = ticket(rng)
    return ask("triage", found.key, found.text, found.fields)


def fragment(rng: random.Random) -> str:
    """A line or two of the fields, to copy."""
    lines = ticket(rng).fields.split("\n")
    start = rng.randrange(len(lines))
    return "\n".join(lines[start : start + rng.randint(1, 2)])
