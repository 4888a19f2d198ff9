import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lorat.evaluate.report.page import render_page, write_page
from lorat.evaluate.report.strips import Strip, StripFrame
from tests.evaluate.pages import NASTY, clips_of, page_of

_VOID = {"meta", "img", "input", "br"}


class Outline(HTMLParser):
    """Checks that tags nest, and keeps attributes and texts."""

    def __init__(self, page):
        super().__init__()
        self.open, self.attributes, self.texts, self.rows = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("th", "td", "span") and self.rows:
            self.rows[-1].append(data)


def strip(name, overlap=()):
    picture = StripFrame(7, b"\xff\xd8\xff", (32, 24), None)
    return Strip(name, 60, 0.25, [picture], overlap or [1.0, 0.5, None, 0.0], 41, 2)


def test_the_page_shows_every_tracker_sequence_and_published_number(tmp_path):
    clips = clips_of(4, tmp_path)
    page = page_of(clips, rivals=[("DiMP", clips, 6.0)], strips=[strip(clips[0].name)])
    text = " ".join(Outline(render_page(page)).texts)
    for words in ("LoRAT B-224", "DiMP", "never moving", clips[3].name, "LoRAT L-378, published"):
        assert words in text
    for words in ("71.7", "Illumination variation", "lost from frame 41", "absent", "2 pictures"):
        assert words in text


def test_numbers_on_the_page_are_the_scores(tmp_path):
    page = page_of(clips_of(3, tmp_path))
    scores = page.scored[0][0].scores
    rows = Outline(render_page(page)).rows
    ours, c = next(row for row in rows if row[0] == "LoRAT B-224"), scores.curves
    assert ours[1:6] == [f"{100 * value:.1f}" for value in (c.auc, c.op50, c.op75, c.precision_20, c.norm_precision_20)]
    for sequence in scores.sequences:
        row = next(row for row in rows if row[0] == sequence.name)
        assert row[1:3] == [str(sequence.frames), f"{100 * sequence.curves.auc:.1f}"]


def test_the_same_variants_published_row_is_marked_and_single_sources_too(tmp_path):
    page = render_page(page_of(clips_of(3, tmp_path), variant="B-378", label="LoRAT B-378"))
    marked = re.findall(r'<tr class="published same"><th scope="row">(.*?)</th>', page)
    assert marked == ["LoRAT B-378, published"]
    before, folded = page.partition("<details><summary><h3>Published numbers</h3></summary>")[::2]
    assert "OSTrack-384, published" not in before and "OSTrack-384, published" in folded.partition("</details>")[0]
    assert "<sup>1</sup>" in page and "one source only" in page


def test_published_numbers_of_other_sequences_or_another_convention_say_so(tmp_path):
    clips = clips_of(3, tmp_path)
    assert "over all 280 sequences" in render_page(page_of(clips))
    assert "MATLAB" not in render_page(page_of(clips))
    matlab = Outline(render_page(page_of(clips, convention="matlab")))
    assert any("not in the MATLAB toolkit's convention" in text for text in matlab.texts)


def test_trackingnets_published_numbers_stand_under_the_areas_they_are(tmp_path):
    page = page_of(clips_of(2, tmp_path, dataset="trackingnet", names=["a_0", "b_0"]))
    rows = Outline(render_page(page)).rows
    head, published = rows[0], next(row for row in rows if row[0] == "LoRAT B-224, published")
    areas = [head.index(name) for name in ("area S", "area P", "area Pn")]
    assert published[1:] == ["83.5", "82.1", "87.9"]  # cells without a number hold no text
    shown = re.search(r'published same">.*?</tr>', render_page(page))
    assert shown is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown.group())
    assert [k + 1 for k, cell in enumerate(cells) if cell] == areas


def test_a_flattered_pnorm_has_the_corrected_one_beside_it_and_a_footnote(tmp_path):
    page = page_of(clips_of(2, tmp_path, dataset="lasot_ext", names=["atv-1", "atv-2"]))
    text = render_page(page)
    assert text.count(">Pnorm*<") == 3, "in the scores, the published ones and by sequence"
    assert "Pnorm*: frames without the object count as misses" in text
    scores = page.scored[0][0].scores
    assert scores.norm_precision_corrected is not None
    assert f">{100 * scores.norm_precision_corrected:.1f}</td>" in text
    assert "Pnorm*" not in render_page(page_of(clips_of(2, tmp_path)))


def test_a_rival_that_lacks_sequences_says_so_and_is_not_compared_where_it_has_none(tmp_path):
    clips = clips_of(4, tmp_path)
    page = render_page(page_of(clips, rivals=[("DiMP", clips[:3], 6.0)]))
    rows = Outline(page).rows
    lacking = next(row for row in rows if row[0] == clips[3].name)
    assert lacking[3:5] == ["-", "-"]
    assert page.count("(3 of 4 sequences)") == 1


def test_names_from_outside_never_become_markup(tmp_path):
    clips = clips_of(2, tmp_path, names=[NASTY, "x</script><script>alert(1)</script>"])
    rivals = [(NASTY, clips, 5.0)]
    page = page_of(clips, rivals=rivals, label=NASTY, variant=NASTY, strips=[strip(NASTY)], remarks=[NASTY])
    text = render_page(page)
    outline = Outline(text)
    assert NASTY in outline.texts
    assert text.count("<script>") == 1 and "<b>a" not in text
    assert not [a for a in outline.attributes if a[1].startswith("on")]


def test_nothing_on_the_page_is_fetched(tmp_path):
    clips = clips_of(2, tmp_path)
    outline = Outline(render_page(page_of(clips, strips=[strip(clips[0].name)])))
    targets = [value for _, name, value in outline.attributes if name in ("src", "href", "action")]
    assert targets and all(value.startswith(("data:image/jpeg;base64,", "#")) for value in targets)
    assert ("meta", "http-equiv", "Content-Security-Policy") in outline.attributes


def test_the_same_input_gives_the_same_bytes_and_280_sequences_stay_small(tmp_path):
    names = [f"bear-{n}" for n in range(1, 281)]
    clips = clips_of(280, tmp_path, names=names)
    page = page_of(clips, rivals=[("DiMP", clips, 6.0), ("OSTrack", clips, 3.0)])
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    write_page(first, page)
    write_page(second, page)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 500_000


@pytest.mark.parametrize("points", [1, 2, 50])
def test_a_timeline_breaks_where_the_object_is_absent(points, tmp_path):
    overlap = np.linspace(1.0, 0.0, points).tolist()
    if points > 10:
        overlap[10:20] = [None] * 10
    clips = clips_of(1, tmp_path)
    drawn = render_page(page_of(clips, strips=[strip(clips[0].name, overlap)]))
    paths = dict(re.findall(r'<path class="(\w+)" d="(.*?)"/>', drawn))
    assert paths["curve"].count("M") == (2 if points > 10 else 1)
    assert paths["curve"].count("L") == points - (12 if points > 10 else 1)
    assert paths["absent"].count("z") == (10 if points > 10 else 0)
    assert paths["mark"].count("M") == 1
    assert re.fullmatch(r"[-MLhvz\d.,]*", "".join(paths.values()))
