"""What any page of ours must be: valid, closed to the network, and readable by all."""

import itertools
import re
from collections import Counter
from xml.etree import ElementTree

import html5lib

_HTML = "{http://www.w3.org/1999/xhtml}"
_SVG = "{http://www.w3.org/2000/svg}"


def parsed(page: str) -> ElementTree.Element:
    """The page's tree; raises for anything that is no valid HTML."""
    parser = html5lib.HTMLParser(strict=True)
    return parser.parse(page)


def elements(tree, *names):
    return [e for e in tree.iter() if e.tag in {_HTML + name for name in names}]


def text_of(element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def check_accessible(tree) -> None:
    assert elements(tree, "html")[0].get("lang") == "en"
    assert text_of(elements(tree, "title")[0])
    assert len(elements(tree, "main")) == len(elements(tree, "h1")) == 1
    levels = [int(h.tag[-1]) for h in elements(tree, "h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels
    ids = Counter(e.get("id") for e in tree.iter() if e.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    for e in tree.iter():
        for key in ("aria-labelledby", "aria-describedby"):
            assert set((e.get(key) or "").split()) <= ids.keys(), e.get(key)
        if (target := e.get("href") or "").startswith("#"):
            assert target[1:] in ids, target
    for table in elements(tree, "table"):
        assert text_of(elements(table, "caption")[0])
        for cell in elements(table, "th"):
            assert cell.get("scope") in ("col", "row")
        widths = {len(list(row)) for row in elements(table, "tr")}
        assert len(widths) == 1, widths
    for drawing in (e for e in tree.iter() if e.tag == _SVG + "svg"):
        assert drawing.get("role") == "img"
        assert len(drawing.get("aria-label")) > 10
    for picture in elements(tree, "img"):
        assert len(picture.get("alt")) > 10
        assert picture.get("src").startswith("data:image/")


def check_closed(page: str, tree) -> None:
    """Nothing is fetched, whatever a browser would obey."""
    for e in tree.iter():
        for key, value in e.attrib.items():
            assert not re.match(r"(https?:)?//", value), (e.tag, key, value)
            assert not str(key).lower().startswith("on"), key
    (policy,) = [m for m in elements(tree, "meta") if m.get("http-equiv")]
    assert policy.get("content").startswith("default-src 'none'")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def themes(page: str) -> list[dict[str, str]]:
    """The colours of the page's variables, in light and in dark."""
    blocks = re.findall(r":root \{([^}]*)\}", page)
    return [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block)) for block in blocks]


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)
