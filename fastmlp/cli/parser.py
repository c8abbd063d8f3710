"""Parsing of arguments, with errors of one line that say what may have been meant."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from fastmlp.validation.suggestions import suggestion

# What to write here, and the words of it elsewhere: for each option, without its hyphens.
SYNONYMS = {
    "--target": "t y label label_column response",
    "--preset": "presets quality",
    "--task": "objective problem_type",
    "--valid": "validation validation_split validation_fraction test_size valid_data eval_file",
    "--weight": "weight_column sample_weight weights",
    "--features": "columns x",
    "--ignore": "ignore_column drop exclude",
    "--categorical": "categorical_feature categories",
    "--hidden": "hidden_layer_sizes layers units hidden_layers",
    "--epochs": "e max_iter num_epochs n_epochs iterations",
    "--batch-size": "b bs batch minibatch",
    "--batch-rows": "batch chunk_size chunksize",
    "--learning-rate": "lr eta learning_rate_init",
    "--l2": "alpha weight_decay lambda",
    "--patience": "early_stopping early_stopping_round n_iter_no_change",
    "--time-limit": "time timeout max_time",
    "--seed": "s random_state random_seed",
    "--threads": "j n_jobs num_threads n_threads jobs nthread",
    "--output": "o out output_model output_result model_output f file",
    "--force": "overwrite",
    "--quiet": "q silent",
    "--probabilities": "proba probability predict_proba",
    "--keep": "id id_column",
    "--metric": "scoring eval_metric",
    "--compute-dtype": "mixed_precision precision dtype amp bf16 bfloat16",
    "give its value without an option": "data input i m model",
}
CHOICE = re.compile(r"(.*invalid choice: )'?(.*?)'? \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print an error, and exit with code 2."""
        if found := CHOICE.fullmatch(message):
            start, word, choices = found.groups()
            known = [each.strip("' ") for each in choices.split(",")]
            message = f"{start}{word!r}{suggestion(word, known)} known: {', '.join(known)}"
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parsed(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; those that are none are an error of the command's parser."""
    found, extra = parser.parse_known_args(arguments)
    if extra:
        command: Parser = getattr(found, "parser", parser)
        command.error(_unknown(extra, command))
    return found


def _unknown(extra: list[str], command: argparse.ArgumentParser) -> str:
    """Return what is wrong with arguments that are none of a command's."""
    first = next((each for each in extra if each.startswith("-")), None)
    if first is None:
        several = "values of one option are separated by commas, without spaces"
        return f"unrecognized arguments: {' '.join(extra)}; {several}"
    word = first.split("=")[0]
    options = [each for each in command._option_string_actions if each.startswith("--")]
    here: dict[str, Any] = {
        key: words for key, words in SYNONYMS.items() if key in options or " " in key
    }
    return f"there is no option {word}{suggestion(word, options, here).rstrip(';')}"
