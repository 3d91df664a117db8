"""Questions about a small table: SQL for the adapter, a plain sentence for the base model."""

from __future__ import annotations

import random

from training.data.sample import Sample, ask

TABLES: dict[str, tuple[list[str], list[str]]] = {
    "books": (["title", "author"], ["year", "price", "pages"]),
    "employees": (["name", "city", "job"], ["salary", "age"]),
    "customers": (["name", "city", "country"], ["age", "orders"]),
    "products": (["name", "color", "category"], ["price", "stock"]),
    "movies": (["title", "director", "genre"], ["year", "rating"]),
    "students": (["name", "school", "city"], ["grade", "age"]),
    "cars": (["model", "maker", "color"], ["year", "price", "speed"]),
    "cities": (["name", "country"], ["population", "area"]),
    "orders": (["customer", "product", "status"], ["quantity", "price"]),
    "songs": (["title", "artist", "genre"], ["year", "length"]),
    "animals": (["name", "kind", "color"], ["age", "weight"]),
    "ships": (["name", "captain", "port"], ["crew", "speed"]),
}
VALUES = {
    "city": "Paris Rome Oslo Berlin Madrid", "country": "France Spain Japan Kenya", "color": "red blue green black white",
    "genre": "drama comedy jazz rock horror", "author": "Anna Hugo Clara Victor", "director": "Emma Oscar Nina", "job": "baker doctor teacher pilot",
    "category": "tools toys food garden", "school": "north south central", "maker": "Alfa Nova Terra", "status": "open paid sent",
    "artist": "Luna Milo Ruby", "kind": "cat dog horse bird", "captain": "Kate Jonas Olga", "port": "Lisbon Athens Dublin",
    "customer": "Alice Bob Carol", "product": "lamp chair table", "title": "", "name": "", "model": "",
}  # fmt: skip
HEADERS = [
    "Table {0}({1}). {2}",
    "Table: {0}({1})\nQuestion: {2}",
    "Given the table {0}({1}): {2}",
    "{2} The table is {0}({1}).",
]


def question(rng: random.Random) -> tuple[str, str, str, str]:
    """Header-less question, its SQL, the same in plain words, and the kind of question."""
    name = rng.choice(list(TABLES))
    texts, numbers = TABLES[name]
    text, number, n = rng.choice(texts), rng.choice(numbers), rng.randint(1, 99)
    filterable = rng.choice([column for column in texts if VALUES[column]])
    value = rng.choice(VALUES[filterable].split())
    return name, *rng.choice([
        (f"Show all {name}.", f"SELECT * FROM {name};", f"every row of {name}"),
        (f"List the {text} of all {name}.", f"SELECT {text} FROM {name};", f"the {text} of every row of {name}"),
        (f"How many {name} are there?", f"SELECT COUNT(*) FROM {name};", f"the number of rows of {name}"),
        (f"Which {name} have a {number} above {n}?", f"SELECT * FROM {name} WHERE {number} > {n};", f"the rows of {name} where {number} is above {n}"),
        (f"Which {name} have a {number} below {n}?", f"SELECT * FROM {name} WHERE {number} < {n};", f"the rows of {name} where {number} is below {n}"),
        (f"Show the {text} of {name} with {number} over {n}.", f"SELECT {text} FROM {name} WHERE {number} > {n};", f"the {text} of {name} where {number} is above {n}"),
        (f"Which {name} have {filterable} {value}?", f"SELECT * FROM {name} WHERE {filterable} = '{value}';", f"the rows of {name} where {filterable} is {value}"),
        (f"How many {name} have {filterable} {value}?", f"SELECT COUNT(*) FROM {name} WHERE {filterable} = '{value}';", f"the number of {name} where {filterable} is {value}"),
        (f"What is the average {number} of the {name}?", f"SELECT AVG({number}) FROM {name};", f"the average {number} of {name}"),
        (f"What is the highest {number} of the {name}?", f"SELECT MAX({number}) FROM {name};", f"the highest {number} of {name}"),
        (f"What is the lowest {number} of the {name}?", f"SELECT MIN({number}) FROM {name};", f"the lowest {number} of {name}"),
        (f"What is the total {number} of all {name}?", f"SELECT SUM({number}) FROM {name};", f"the total {number} of {name}"),
        (f"Show the {text} of {name} sorted by {number}.", f"SELECT {text} FROM {name} ORDER BY {number};", f"the {text} of {name} in the order of {number}"),
        (f"Show the {text} of the {name} with the highest {number}.", f"SELECT {text} FROM {name} ORDER BY {number} DESC LIMIT 1;", f"the {text} of the row of {name} with the highest {number}"),
        (f"Count the {name} by {filterable}.", f"SELECT {filterable}, COUNT(*) FROM {name} GROUP BY {filterable};", f"the number of {name} for each {filterable}"),
        (f"Show the different {filterable} values of the {name}.", f"SELECT DISTINCT {filterable} FROM {name};", f"each {filterable} of {name} once"),
    ])  # fmt: skip


def with_header(rng: random.Random, name: str, asked: str) -> str:
    texts, numbers = TABLES[name]
    columns = ", ".join((["id"] if rng.random() < 0.3 else []) + texts + numbers)
    return rng.choice(HEADERS).format(name, columns, asked)


def to_sql(rng: random.Random) -> Sample:
    """The adapter's task; the key is the SQL itself, so no held-out statement is ever trained."""
    name, asked, sql, _ = question(rng)
    return ask("sql", f"sql|{sql}", with_header(rng, name, asked), sql)


def to_plain_words(rng: random.Random) -> Sample:
    """The same prompt as the base model answers it."""
    name, asked, sql, plain = question(rng)
    return ask("tables", f"sql|{sql}", with_header(rng, name, asked), f"The question asks for {plain}.")


def explain(rng: random.Random) -> Sample:
    _, _, sql, plain = question(rng)
    phrasing = rng.choice(
        ["What does this SQL do? {0}", "Explain this query: {0}", "Explain this SQL in plain words: {0}"]
    )
    return ask("tables", f"sql|{sql}", phrasing.format(sql), f"It gives {plain}.")


def on_request(rng: random.Random) -> Sample:
    """Base model's code task: SQL asked for by name, fenced."""
    _, asked, sql, plain = question(rng)
    prompt = rng.choice([f"Write a SQL query for this: {asked}", f"Write SQL that gives {plain}.", f"SQL for {plain}"])
    return ask("code", f"sql|{sql}", prompt, f"```sql\n{sql}\n```")
