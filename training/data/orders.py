"""Messages of customers, guests and contacts: a short note from the base model, a JSON record from the json adapter."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from training.data import words
from training.data.sample import Sample, ask, pick

GOODS = """lamps chairs tables books bottles boots candles pillows carpets hammers buckets kites balls puzzles bells drums clocks mirrors
baskets coats hats rings cameras phones laptops cups plates pens""".split()
Record = dict[str, str | int]


def order(rng: random.Random) -> tuple[str, str, Record, str]:
    """Key, message, record, note."""
    name, item, city, count = words.person(rng), rng.choice(GOODS), rng.choice(words.CITIES), rng.randint(2, 20)
    number, phrasing = pick(rng, [
        "{0} orders {1} {2} to {3}.", "Order: {1} {2} for {0} in {3}.", "Please send {1} {2} to {0} in {3}.", "{0} from {3} wants {1} {2}.", "{0} would like {1} {2}, sent to {3}.",
    ])  # fmt: skip
    record: Record = {"type": "order", "name": name, "item": item, "count": count, "city": city}
    return (
        f"order|{name}|{item}|{number}",
        phrasing.format(name, count, item, city),
        record,
        f"{count} {item} for {name}",
    )


def booking(rng: random.Random) -> tuple[str, str, Record, str]:
    name, day, hour, count = words.person(rng), rng.choice(words.DAYS), rng.randint(1, 12), rng.randint(2, 9)
    number, phrasing = pick(rng, [
        "{0} books a table for {1} on {2} at {3}.", "Booking: {0}, {1} people, {2} at {3}.", "Please keep a table for {1} on {2} at {3} for {0}.", "{0} comes with {1} people on {2} at {3}.",
    ])  # fmt: skip
    record: Record = {"type": "booking", "name": name, "people": count, "day": day, "hour": hour}
    return (
        f"booking|{name}|{day}|{number}",
        phrasing.format(name, count, day, hour),
        record,
        f"a table for {name} on {day}",
    )


def contact(rng: random.Random) -> tuple[str, str, Record, str]:
    name, job, city, phone = words.person(rng), rng.choice(words.JOBS), rng.choice(words.CITIES), rng.randint(100, 999)
    number, phrasing = pick(rng, [
        "New contact: {0}, {1} in {2}, phone {3}.", "Contact: {0} ({1}) from {2}, phone {3}.", "Please save {0}, {1} from {2}, phone {3}.", "Phone {3} belongs to {0}, {1} in {2}.",
    ])  # fmt: skip
    record: Record = {"type": "contact", "name": name, "job": job, "city": city, "phone": phone}
    return f"contact|{name}|{job}|{number}", phrasing.format(name, job, city, phone), record, f"the phone of {name}"


KINDS: list[Callable[[random.Random], tuple[str, str, Record, str]]] = [order, booking, contact]


def note(rng: random.Random) -> Sample:
    """What the base model says to such a message."""
    key, said, _, noted = rng.choice(KINDS)(rng)
    return ask("notes", key, said, f"I noted it: {noted}.")


def field(rng: random.Random) -> Sample:
    """One value of a message, asked for in words."""
    key, said, record, _ = rng.choice(KINDS)(rng)
    wanted = rng.choice([name for name in record if name != "type"])
    _, phrasing = pick(
        rng, ["{0} What is the {1}?", "{0}\nWhat is the {1}?", "Give me only the {1}. {0}", "What is the {1} here? {0}"]
    )
    return ask("notes", key, phrasing.format(said, wanted), f"The {wanted} is {record[wanted]}.", str(record[wanted]))


def record(rng: random.Random) -> Sample:
    """The adapter's task: the message as a JSON object."""
    key, said, found, _ = rng.choice(KINDS)(rng)
    return ask("json", key, said, json.dumps(found))


def fragment(rng: random.Random) -> str:
    """One or two fields of a record, to copy."""
    _, _, found, _ = rng.choice(KINDS)(rng)
    return json.dumps(dict(rng.sample(list(found.items()), rng.randint(1, 2))))
