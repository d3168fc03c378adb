"""What the name of a method says. Nothing heavy stands beside it: names are asked for before anything is computed."""

import re
from dataclasses import dataclass

SOFT = "+soft"  # after a method's name: its images with a teacher's labels
REFERENCES = ("random", "full")  # real images: what the other methods are compared with
_METHOD = re.compile(r"(?P<name>.*?)(\+(?P<formation>[2-9])x(?P=formation))?(?P<soft>\+soft)?")


@dataclass(frozen=True)
class Method:
    """What the name of a method says, such as ``herding+2x2+soft``.

    Attributes:
        name: how images are made or chosen.
        formation: k: k x k scenes at 1/k of their size stand in the place of each image ("multi-formation").
        soft: the images have a teacher's labels.
    """

    name: str
    formation: int
    soft: bool

    @classmethod
    def read(cls, method: str) -> "Method":
        found = _METHOD.fullmatch(method)
        assert found is not None  # anything is a name
        return cls(found["name"], int(found["formation"] or 1), found["soft"] is not None)
