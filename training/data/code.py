"""Small programs: the same goals under many phrasings, some with a number or a name to carry over."""

from __future__ import annotations

import random

from training.data import words
from training.data.sample import Sample, ask, pick

PHRASINGS = [
    "Write a Python function to {0}.", "Write a function to {0} in Python.", "Python code to {0}", "How do I {0} in Python?",
    "Can you write Python code to {0}?", "Show me a function to {0}.", "Please write code to {0}.", "I need a Python function to {0}.",
    "Create a Python function to {0}.", "Write Python code to {0}.", "Write a function that can {0}.",
]  # fmt: skip
GOALS: list[tuple[str, str]] = [
    ("add two numbers", "def add(a, b):\n    return a + b"),
    ("subtract two numbers", "def subtract(a, b):\n    return a - b"),
    ("multiply two numbers", "def multiply(a, b):\n    return a * b"),
    ("divide two numbers", "def divide(a, b):\n    return a / b"),
    ("square a number", "def square(x):\n    return x * x"),
    ("check if a number is even", "def is_even(n):\n    return n % 2 == 0"),
    ("check if a number is odd", "def is_odd(n):\n    return n % 2 == 1"),
    ("check if a number is prime", "def is_prime(n):\n    if n < 2:\n        return False\n    for i in range(2, n):\n        if n % i == 0:\n            return False\n    return True"),
    ("find the larger of two numbers", "def larger(a, b):\n    return a if a > b else b"),
    ("find the maximum of a list", "def maximum(numbers):\n    return max(numbers)"),
    ("find the minimum of a list", "def minimum(numbers):\n    return min(numbers)"),
    ("sum a list", "def total(numbers):\n    return sum(numbers)"),
    ("compute the average of a list", "def average(numbers):\n    return sum(numbers) / len(numbers)"),
    ("reverse a string", "def reverse(text):\n    return text[::-1]"),
    ("reverse a list", "def reverse_list(items):\n    return items[::-1]"),
    ("check if a word is a palindrome", "def is_palindrome(word):\n    return word == word[::-1]"),
    ("count the words in a text", "def count_words(text):\n    return len(text.split())"),
    ("count the vowels in a string", 'def count_vowels(text):\n    return sum(c in "aeiou" for c in text)'),
    ("make a string upper case", "def shout(text):\n    return text.upper()"),
    ("make a string lower case", "def lower(text):\n    return text.lower()"),
    ("sort a list", "def sort_items(items):\n    return sorted(items)"),
    ("remove duplicates from a list", "def unique(items):\n    return list(set(items))"),
    ("compute the factorial of a number", "def factorial(n):\n    if n < 2:\n        return 1\n    return n * factorial(n - 1)"),
    ("compute the Fibonacci numbers", "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"),
    ("get the length of a list", "def length(items):\n    return len(items)"),
    ("get the first item of a list", "def first(items):\n    return items[0]"),
    ("get the last item of a list", "def last(items):\n    return items[-1]"),
    ("compute the area of a circle", "import math\n\ndef area(radius):\n    return math.pi * radius ** 2"),
    ("compute the area of a rectangle", "def area(width, height):\n    return width * height"),
    ("convert Celsius to Fahrenheit", "def to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32"),
    ("read a file", "def read_file(path):\n    with open(path) as file:\n        return file.read()"),
    ("write text to a file", 'def write_file(path, text):\n    with open(path, "w") as file:\n        file.write(text)'),
    ("join a list of words", 'def join_words(words):\n    return " ".join(words)'),
    ("split a text into words", "def split_words(text):\n    return text.split()"),
    ("flatten a list of lists", "def flatten(lists):\n    return [x for items in lists for x in items]"),
    ("merge two dictionaries", "def merge(a, b):\n    return {**a, **b}"),
    ("pick a random item", "import random\n\ndef pick(items):\n    return random.choice(items)"),
    ("load a JSON file", "import json\n\ndef load(path):\n    with open(path) as file:\n        return json.load(file)"),
]  # fmt: skip


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


def fixed_goal(rng: random.Random) -> Sample:
    goal, code = rng.choice(GOALS)
    number, phrasing = pick(rng, PHRASINGS)
    return ask("code", f"code|{goal}|{number}", phrasing.format(goal), fenced(code))


def number_goal(rng: random.Random) -> Sample:
    n = rng.randint(2, 99)
    goal, code = rng.choice([
        (f"add {n} to a number", f"def add_{n}(x):\n    return x + {n}"),
        (f"multiply a number by {n}", f"def times_{n}(x):\n    return x * {n}"),
        (f"check if a number is divisible by {n}", f"def divisible_by_{n}(x):\n    return x % {n} == 0"),
        (f"print the numbers from 1 to {n}", f"for i in range(1, {n + 1}):\n    print(i)"),
        (f"keep the numbers above {n}", f"def above_{n}(numbers):\n    return [x for x in numbers if x > {n}]"),
    ])  # fmt: skip
    _, phrasing = pick(rng, PHRASINGS)
    return ask("code", f"code|{goal}", phrasing.format(goal), fenced(code))


def text_goal(rng: random.Random) -> Sample:
    word = words.any_word(rng)
    question, code, language = rng.choice(
        [
            (f'Write Python code that prints "{word}".', f'print("{word}")', "python"),
            (f"How do I print {word} in Python?", f'print("{word}")', "python"),
            (
                f"Write a Python function called {word} that adds two numbers.",
                f"def {word}(a, b):\n    return a + b",
                "python",
            ),
            (f"Make a Python list with {word} in it.", f'items = ["{word}"]', "python"),
            (f'Write HTML for a heading that says "{word}".', f"<h1>{word}</h1>", "html"),
            (f'Write HTML for a button that says "{word}".', f"<button>{word}</button>", "html"),
            (f"Write a bash command to make a folder called {word}.", f"mkdir {word}", "bash"),
            (f"Write a Python class called {word.capitalize()}.", f"class {word.capitalize()}:\n    pass", "python"),
        ]
    )
    return ask("code", f"code|{question}", question, fenced(code, language))
