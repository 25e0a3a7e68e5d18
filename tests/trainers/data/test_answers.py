"""The answers to a query are those of all rows that ask it, and of their groups, but not of the groups of others."""

from trainers.data.answers import Answers


def test_answers_of_equal_queries_and_of_their_groups() -> None:
    answers = Answers("qrqst", [0, 1, 2, 3, 4], ["g", "g", None, "h", "h"])
    assert [answers.of(query) for query in "qrst"] == [{0, 1, 2}, {0, 1}, {3, 4}, {3, 4}]
