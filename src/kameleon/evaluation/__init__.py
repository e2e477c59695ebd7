"""Scores on held-out rows: loss, bits per byte, exact match and choice accuracy. It knows no training run."""

from kameleon.evaluation.answers import AnsweredRow, answer_rows
from kameleon.evaluation.as_trained import evaluate_as_trained
from kameleon.evaluation.scores import GENERAL_TEXT, Score, Scores, TestSet, evaluate, make_test_set

__all__ = [
    "GENERAL_TEXT",
    "AnsweredRow",
    "Score",
    "Scores",
    "TestSet",
    "answer_rows",
    "evaluate",
    "evaluate_as_trained",
    "make_test_set",
]
