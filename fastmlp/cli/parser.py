"""The parser of the command: its errors are one line."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from fastmlp.extend import messages

# Words of other programs, without hyphens, for an option or as advice.
OPTION_SYNONYMS = {
    "--target": "t y label label_column response",
    "--preset": "presets quality",
    "--task": "objective problem_type",
    "--valid": "validation validation_split validation_fraction test_size valid_data "
    "eval_file",
    "--weight": "weight_column sample_weight weights",
    "--features": "columns x",
    "--ignore": "ignore_column drop exclude",
    "--categorical": "categorical_feature categories",
    "--epochs": "e max_iter num_epochs n_epochs iterations",
    "--batch-rows": "batch chunk_size chunksize",
    "--time-limit": "time timeout max_time",
    "--seed": "s random_state random_seed",
    "--threads": "j n_jobs num_threads n_threads jobs nthread",
    "--output": "o out output_model output_result model_output f file",
    "--force": "overwrite",
    "--probabilities": "proba probability predict_proba",
    "--keep": "id id_column",
    "--metric": "scoring eval_metric",
    "--prefix": "name",
    "--tests": "n_tests test_rows",
    "--test-data": "data rows calibration_data",
    "--dtype": "precision type",
    "--gradient": "jacobian derivatives",
    "--fortran": "f90 module",
    "give its value without an option": "data input i m model",
}
VERBS = {
    "export": "convert to_c codegen dump",
    "report": "html explain evaluate html_report",
}
CHOICE = re.compile(r"(.*invalid choice: )'?(.*?)'? \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print an error, and exit with code 2."""
        if choice := CHOICE.fullmatch(message):
            start, word, choices = choice.groups()
            known = [each.strip("' ") for each in choices.split(",")]
            verbs = {verb: words for verb, words in VERBS.items() if verb in known}
            meant = messages.suggestion(word, known, verbs)
            message = f"{start}{word!r}{meant} known: {', '.join(known)}"
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parse(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments. Unknown ones are an error of the command's parser."""
    namespace: argparse.Namespace
    namespace, extra = parser.parse_known_args(arguments)
    if extra:
        command: Parser = getattr(namespace, "parser", parser)
        command.error(_unknown(extra, command))
    return namespace


def _unknown(extra: list[str], command: argparse.ArgumentParser) -> str:
    first = next((each for each in extra if each.startswith("-")), None)
    if first is None:
        several = "values of one option are separated by commas, without spaces"
        return f"unrecognized arguments: {' '.join(extra)}; {several}"
    word = first.split("=")[0]
    options = [each for each in command._option_string_actions if each.startswith("--")]
    here: dict[str, Any] = {
        key: words
        for key, words in OPTION_SYNONYMS.items()
        if key in options or " " in key
    }
    return f"there is no option {word}{messages.suggestion(word, options, here).rstrip(';')}"


class CommandError(Exception):
    """A file or its data are wrong: exit code 1."""


class UsageError(Exception):
    """An option is wrong or missing: exit code 2."""


def printable(text: object) -> str:
    """Text with escaped control characters, which a terminal would obey."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(text))
