# ruff: noqa: SIM905 (lists of words read best as text)
"""What the synthetic images say: words, phrases, numbers, prices, dates, codes, addresses, every ASCII character.

A fifth of the vocabulary, chosen by each word's hash, belongs to the test split and appears in no training line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from slim.fonts import ASCII

WORDS = Path(__file__).parent / "assets" / "words"
PARTS = ("train", "test")
MAX_CHARS = 48
# Read the same upside down, or nearly: of no use to the direction classifier.
TURNABLE = frozenset("HINOSXZoslxzun0168965|-.:=+%/\\'`,_~ ()[]<>{}")

ALNUM = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
SIGNS = "".join(c for c in ASCII if c not in ALNUM + " ")
MONTHS = "January February March April May June July August September October November December".split()
UNITS = "ml g kg mg oz lb cm mm m km L kW V A W Hz GB MB % in ft F C min h s pcs".split()
DOMAINS = "com org net edu co.uk de io info eu".split()
FUNCTION = (
    "the of and to in a is that for it as with on by be at this are or from an was not have has will can all their "
    "its you your we our they his her he she if when which may more other than into only also any no one two"
).split()
KEYS = "No Tel Fax Ref Qty Date Time Total Price Size Item Lot Exp Model Order Room Gate Art P/N S/N ID".split()


def is_test_word(word: str) -> bool:
    """Whether a word (case ignored) is kept for the test split: a fifth of all, by hash."""
    return int(hashlib.sha256(word.lower().encode()).hexdigest()[:8], 16) % 5 == 0


class TextSource:
    """Draws texts of one split. All randomness comes from the generator that is passed in."""

    def __init__(self, part: str) -> None:
        if part not in PARTS:
            raise ValueError(f"part: expected one of {PARTS}, found {part!r}")
        wanted = part == "test"

        def read(name: str) -> list[str]:
            lines = (WORDS / name).read_text(encoding="ascii").split()
            return [word for word in lines if is_test_word(word) == wanted]

        self.common, self.wider, self.labels = read("common.txt"), read("wider.txt"), read("labels.txt")
        self.function = [word for word in FUNCTION if is_test_word(word) == wanted]
        self.short = [word for word in self.common if len(word) <= 5]
        kinds: list[tuple[float, Callable[[np.random.Generator], str]]] = [
            (0.36, self.styled_word),
            (0.15, self.phrase),
            (0.07, self.sentence),
            (0.08, self.number),
            (0.05, self.price),
            (0.04, self.date),
            (0.02, self.time),
            (0.06, self.code),
            (0.025, self.address),
            (0.025, self.phone),
            (0.035, self.measure),
            (0.03, self.key_value),
            (0.05, self.mixture),
            (0.03, self.enclosed),
        ]
        weights = np.array([weight for weight, _ in kinds])
        self._bounds = (np.cumsum(weights) / weights.sum()).tolist()
        self._kinds = [kind for _, kind in kinds]

    def text(self, rng: np.random.Generator, max_chars: int = MAX_CHARS) -> str:
        """One line of 1..max_chars printable ASCII characters, no space at its ends, no two in a row."""
        drawn = rng.random()
        kind = next(kind for bound, kind in zip(self._bounds, self._kinds, strict=True) if drawn <= bound + 1e-9)
        line = " ".join(kind(rng).split())
        return line[:max_chars].strip() or self.word(rng)[:max_chars]

    def word(self, rng: np.random.Generator) -> str:
        drawn = rng.random()
        pool = (
            self.short if drawn < 0.3 else self.common if drawn < 0.65 else self.labels if drawn < 0.85 else self.wider
        )
        return _pick(rng, pool)

    def styled_word(self, rng: np.random.Generator) -> str:
        word = _cased(rng, self.word(rng))
        drawn = rng.random()
        if drawn < 0.08:
            return word + _pick(rng, ",.;:!?,.")
        if drawn < 0.10:
            return word + "'s"
        if drawn < 0.12:
            return f"{word}-{_cased(rng, self.word(rng))}"
        return word

    def words(self, rng: np.random.Generator, count: int) -> list[str]:
        return [self.word(rng) for _ in range(count)]

    def phrase(self, rng: np.random.Generator) -> str:
        words = self.words(rng, int(rng.integers(2, 4)))
        style = rng.random()
        if style < 0.3:
            words = [w.upper() for w in words]
        elif style < 0.6:
            words = [w[:1].upper() + w[1:] for w in words]
        elif style < 0.75:
            words[0] = words[0][:1].upper() + words[0][1:]
        joint = " & " if rng.random() < 0.05 else " "
        return joint.join(words) + (_pick(rng, ".,!?:") if rng.random() < 0.1 else "")

    def sentence(self, rng: np.random.Generator, max_chars: int = MAX_CHARS) -> str:
        """A line out of a paragraph: longer than the rest, a third of it function words, cut at a word."""
        limit = int(rng.integers(max_chars * 2 // 5, max_chars + 1))
        line = self.word(rng)
        if rng.random() < 0.5:
            line = line[:1].upper() + line[1:]
        while len(line) < limit:
            mark = _pick(rng, ",,;.:") if rng.random() < 0.1 else ""
            word = _pick(rng, self.function) if rng.random() < 0.35 else self.word(rng)
            line += mark + " " + (word[:1].upper() + word[1:] if mark == "." else word)
        if len(line) > limit:
            line = line[:limit].rsplit(" ", 1)[0]
        return line + (_pick(rng, ".,?!") if rng.random() < 0.2 and len(line) < max_chars else "")

    def number(self, rng: np.random.Generator) -> str:
        style = rng.random()
        digits = _string(rng, DIGITS, int(rng.integers(1, 7)))
        if style < 0.5:
            return digits
        if style < 0.65:
            return f"{digits}.{_string(rng, DIGITS, int(rng.integers(1, 3)))}"
        if style < 0.75:
            return f"{int(rng.integers(1, 1000))},{_string(rng, DIGITS, 3)}"
        if style < 0.85:
            return f"{int(rng.integers(1, 101))}%"
        return f"{_pick(rng, '+-#*~<>=')}{digits[:4]}"

    def price(self, rng: np.random.Generator) -> str:
        amount = f"{int(rng.integers(0, 200))}.{int(rng.integers(0, 100)):02d}"
        style = rng.random()
        if style < 0.6:
            return "$" + amount
        if style < 0.8:
            return f"{_pick(rng, ['EUR', 'USD', 'GBP', 'Rs.'])} {amount}"
        return f"${int(rng.integers(1, 1000))}" if style < 0.9 else amount

    def date(self, rng: np.random.Generator) -> str:
        day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(1960, 2035))
        style = int(rng.integers(0, 6))
        return (
            f"{day:02d}/{month:02d}/{year}",
            f"{year}-{month:02d}-{day:02d}",
            f"{day}.{month}.{year % 100:02d}",
            f"{MONTHS[month - 1][:3]} {day}, {year}",
            f"{day} {MONTHS[month - 1]} {year}",
            f"{month:02d}/{year % 100:02d}",
        )[style]

    def time(self, rng: np.random.Generator) -> str:
        hour, minute = int(rng.integers(0, 24)), int(rng.integers(0, 60))
        style = int(rng.integers(0, 3))
        return (
            f"{hour:02d}:{minute:02d}",
            f"{hour % 12 or 12}:{minute:02d} {'AM' if hour < 12 else 'PM'}",
            f"{hour:02d}:{minute:02d}:{int(rng.integers(0, 60)):02d}",
        )[style]

    def code(self, rng: np.random.Generator) -> str:
        groups = int(rng.integers(1, 4))
        alphabet = (UPPER + DIGITS, DIGITS, ALNUM)[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
        parts = [_string(rng, alphabet, int(rng.integers(2, 6))) for _ in range(groups)]
        return _pick(rng, "---/._: ").join(parts)

    def address(self, rng: np.random.Generator) -> str:
        host = f"{self.word(rng).lower()}.{_pick(rng, DOMAINS)}"
        style = rng.random()
        if style < 0.35:
            return f"www.{host}"
        if style < 0.7:
            return f"{self.word(rng).lower()}{_pick(rng, ['', '.', '_'])}{int(rng.integers(0, 100))}@{host}"
        if style < 0.85:
            return f"https://{host}/{self.word(rng).lower()}"
        return f"{_pick(rng, '@#')}{self.word(rng)}" if style < 0.95 else f"C:\\{self.word(rng)}\\{self.word(rng)}"

    def phone(self, rng: np.random.Generator) -> str:
        a, b, c = (_string(rng, DIGITS, n) for n in (3, 3, 4))
        return (f"({a}) {b}-{c}", f"+{a[:2]} {b} {c}", f"{a}-{b}-{c}", f"{a}-{c}")[int(rng.integers(0, 4))]

    def measure(self, rng: np.random.Generator) -> str:
        value = f"{int(rng.integers(1, 1000))}" + (f".{int(rng.integers(0, 10))}" if rng.random() < 0.25 else "")
        return f"{value}{_pick(rng, ['', ' '])}{_pick(rng, UNITS)}"

    def key_value(self, rng: np.random.Generator) -> str:
        kind = (self.number, self.code, self.date, self.price)[int(rng.integers(0, 4))]
        key = _pick(rng, KEYS)
        return f"{key.upper() if rng.random() < 0.4 else key}{_pick(rng, [': ', ':', '. ', ' = '])}{kind(rng)}"

    def mixture(self, rng: np.random.Generator) -> str:
        """Characters without a meaning: every printable one turns up, beside some that show the line's height."""
        count = int(rng.integers(3, 9))
        chars = [_pick(rng, ALNUM if rng.random() < 0.5 else SIGNS) for _ in range(count)]
        chars[int(rng.integers(0, count))] = _pick(rng, ALNUM)
        if count > 5 and rng.random() < 0.3:
            chars[count // 2] = " "
        return "".join(chars)

    def enclosed(self, rng: np.random.Generator) -> str:
        word = _cased(rng, self.word(rng))
        left, right = _pick(
            rng,
            ["()", "[]", "{}", "<>", '""', "''", "``", "**", "||", "__", "~~", "//", ("$", ""), ("&", ";"), ("^", "")],
        )
        style = rng.random()
        if style < 0.75:
            return f"{left}{word}{right}"
        joint = _pick(rng, ["=", "+", " = ", " + ", " < ", " > ", " | ", "^", "~", "\\", "_", "&"])
        return f"{word[:8]}{joint}{self.number(rng)}"


def tells_direction(text: str) -> bool:
    """Whether a line shows which way up it is: at least two characters that look different when turned."""
    return sum(c not in TURNABLE for c in text) >= 2


def _pick(rng: np.random.Generator, pool):
    return pool[int(rng.integers(0, len(pool)))]


def _string(rng: np.random.Generator, alphabet: str, count: int) -> str:
    return "".join(alphabet[i] for i in rng.integers(0, len(alphabet), count).tolist())


def _cased(rng: np.random.Generator, word: str) -> str:
    style = rng.random()
    if style < 0.42:
        return word
    return word[:1].upper() + word[1:] if style < 0.72 else word.upper()
