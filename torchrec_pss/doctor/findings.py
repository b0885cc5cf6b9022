"""`Finding`: one thing that was looked at."""

from dataclasses import dataclass

FINE, NOTE, WRONG = "ok", "note", "wrong"


@dataclass(frozen=True)
class Finding:
    """
    Attributes:
        about: what was looked at.
        state: "ok"; "note", of what is slower or missing and may stay so; "wrong", of what will not work.
        found: what is there.
        remedy: one line to do about it; "" where nothing need be done.
    """

    about: str
    state: str
    found: str
    remedy: str = ""
