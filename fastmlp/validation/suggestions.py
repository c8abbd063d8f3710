"""Suggestions for words that are not known, and parts of messages."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

# Below it difflib matches words that share a few letters: "nonsense" and "lecun_normal".
SIMILARITY = 0.7
# A text of a file with 3,000,000 characters took 110 MB.
LONGEST = 100
# From a known word, or a sentence of advice, to the words of other libraries for it.
Synonyms = Mapping[str, str]
NONE: Synonyms = MappingProxyType({})


def suggestion(word: object, known: Iterable[str], synonyms: Synonyms = NONE) -> str:
    """The suggestion for an unknown word, before the list of the known ones; ";" if there is none.

    Parameters
    ----------
    word : the unknown one, a str or any other object
    known : the known words
    synonyms : for each known word, or sentence of advice, the words of other libraries

    Examples
    --------
    >>> suggestion("ReLU", ["relu", "tanh"])
    ", did you mean 'relu'?"
    >>> suggestion("xent", ["mse", "cross_entropy"], {"cross_entropy": "xent nll"})
    ", did you mean 'cross_entropy'?"
    >>> suggestion("pinball", ["mse"], {"write a function": "pinball"})
    ': write a function;'
    >>> suggestion("frobnicate", ["mse"])
    ';'
    >>> suggestion("mse" * 100, ["mse"])
    ';'
    """
    names = list(known)
    known_length = isinstance(word, str) and len(word) <= LONGEST
    meant = _meant(str(word), names, synonyms) if known_length else []
    if not meant:
        return ";"
    if meant[0] not in names:
        return f": {meant[0]};"
    return f", did you mean {' or '.join(map(repr, meant))}?"


def same_word(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is equal to this one but for capitals and separators, or None."""
    return {_letters(name): name for name in known}.get(_letters(word))


def count(n: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not 1.

    Examples
    --------
    >>> count(1, "column"), count(2, "column")
    ('1 column', '2 columns')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(names: list[str], most: int = 5) -> str:
    """Names with commas, and the number of those beyond `most`.

    Examples
    --------
    >>> listed(["a", "b"]), listed(["a", "b", "c"], 2)
    ('a, b', 'a, b and 1 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _meant(word: str, names: list[str], synonyms: Synonyms) -> list[str]:
    """Return the known words that are meant, or one sentence, or nothing."""
    answers: dict[str, list[str]] = {}
    for answer, words in synonyms.items():
        for synonym in words.split():
            answers.setdefault(_letters(synonym), []).append(answer)
    answers |= {_letters(name): [name] for name in names}
    letters = _letters(word)
    for same in (letters, letters.removesuffix("loss")):
        if same in answers:
            return answers[same]
    from difflib import get_close_matches

    close = get_close_matches(letters, answers, n=1, cutoff=SIMILARITY)
    return answers[close[0]] if close else []


def _letters(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())
