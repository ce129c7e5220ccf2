"""The questions: five operations on two digits, each asked in many wordings, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DigitOperation:
    """What is asked of the seen digit and the heard digit.

    `wordings` maps a split to the wordings used in it; ``{o}`` stands for the two digits. A wording of one
    split is in no other, but the validation and test wordings are mostly made of words that training has
    shown.
    """

    name: str
    answer: Callable[[int, int], int]
    wordings: Mapping[str, tuple[str, ...]]


OPERATIONS = (
    DigitOperation(
        "add",
        lambda seen, heard: seen + heard,
        {
            "train": (
                "add {o}",
                "sum {o}",
                "what is the sum of {o}",
                "compute the sum of {o}",
                "give the total of {o}",
                "what do {o} add up to",
                "how much are {o} together",
                "put {o} together",
                "{o} added up",
                "work out the total of {o}",
                "take {o} and add",
            ),
            "validation": ("find the sum of {o}", "how much are {o} added together"),
            "test": ("what is the total of {o}", "work out {o} added together", "tell me the sum of {o}"),
        },
    ),
    DigitOperation(
        "difference",
        lambda seen, heard: abs(seen - heard),
        {
            "train": (
                "what is the difference between {o}",
                "the difference of {o}",
                "compute the difference between {o}",
                "how far apart are {o}",
                "by how much do {o} differ",
                "what is the distance between {o}",
                "give the distance from one to the other of {o}",
                "subtract the smaller from the larger of {o}",
                "take the smaller away from the larger of {o}",
                "how far is it between {o}",
                "work out how much {o} differ",
            ),
            "validation": ("find the difference of {o}", "work out how far apart {o} are"),
            "test": (
                "tell me the difference between {o}",
                "give the distance between {o}",
                "how much do {o} differ",
            ),
        },
    ),
    DigitOperation(
        "larger",
        max,
        {
            "train": (
                "which is larger of {o}",
                "the larger of {o}",
                "give the maximum of {o}",
                "which of {o} is bigger",
                "pick the greater of {o}",
                "what is the highest of {o}",
                "choose the bigger of {o}",
                "which of {o} is the most",
                "compute the maximum of {o}",
                "take the larger one of {o}",
                "which of {o} is greater",
            ),
            "validation": ("find the larger of {o}", "what is the maximum of {o}"),
            "test": (
                "tell me which of {o} is larger",
                "pick the bigger one of {o}",
                "what is the greater of {o}",
            ),
        },
    ),
    DigitOperation(
        "smaller",
        min,
        {
            "train": (
                "which is smaller of {o}",
                "the smaller of {o}",
                "give the minimum of {o}",
                "which of {o} is lower",
                "pick the lesser of {o}",
                "what is the lowest of {o}",
                "choose the lower of {o}",
                "which of {o} is the least",
                "compute the minimum of {o}",
                "take the smaller one of {o}",
                "which of {o} is less",
            ),
            "validation": ("find the smaller of {o}", "what is the minimum of {o}"),
            "test": (
                "tell me which of {o} is smaller",
                "pick the lower one of {o}",
                "what is the lesser of {o}",
            ),
        },
    ),
    DigitOperation(
        "multiply",
        lambda seen, heard: seen * heard,
        {
            "train": (
                "multiply {o}",
                "what is the product of {o}",
                "compute the product of {o}",
                "{o} times each other",
                "how much are {o} multiplied",
                "give one of {o} times the other",
                "the product of {o}",
                "work out one times the other of {o}",
                "take {o} and multiply",
                "what do {o} multiply to",
                "how much is it when {o} are multiplied",
            ),
            "validation": ("find the product of {o}", "what are {o} multiplied"),
            "test": (
                "tell me the product of {o}",
                "work out {o} multiplied",
                "what is one of {o} times the other",
            ),
        },
    ),
)

OBJECTS = (
    "them",
    "the two",
    "both",
    "the two digits",
    "both digits",
    "the two numbers",
    "both numbers",
    "what you see and what you hear",
    "the digit you see and the digit you hear",
    "the image and the sound",
    "the written digit and the spoken digit",
    "the seen number and the heard number",
)
OPENINGS = ("", "please ", "now ", "this time ")

ANSWERS = tuple(sorted({operation.answer(a, b) for operation in OPERATIONS for a in range(10) for b in range(10)}))
ANSWER_CLASS = {value: number for number, value in enumerate(ANSWERS)}


def answer_class_of(operation: int, seen: int, heard: int) -> int:
    """The class (index into `ANSWERS`) of the right answer."""
    return ANSWER_CLASS[OPERATIONS[operation].answer(seen, heard)]


def list_texts(operation: int, split: str) -> tuple[str, ...]:
    """All texts that ask for an operation in one split."""
    wordings = OPERATIONS[operation].wordings[split]
    return tuple(o + w.format(o=thing) for w, thing, o in product(wordings, OBJECTS, OPENINGS))
