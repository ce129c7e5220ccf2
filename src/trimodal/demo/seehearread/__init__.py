"""See, hear, read: a small reasoning task in which every modality is needed.

The image shows a handwritten digit, the sound speaks another, and the text asks what to do with the two. The
answer is one of 40 numbers. Writers, voices and wordings of training, validation and test are disjoint.
"""

from trimodal.demo.seehearread.digits import WRITERS, Handwriting, load_handwriting
from trimodal.demo.seehearread.folder import Item, questions, write_dataset
from trimodal.demo.seehearread.phrases import ANSWERS, OPERATIONS, SPLITS, Operation, answer_class, texts
from trimodal.demo.seehearread.speech import RATE, Clip, load_speech

__all__ = [
    "ANSWERS",
    "OPERATIONS",
    "RATE",
    "SPLITS",
    "WRITERS",
    "Clip",
    "Handwriting",
    "Item",
    "Operation",
    "answer_class",
    "load_handwriting",
    "load_speech",
    "questions",
    "texts",
    "write_dataset",
]
