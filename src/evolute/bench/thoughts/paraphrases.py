"""Problems of known families, said in many ways: what retrieval is measured on.

    paraphrases(seed, count) -> {family: texts}      fourteen families, six strange ones
    KNOWN, STRANGE                                   whose templates are stored, and whose are not

Each text is a body of the family with fresh values in a frame that any user might put around it.
"""

from __future__ import annotations

import random

FRAMES = (
    "{}",
    "Please help me with this one. {}",
    "{} Answer with the result only.",
    "Here is a question from my class. {} Give the result.",
    "I need this solved quickly: {} Thanks!",
)
WORDS = ("pear", "apple", "river", "stone", "lamp", "cloud", "tiger", "violin", "market", "snow")
Values = dict[str, str]

KNOWN: dict[str, tuple[str, ...]] = {
    "make a target": (
        "Use the numbers {a}, {b}, {c}, {d} with +, -, *, / and brackets to make {t}.",
        "Combine {a}, {b}, {c} and {d} by arithmetic so that the value is {t}; use each once.",
        "With the four numbers {a} {b} {c} {d}, write an expression that equals {t}.",
        "Play the game of {t}: reach {t} from {a}, {b}, {c}, {d}, every number exactly once.",
        "Find a formula of {a}, {b}, {c}, {d} and the four operations whose result is {t}.",
    ),
    "sort words": (
        "Sort these words in ascending order: {w}, {x}, {y}, {z}.",
        "Put the words {w}, {x}, {y}, {z} into alphabetical order.",
        "Order this list of words from a to z: {w}, {x}, {y}, {z}.",
        "Arrange alphabetically: {w}, {x}, {y}, {z}.",
        "Return the words {w}, {x}, {y} and {z} sorted by the alphabet.",
    ),
    "evaluate arithmetic": (
        "Calculate {a} + {b} * ({c} - {d}).",
        "What is the value of {a} - {b} + {c} * {d}?",
        "Work out the arithmetic expression ({a} + {b}) * {c} - {d}.",
        "Compute {a} * {b} - {c} / {d}.",
        "State the result of the sum {a} + {b} - {c} + {d}.",
    ),
    "date later": (
        "Today is {date}. Which date is {n} days later?",
        "It is {date} now. What will the date be {n} weeks from now?",
        "What is the date {n} days before {date}?",
        "A contract of {date} ends {n} months later. On which date does it end?",
        "Count {n} days forward from {date} and say the date.",
    ),
    "chess mate": (
        "White is to move in this chess position and can mate in one move. Which move mates?",
        "Chess: find the move that gives checkmate at once for Black.",
        "In the position given as FEN there is a mate in one. What is it?",
        "Name the mating move for the side to play on this chess board.",
        "Which single chess move checkmates the enemy king here?",
    ),
    "svg shape": (
        'Which shape does this SVG path draw? <path d="M {a},{b} L {c},{d} L {n},{t} L {a},{b}"/>',
        'This SVG path element <path d="M {a},{b} L {c},{d} L {n},{t} L {a},{b}"/> draws a what?',
        'Name the geometric figure of the path <path d="M {a},{b} L {c},{d} L {n},{t}"/>.',
        'Is <path d="M {a},{b} L {c},{d} L {n},{t}"/> a triangle, a hexagon or a circle?',
        'Look at the SVG <path d="M {a},{b} L {c},{d}"/> and say which shape it is.',
    ),
    "table": (
        "A table of penguin data:\nname, age, weight\nAda, {a}, {b}\nBo, {c}, {d}\n"
        "Which penguin has the greatest age?",
        "Here is a table:\nname, age, height\nAda, {a}, {b}\nBo, {c}, {d}\n"
        "What is the total height in the table?",
        "Given the rows of the table\nname, age, weight\nAda, {a}, {b}\nBo, {c}, {d}\n"
        "how many are older than {n}?",
        "Read this table of penguins.\nname, age, weight\nAda, {a}, {b}\nBo, {c}, {d}\n"
        "We then add one row. Who weighs least?",
        "From the table below tell which row has the least weight.\n"
        "name, age, weight\nAda, {a}, {b}\nBo, {c}, {d}",
    ),
    "linear equation": (
        "Solve for x: {a}x + {b} = {t}.",
        "Find the value of x in the linear equation {a}*x - {b} = {c}.",
        "For which x does {a} x + {b} equal {t}?",
        "The equation {a}x = {t} - {b} has one solution. What is x?",
        "Determine the unknown x from {b} + {a}x = {c}.",
    ),
    "prime factors": (
        "Write {t} as a product of primes.",
        "What is the prime factorization of {t}?",
        "Decompose the integer {t} into prime factors.",
        "List the prime factors of {t} in order.",
        "Into which primes does {t} factor?",
    ),
    "reverse text": (
        'Write "{w}" backwards.',
        "Reverse the letters of the word {w}.",
        'Spell "{w}" from its last letter to its first.',
        "What is {w} read from right to left?",
        "Give the letters of {w} in reverse order.",
    ),
    "count letters": (
        'How many times does the letter "{l}" occur in "{w}{x}"?',
        "Count the letter {l} in the word {w}{x}.",
        'In "{w}{x}{y}", how often do you see an {l}?',
        "Tell me the number of {l}'s in {w}{x}.",
        "How many letters of {w}{x} are an {l}?",
    ),
    "unit price": (
        "A shop sells {a} pencils for {t} cents. How much do {b} pencils cost?",
        "If {a} apples cost {t} cents, what is the price of {b} apples?",
        "{a} tickets are {t} euros in all. What do {b} tickets cost?",
        "Tom pays {t} coins for {a} books. How many coins does he pay for {b} books?",
        "Buying {a} eggs takes {t} cents; find the cost of {b} eggs.",
    ),
    "greatest divisor": (
        "What is the greatest common divisor of {a} and {t}?",
        "Find the largest integer that divides both {t} and {b}.",
        "Compute gcd({a}, {t}).",
        "Which is the biggest common factor of {t} and {c}?",
        "Give the highest common factor of {a} and {t}.",
    ),
    "number base": (
        "Convert {t} from decimal to binary.",
        "Write the decimal number {t} in base 2.",
        "What is {t} in hexadecimal?",
        "Change {t} from base 10 to base {a}.",
        "Express {t} as a binary number.",
    ),
}
STRANGE: dict[str, tuple[str, ...]] = {
    "poem": (
        "Write a short poem about the {w} and the {x}.",
        "Compose a sonnet that mentions {w}, {x} and {y}.",
        "I want four rhyming lines about a {w}.",
        "Make up a lullaby with a {w} in it.",
        "Write a limerick on {w}.",
    ),
    "translation": (
        "Translate the word {w} into French.",
        'How do you say "{w} and {x}" in German?',
        "Give the Spanish word for {w}.",
        'Put "the {w} is by the {x}" into Italian.',
        "What is {w} called in Latin?",
    ),
    "medicine": (
        "Which symptoms speak for the flu?",
        "My head hurts since yesterday. What may be the cause?",
        "How is a sprained ankle treated?",
        "Which vitamins are in a {w}?",
        "Is it safe to run with a cold?",
    ),
    "law": (
        "Can my landlord raise the rent within a lease?",
        "What does the law say of a contract signed under pressure?",
        "Who is liable when a {w} falls from a balcony?",
        "Explain the difference between theft and robbery.",
        "May a shop refuse to take back a {w}?",
    ),
    "travel": (
        "Plan a weekend trip to Rome for two people.",
        "Which train goes from Berlin to Prague?",
        "What should I pack for a hike in the snow?",
        "Recommend a quiet beach near Lisbon.",
        "How do I get from the airport to the city?",
    ),
    "cooking": (
        "How do I make soup from {w} and {x}?",
        "Give me a recipe with a {w}.",
        "What goes well with roast {w}?",
        "How long do I boil potatoes?",
        "Bake a cake without eggs: how?",
    ),
}


def paraphrases(seed: int = 0, count: int = 25) -> dict[str, list[str]]:
    """`count` texts a family: bodies and frames in all pairs, then again with other values."""
    source = random.Random(seed)
    found: dict[str, list[str]] = {}
    for family, bodies in (KNOWN | STRANGE).items():
        pairs = [(body, frame) for frame in FRAMES for body in bodies]
        texts = [_text(*pairs[k % len(pairs)], source) for k in range(count)]
        found[family] = texts
    return found


# -- internals ---------------------------------------------------------------


def _text(body: str, frame: str, source: random.Random) -> str:
    filled = body.format(**_values(source))
    if "FEN" in body or "chess" in body.lower():
        filled += " (FEN): 6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1"
    return frame.format(filled)


def _values(source: random.Random) -> Values:
    values: Values = {name: str(source.randint(2, 40)) for name in "abcdn"}
    values["t"] = str(source.randint(12, 900))
    values |= dict(zip("wxyz", source.sample(WORDS, 4)))
    values["l"] = source.choice("aeiorst")
    values["date"] = (
        f"{source.randint(1, 12):02}/{source.randint(1, 28):02}/20{source.randint(10, 40)}"
    )
    return values
