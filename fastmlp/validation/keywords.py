"""Keywords of other libraries, and the words here for them."""

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from fastmlp.validation.suggestions import Synonyms, suggestion

# Words of other libraries, for messages and for the page of parameters.
WORDS = Path(__file__).with_name("words.toml")
# The words with which a cell of the page begins.
CELL = re.compile(r"`[a-z]\w*`(, `[a-z]\w*`)*")


@cache
def content() -> Any:
    """The content of the file of words."""
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
    """The suggestion for an unknown keyword of a function; ";" if there is none.

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
