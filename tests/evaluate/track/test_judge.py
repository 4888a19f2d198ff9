"""The judge alone: scores in, states out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lorat.evaluate.track.judge import Judge, Judged

SCORES = st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=40)
JUDGE = Judge(unsure=0.5, lost=0.3, patience=3, found=0.6)


def test_an_object_is_lost_once_its_scores_stay_low_and_found_by_one_that_is_high():
    scores = [1, 0.9, 0.4, 0.2, 0.2, 0.2, 0.2, 0.4, 0.55, 0.6, 0.4]
    said = ["tracked", "tracked", "unsure", "unsure", "unsure", "lost", "lost", "lost", "lost", "tracked", "unsure"]
    assert JUDGE.states(scores) == said


def test_frames_without_a_score_change_nothing():
    assert JUDGE.states([0.2, np.nan, 0.2, np.nan, 0.2, np.nan]) == ["unsure"] * 4 + ["lost"] * 2


@given(SCORES, SCORES)
def test_what_was_said_does_not_depend_on_what_comes(before, after):
    assert JUDGE.states(before + after)[: len(before)] == JUDGE.states(before)


@given(SCORES, st.floats(0.6, 1))
def test_a_high_score_always_takes_the_object_back(scores, high):
    past = Judged()
    for score in scores:
        past = JUDGE.after(past, score)
    assert JUDGE.after(past, high).state == "tracked"
