"""Code with hidden tests: a signature, a sentence and `return` to continue, and checks that the model does not see."""

from __future__ import annotations

import random
from collections.abc import Sequence

from localai.bench.tasks import Item

_SHOTS = '''def minus(a, b):
    """Return a minus b."""
    return a - b


def first(items):
    """Return the first element of items."""
    return items[0]


'''

_FUNCTIONS: tuple[tuple[str, str, str], ...] = (
    ("plus(a, b)", "Return the sum of a and b.", "plus(2, 3) == 5 and plus(-1, 1) == 0"),
    ("times(a, b)", "Return the product of a and b.", "times(2, 3) == 6 and times(0, 9) == 0"),
    ("double(x)", "Return twice x.", "double(4) == 8 and double(-3) == -6"),
    ("square(x)", "Return the square of x.", "square(5) == 25 and square(-2) == 4"),
    ("last(items)", "Return the last element of items.", "last([1, 2, 3]) == 3 and last('ab') == 'b'"),
    ("second(items)", "Return the second element of items.", "second([1, 2, 3]) == 2 and second('ab') == 'b'"),
    ("is_even(n)", "Return True if n is even, else False.", "is_even(4) is True and is_even(7) is False"),
    ("is_odd(n)", "Return True if n is odd, else False.", "is_odd(3) is True and is_odd(8) is False"),
    ("biggest(items)", "Return the largest element of items.", "biggest([1, 9, 3]) == 9 and biggest([-2, -5]) == -2"),
    ("smallest(items)", "Return the smallest element of items.", "smallest([4, 1, 3]) == 1 and smallest([7]) == 7"),
    ("total(items)", "Return the sum of all items.", "total([1, 2, 3]) == 6 and total([]) == 0"),
    ("size(items)", "Return how many elements items has.", "size([1, 2]) == 2 and size('') == 0"),
    ("upper(text)", "Return text in upper case.", "upper('ab c') == 'AB C' and upper('') == ''"),
    ("backwards(text)", "Return text reversed.", "backwards('abc') == 'cba' and backwards('') == ''"),
    ("is_empty(items)", "Return True if items has no elements.", "is_empty([]) is True and is_empty([0]) is False"),
    ("half(x)", "Return x divided by 2.", "half(5) == 2.5 and half(-4) == -2"),
    ("absolute(x)", "Return the absolute value of x.", "absolute(-4) == 4 and absolute(3) == 3"),
    ("greet(name)", "Return 'Hello, ' followed by name.", "greet('Ann') == 'Hello, Ann' and greet('') == 'Hello, '"),
    ("words(text)", "Return the list of words in text.", "words('a b  c') == ['a', 'b', 'c'] and words('') == []"),
    ("mean(items)", "Return the average of items.", "mean([1, 2, 3]) == 2 and mean([5]) == 5"),
    ("remainder(a, b)", "Return the remainder of a divided by b.", "remainder(7, 3) == 1 and remainder(8, 4) == 0"),
    ("positive(items)", "Return a list of the positive numbers in items.", "positive([1, -2, 0, 3]) == [1, 3]"),
    (
        "evens(items)",
        "Return a list of the even numbers in items.",
        "evens([1, 2, 4, 5]) == [2, 4] and evens([]) == []",
    ),
    ("squares(n)", "Return a list of the squares of 0 to n - 1.", "squares(4) == [0, 1, 4, 9] and squares(0) == []"),
    ("vowels(text)", "Return how many vowels text has.", "vowels('banana') == 3 and vowels('xyz') == 0"),
    ("unique(items)", "Return items without duplicates, in order.", "unique([1, 2, 1, 3]) == [1, 2, 3]"),
    ("factorial(n)", "Return n factorial.", "factorial(5) == 120 and factorial(0) == 1"),
    (
        "is_palindrome(text)",
        "Return True if text reads the same backwards.",
        "is_palindrome('abba') and not is_palindrome('ab')",
    ),
    (
        "count(text, letter)",
        "Return how often letter occurs in text.",
        "count('banana', 'a') == 3 and count('', 'x') == 0",
    ),
    ("join(words)", "Return the words joined by commas.", "join(['a', 'b']) == 'a,b' and join([]) == ''"),
    (
        "clamp(x, low, high)",
        "Return x, but at least low and at most high.",
        "clamp(5, 0, 3) == 3 and clamp(-1, 0, 3) == 0",
    ),
    ("swap(pair)", "Return the two elements of pair in reverse order, as a tuple.", "swap((1, 2)) == (2, 1)"),
    ("celsius(f)", "Return f degrees Fahrenheit in degrees Celsius.", "abs(celsius(212) - 100) < 1e-6"),
    ("hypotenuse(a, b)", "Return the hypotenuse of a right triangle.", "abs(hypotenuse(3, 4) - 5) < 1e-6"),
    ("gcd(a, b)", "Return the greatest common divisor of a and b.", "gcd(12, 18) == 6 and gcd(7, 3) == 1"),
    (
        "fibonacci(n)",
        "Return the n-th Fibonacci number; the 0th is 0.",
        "[fibonacci(n) for n in range(6)] == [0, 1, 1, 2, 3, 5]",
    ),
    ("is_prime(n)", "Return True if n is a prime number.", "[n for n in range(10) if is_prime(n)] == [2, 3, 5, 7]"),
    ("flatten(lists)", "Return one list of the elements of all lists.", "flatten([[1], [2, 3], []]) == [1, 2, 3]"),
    ("digits(n)", "Return the sum of the decimal digits of n.", "digits(123) == 6 and digits(0) == 0"),
    ("common(a, b)", "Return the sorted elements that a and b share.", "common([3, 1, 2], [2, 3, 4]) == [2, 3]"),
)
KNOWN = len(_FUNCTIONS)


def code(count: int, seed: int, numbers: Sequence[int] | None = None) -> list[Item]:
    """`count` functions to write, easier ones first in the table; `numbers` picks from it instead of the seed."""
    picked = list(numbers or random.Random(f"code {seed}").sample(range(KNOWN), min(count, KNOWN)))
    items = []
    for place, number in enumerate(picked[:count]):
        signature, sentence, check = _FUNCTIONS[number]
        items.append(
            Item(
                id=f"code-{place:04}",
                category="code",
                kind="text",
                scorer="code",
                prompt=f'{_SHOTS}def {signature}:\n    """{sentence}"""\n    return',
                tests=f"assert {check}\n",
                max_tokens=32,
            )
        )
    return items
