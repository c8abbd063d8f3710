"""A net's text in a prompt and in a notebook."""

import copy
import pickle
import re
from typing import Any
from xml.etree import ElementTree

from fastmlp import MLP, SGD, Loss


def cells(html: str) -> list[list[str]]:
    """Return the texts of a table; the HTML must be well-formed."""
    rows = ElementTree.fromstring(html).iter("tr")
    return [["".join(cell.itertext()) for cell in row] for row in rows]


def test_a_net_in_a_notebook_is_a_table_of_its_layers() -> None:
    net = MLP((64, 1000, 10), loss="cross_entropy", optimizer=SGD(0.5), l2=1e-4, dtype="float64")
    html = net._repr_html_()
    assert cells(html) == [
        ["layer", "inputs", "outputs", "activation", "parameters"],
        ["hidden", "64", "1,000", "relu", "65,000"],
        ["output", "1,000", "10", "softmax", "10,010"],
    ]
    texts = " ".join(ElementTree.fromstring(html).itertext())
    assert "75,010 parameters, float64, on cpu" in texts
    assert "loss cross_entropy; l2 0.0001; SGD(learning_rate=0.5); 0 steps done" in texts


def test_names_of_own_rules_are_escaped() -> None:
    def own(prediction: Any, target: Any) -> Any:
        return prediction - target, 1.0

    own.__name__ = "<script>"
    html = MLP((2, 1), loss=Loss(own))._repr_html_()
    assert "<script>" not in html
    assert "loss &lt;script&gt;" in html


def test_the_html_has_no_colours_of_its_own() -> None:
    html = MLP((2, 4, 1), seed=0)._repr_html_()
    assert "background" not in html
    assert not re.search(r"#[0-9a-f]{3}|rgb|(?<!-)color:", html)


def test_a_summary_is_shown_in_lines_without_print() -> None:
    summary = MLP((2, 4, 1), seed=0).summary()
    assert isinstance(summary, str)
    assert repr(summary) == str(summary)
    assert len(repr(summary).splitlines()) == 4
    assert repr(pickle.loads(pickle.dumps(summary))) == repr(copy.copy(summary)) == summary
