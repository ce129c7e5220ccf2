"""See, hear, read: a small reasoning task in which every modality is needed.

The image shows a handwritten digit, the sound speaks another, and the text asks what to do with the two. The
answer is one of 40 numbers. Writers, voices and wordings of training, validation and test are disjoint.
"""

from trimodal.demo.seehearread.digits import WRITERS, Handwriting, load_handwriting
from trimodal.demo.seehearread.folder import QuestionItem, draw_questions, write_dataset
from trimodal.demo.seehearread.phrases import ANSWERS, OPERATIONS, SPLITS, DigitOperation, answer_class_of, list_texts
from trimodal.demo.seehearread.speech import RATE, SpeechClip, load_speech

__all__ = [
    "ANSWERS",
    "OPERATIONS",
    "RATE",
    "SPLITS",
    "WRITERS",
    "SpeechClip",
    "Handwriting",
    "QuestionItem",
    "DigitOperation",
    "answer_class_of",
    "load_handwriting",
    "load_speech",
    "draw_questions",
    "list_texts",
    "write_dataset",
]
