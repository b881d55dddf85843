"""HTML as a tree, so that whatever users call their files is text and never markup."""

import json
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

Element = ElementTree.Element
Child = Element | str | None | Iterable["Child"]


def element(tag: str, *children: Child, **attributes: Any) -> Element:
    """An element of HTML or SVG.

    Args:
      tag: its name.
      *children: elements and texts, in lists as deep as one likes; None is left out.
      **attributes: with a trailing underscore where Python has taken the word (``class_``), and
        underscores for hyphens; None and False are left out, True is an attribute without value.
    """
    made = ElementTree.Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            text = "" if value is True else _text(str(value))
            made.set(name.rstrip("_").replace("_", "-"), text)
    _append(made, children)
    return made


def data(identifier: str, value: Any) -> Element:
    """``value`` as JSON that the page's script reads from the element ``identifier``."""
    # The only text that a browser takes as it is: no "<" may end the element early.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return element("script", text, type="application/json", id=identifier)


def document(head: list[Element], body: list[Element]) -> str:
    """A whole page in ASCII."""
    tree = element("html", element("head", head), element("body", body), lang="en")
    markup = ElementTree.tostring(tree, encoding="us-ascii", method="html").decode()
    return f"<!doctype html>\n{markup}\n"


def _append(parent: Element, children: Child) -> None:
    if children is None:
        return
    if isinstance(children, Element):
        parent.append(children)
    elif not isinstance(children, str):
        for child in children:
            _append(parent, child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + _text(children)
    else:
        parent.text = (parent.text or "") + _text(children)


def _text(text: str) -> str:
    """Names of files need not be UTF-8; what is not is shown as an escape."""
    return text.encode(errors="backslashreplace").decode()
