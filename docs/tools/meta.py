"""A description of each page, its first paragraph,
and its card in chats and on other sites.
"""

from html import escape
from typing import Any

from docutils import nodes

MOST = 200


def description(doctree: nodes.document) -> str:
    """Return the first paragraph of a page, cut at a word; "" where there is none.

    A note is none: programs of the gallery begin with one that says where to download
    them.
    """
    paragraphs = doctree.findall(nodes.paragraph)
    first = next(
        (one for one in paragraphs if not isinstance(one.parent, nodes.Admonition)),
        None,
    )
    text = " ".join(first.astext().split()) if first else ""
    return text if len(text) <= MOST else text[:MOST].rpartition(" ")[0] + " ..."


def tags(title: str, text: str, address: str, image: str) -> str:
    """Return the elements of a page's head."""
    card = {
        "type": "website",
        "site_name": "fastmlp",
        "title": title,
        "description": text,
    }
    card |= {"url": address, "image": image}
    return "\n".join(
        [
            f'<meta name="description" content="{escape(text)}">',
            *(
                f'<meta property="og:{key}" content="{escape(card[key])}">'
                for key in card
            ),
        ]
    )


def of_page(
    app: Any, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    if doctree is None:
        return
    title = app.env.titles[page].astext()
    base = app.config.html_baseurl
    text = description(doctree) or str(app.config.project)
    address = f"{base}{app.builder.get_target_uri(page)}"
    context["metatags"] += tags(title, text, address, f"{base}_images/second-order.png")


def setup(app: Any) -> None:
    app.connect("html-page-context", of_page)
