"""The judge alone: scores in, states out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat.evaluate.track.judge import Judge, Judged

SCORES = st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=40)
JUDGE = Judge(unsure=0.8, lost=0.5, patience=3, found=0.9, memory=4, least=0.2)


@pytest.mark.parametrize("usual", [1.0, 0.6])
def test_an_object_is_lost_once_its_scores_stay_low_and_found_by_one_that_is_as_usual(usual):
    shares = [1.0, 1.0, 0.7, 0.4, 0.4, 0.4, 0.4, 0.6, 0.8, 0.95, 0.6]
    said = ["tracked", "tracked", "tracked", "unsure", "unsure", "unsure", "lost", "lost", "lost", "lost", "tracked"]
    assert JUDGE.states(usual * share for share in shares) == [*said, "unsure"]


def test_frames_without_a_score_change_nothing():
    assert JUDGE.states([0.9, 0.2, np.nan, 0.2, np.nan, 0.2, np.nan])[2:] == ["unsure"] * 4 + ["lost"] * 2


def test_the_usual_score_follows_the_object_but_not_what_is_lost():
    assert JUDGE.states([0.9, 0.7, 0.6, 0.5, 0.45] + [0.4] * 6)[-1] == "tracked"
    assert JUDGE.states([0.9] + [0.3] * 50) == ["tracked"] * 2 + ["unsure"] * 2 + ["lost"] * 48


def test_scores_that_never_were_good_are_no_usual_ones():
    assert JUDGE.states([0.05] * 4) == ["tracked", "unsure", "unsure", "lost", "lost"]


@given(SCORES, SCORES)
def test_what_was_said_does_not_depend_on_what_comes(before, after):
    said = JUDGE.states(before)
    assert JUDGE.states(before + after)[: len(said)] == said


@given(SCORES)
def test_a_score_as_high_as_any_before_takes_the_object_back(scores):
    past = Judged()
    for score in scores:
        past = JUDGE.after(past, score)
    assert JUDGE.after(past, np.nanmax([*scores, 0.3])).state == "tracked"
