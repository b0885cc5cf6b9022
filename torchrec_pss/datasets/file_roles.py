"""What the names of a folder's data files say: in which order they come, and which of them train, validate and test."""

import re
from collections.abc import Sequence
from typing import Any

TRAIN, VAL, TEST = "train", "val", "test"
HELD_OUT = "held out"  # halved: validation before test

_ROLES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("holdout", "heldout"), HELD_OUT),
}
# Such words within others: understood, or perhaps meant.
_GLUED = re.compile(r"(train|test|valid|val|eval|dev)(set|sets|data|dataset|split|part|file|files|rows|log|logs)")
_PERHAPS = re.compile(r"train|test|valid")
_SHORT = {TRAIN: {"tr", "trn"}, TEST: {"te", "ts", "tst", "va"}}
_NUMBER = re.compile(r"((?<![0-9A-Za-z])-[0-9]+|[0-9]+)")  # a minus after a letter or digit is a hyphen
_RUN = re.compile(r"[A-Za-z]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of a run: trainSet, XTrain
_SUFFIX = re.compile(r"(\.(txt|tsv|csv))?(\.gz)?$", re.IGNORECASE)


def natural_order(name: str) -> tuple[Any, ...]:
    """A sorting key by which numbers in names are numbers: ``part-2`` before ``part-10``, ``day_-1`` before ``day_0``."""
    parts = _NUMBER.split(name)
    folded = [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)]
    return (folded, name)


def without_suffix(name: str) -> str:
    return _SUFFIX.sub("", name)


def role_words(name: str) -> list[str]:
    """Those words of a name that say what the file is for, in any case, each once: of ``"trainSet_2.csv"``, and of
    ``"trainset_2.csv"``, "train"."""
    return list(dict.fromkeys(word for word in _words(name) if word in _ROLES))


def _words(name: str) -> list[str]:
    """A name's words in lower case, without what is glued to those that speak."""
    words: list[str] = []
    for run in _RUN.findall(without_suffix(name)):
        words += [run] if run.lower() in _ROLES else _WORD.findall(run)
    said = re.sub(r"\b(hold|held) out\b", r"\1out", " ".join(words).lower()).split()
    return [glued[1] if (glued := _GLUED.fullmatch(word)) else word for word in said]


def _check_understood(names: Sequence[str]) -> None:
    """Words that may be meant as roles, and are not taken for some: of ``"mytrain.csv"``, ``"tr.csv"`` beside ``"te.csv"``."""
    words = {name: _words(name) for name in names}
    unclear = {n: w for n, said in words.items() for w in said if w not in _ROLES and _PERHAPS.search(w)}
    short = {role: {n: w for n, said in words.items() for w in said if w in known} for role, known in _SHORT.items()}
    if not unclear and short[TRAIN] and short[TEST]:
        unclear = short[TEST]
    for name, word in unclear.items():
        raise ValueError(
            f"{name}: does {word!r} say what the file is for? Write train, val or test as a word of its own (train_1.csv), or "
            "take the file out of the folder"
        )


def roles_of(name: str) -> set[str]:
    """What a name says that the file is for; empty where it does not say."""
    return {_ROLES[word] for word in role_words(name)}


def check_doubled(names: Sequence[str]) -> None:
    """Refuses names that differ in how the file is packed only, in capitals, leading zeros or separators: the same rows
    twice.

    Raises:
        ValueError: naming both.
    """
    seen: dict[tuple[Any, ...], str] = {}
    for name in sorted(names):
        parts = _NUMBER.split(without_suffix(name))
        key = tuple(int(p) if i % 2 else re.sub(r"[-_. ]+", "_", p).casefold() for i, p in enumerate(parts))
        if key in seen:
            raise ValueError(f"{seen[key]} and {name} are the same data file twice: take one of them out of the folder")
        seen[key] = name


def arrange(names: Sequence[str]) -> list[tuple[str, str | None]]:
    """Names in the order of their rows, each with its role, training before validation before test; roles are None where
    no name tells one (then it is time that divides the rows, see `splits.split_files`).

    Raises:
        ValueError: names that cannot be understood together, or nothing to train on; names them.
    """
    if len(names) > 1:
        _check_understood(names)
    words = {name: role_words(name) for name in sorted(names, key=natural_order)}
    with_role = [name for name, said in words.items() if said]
    if not with_role:
        return [(name, None) for name in words]
    if len(words) == 1 and TRAIN in roles_of(with_role[0]):
        return [(with_role[0], None)]  # all there is, so that it is divided
    without = [name for name in words if name not in with_role]
    if without:
        raise ValueError(
            f"{with_role[0]} says what it is for and {without[0]} does not: name all files after train, val and test, "
            "or none"
        )
    by_word: dict[str, list[str]] = {}
    for name, said in words.items():
        if len(said) > 1:
            raise ValueError(f"{name} says both {said[0]!r} and {said[1]!r}: name it after one")
        by_word.setdefault(said[0], []).append(name)
    by_role = _by_role(by_word)
    if TRAIN not in by_role:
        raise ValueError(f"no file to train on: {with_role[0]} is for {words[with_role[0]][0]!r} by its name")
    if set(by_role) == {TRAIN}:
        return [(name, None) for name in by_role[TRAIN]]
    return [(name, role) for role in (TRAIN, VAL, HELD_OUT, TEST) for name in by_role.get(role, [])]


def _by_role(by_word: dict[str, list[str]]) -> dict[str, list[str]]:
    """What is held out takes the place that no other file has, or both."""
    by_role: dict[str, list[str]] = {}
    first_word: dict[str, str] = {}
    for word, names in by_word.items():
        role = _ROLES[word]
        if role in by_role:
            raise ValueError(
                f"{by_role[role][0]} and {names[0]} use two words, {first_word[role]!r} and {word!r}, for one thing"
            )
        by_role[role], first_word[role] = names, word
    if HELD_OUT in by_role and VAL in by_role and TEST in by_role:
        raise ValueError(
            f"{by_role[HELD_OUT][0]} is held out, beside {by_role[VAL][0]} and {by_role[TEST][0]}: for what?"
        )
    if HELD_OUT in by_role and (VAL in by_role or TEST in by_role):
        by_role[TEST if VAL in by_role else VAL] = by_role.pop(HELD_OUT)
    elif VAL in by_role and TEST not in by_role:
        by_role[HELD_OUT] = by_role.pop(VAL)
    return by_role
