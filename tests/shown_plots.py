"""What stands in the plots of a card: its images are read as a browser would."""

import base64
import re
import xml.etree.ElementTree as ElementTree

__all__ = ["read_plots"]

_IMAGE = re.compile(r"^!\[(.*)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)$", re.M)


def read_plots(card: str) -> dict[str, str]:
    """Title → all text of each image in a Markdown card; what is no SVG is an error."""
    found = {}
    for title, encoded in _IMAGE.findall(card):
        root = ElementTree.fromstring(base64.b64decode(encoded, validate=True))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        found[title] = " ".join(root.itertext())
    return found
