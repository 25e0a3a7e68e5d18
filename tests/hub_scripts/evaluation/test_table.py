"""The table of `coma evaluate`: percents, chance, candidates."""

from hub_scripts.evaluation.table import results_table


SCORES = {"hit@1": 0.5, "recall@10": 1.0, "ndcg_linear@10": 0.6309, "num_data": 1595, "chance_hit@1": 1 / 1595}


def lines_of(**sets: dict) -> list[str]:
    return results_table({"metrics": {"retrieval": sets}, "means": {}})


def test_a_row_for_each_set():
    lines = lines_of(shop={**SCORES, "num_candidates": [1595, 1595]}, b={**SCORES, "num_candidates": [2, 5]})
    assert lines == [
        "set   queries  candidates  hit@1   R@10  NDCG@10  chance",
        "shop     1595        1595   50.0  100.0     63.1    0.06",
        "b        1595         2-5   50.0  100.0     63.1    0.06",
    ]


def test_budgets_stand_below_their_set():
    scores = {**SCORES, "num_candidates": [3, 3]}
    sets = {"retrieval": {"shop": {**scores, "vectors": {"2x4": {**scores, "hit@1": 0.75}}}}}
    lines = results_table({"metrics": sets, "means": {}, "vectors": {"2x4": {"means": {"image": {"overall": 0.75}}}}})
    assert [line.split()[:4] for line in lines[1:3]] == [["shop", "1595", "3", "50.0"], ["2x4", "1595", "3", "75.0"]]
    assert lines[3].split() == ["image,", "2x4:", "overall", "mean", "75.0"]


def test_what_was_left_out_is_said_and_older_results_have_gaps():
    lines = lines_of(a={"hit@1": 0.0, "num_data": 3, "rows_skipped": 2})
    assert lines[1].split() == ["a", "3", "-", "0.0", "-", "-", "-"]
    assert lines[2:] == ["a: 2 bad rows were left out of its scores"]
