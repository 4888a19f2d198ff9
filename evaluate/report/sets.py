"""A test set's part of the report page: its scores, curves, attributes, sequences and worst ones.

Every text from outside is escaped where it enters. Numbers are in per cent.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from lorat.evaluate.measure.ope import CENTRE_THRESHOLDS, NORM_THRESHOLDS, OVERLAP_THRESHOLDS
from lorat.evaluate.measure.scores import DatasetScores, SequenceScores
from lorat.evaluate.report.plots import Axis, Curve, curve_plot, timeline
from lorat.evaluate.report.published import published_rows
from lorat.evaluate.report.strips import Strip
from lorat.evaluate.report.tables import STILL, Scored
from lorat.prep.trees.base.official import expected_sequences

__all__ = ["render_set"]

_COLOURS = 6  # that the page's style has for trackers
_MANY_SEQUENCES = 60  # beyond this the table of sequences is folded


@dataclass(frozen=True, eq=False, slots=True)
class _Entry:
    """One tracker of a test set."""

    label: str
    scores: DatasetScores
    colour: int
    """-1 for the tracker that never moves."""


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    read: Callable[[DatasetScores], float | None]
    measure: str = ""
    """Its name among the published numbers."""
    decimals: int = 1


def render_set(
    item: Scored,
    label: str,
    variant: str,
    rivals: Sequence[tuple[str, DatasetScores]],
    strips: Sequence[Strip],
) -> str:
    """Return the section of a test set.

    Args:
        item: our scores, and those of the tracker that never moves.
        label: what our tracker is called.
        variant: of it.
        rivals: label and scores of other trackers on this set.
        strips: the worst sequences.
    """
    entries = [
        _Entry(label, item.tracker, 0),
        *(
            _Entry(name, scores, 1 + number % (_COLOURS - 1))
            for number, (name, scores) in enumerate(rivals)
        ),
        _Entry(STILL, item.still, -1),
    ]
    return "\n".join(
        [
            f'<section id="{escape(item.name)}">',
            f"<h2>{escape(item.name)} <small>{_meaning(item.tracker)}</small></h2>",
            _summary(item.name, variant, entries),
            _plots(entries),
            _attributes(entries),
            _sequences(item.name, entries),
            _worst(strips),
            "</section>",
        ]
    )


def _meaning(scores: DatasetScores) -> str:
    words = [f"{len(scores.sequences):,} sequences"]
    words.append(f"{sum(each.frames for each in scores.sequences):,} frames")
    if scores.runs > 1:
        words.append(f"mean of {scores.runs} runs")
    convention = "MATLAB toolkit's" if scores.convention == "matlab" else "published"
    return ", ".join([*words, f"{convention} convention"])


def _columns(entries: Sequence[_Entry]) -> list[_Column]:
    every = [entry.scores for entry in entries]
    # TrackingNet's published numbers are its server's, which gives areas.
    areas = every[0].dataset == "trackingnet"
    success, precision, norm = ("",) * 3 if areas else ("auc", "precision", "norm_precision")
    columns = [
        _Column("AUC", lambda s: _hundred(s.auc), success),
        _Column("OP50", lambda s: _hundred(s.op50)),
        _Column("OP75", lambda s: _hundred(s.op75)),
        _Column("P", lambda s: _hundred(s.precision), precision),
        _Column("Pnorm", lambda s: _hundred(s.norm_precision), norm),
    ]
    if any(scores.norm_precision_corrected is not None for scores in every):
        columns.append(_Column("Pnorm*", lambda s: _hundred(s.norm_precision_corrected)))
    if any(scores.got10k for scores in every):
        columns += [
            _Column("AO", lambda s: _hundred(s.got10k.ao if s.got10k else None), "ao"),
            _Column("SR0.5", lambda s: _hundred(s.got10k.sr50 if s.got10k else None), "sr50"),
            _Column("SR0.75", lambda s: _hundred(s.got10k.sr75 if s.got10k else None), "sr75"),
        ]
    if any(scores.trackingnet for scores in every):
        columns += [
            _Column(
                "area S",
                lambda s: _hundred(s.trackingnet.success if s.trackingnet else None),
                "auc",
            ),
            _Column(
                "area P",
                lambda s: _hundred(s.trackingnet.precision if s.trackingnet else None),
                "precision",
            ),
            _Column(
                "area Pn",
                lambda s: _hundred(s.trackingnet.norm_precision if s.trackingnet else None),
                "norm_precision",
            ),
        ]
    columns.append(_Column("fps", lambda s: s.fps))
    if any(scores.got10k and scores.got10k.speed for scores in every):
        columns.append(_Column("speed", lambda s: s.got10k.speed if s.got10k else None))
    return columns


def _summary(name: str, variant: str, entries: Sequence[_Entry]) -> str:
    columns = _columns(entries)
    most = max(len(entry.scores.sequences) for entry in entries)
    rows = []
    for entry in entries:
        few = len(entry.scores.sequences)
        part = f" <small>({few} of {most} sequences)</small>" if few < most else ""
        cells = "".join(_cell(column.read(entry.scores), column.decimals) for column in columns)
        kind = "ours" if entry.colour == 0 else "still" if entry.colour < 0 else ""
        rows.append(
            f'<tr class="{kind}"><th scope="row">{_swatch(entry.colour)}{escape(entry.label)}'
            f"{part}</th>{cells}</tr>"
        )
    published = _published(name, variant, columns)
    head = "".join(f'<th scope="col">{escape(column.heading)}</th>' for column in columns)
    notes = []
    if any(column.heading == "Pnorm*" for column in columns):
        notes.append("Pnorm*: frames without the object count as misses, not as hits.")
    if any(column.heading == "speed" for column in columns):
        notes.append("speed: the GOT-10k toolkit's mean of 1/t; fps: frames over seconds.")
    if any(column.heading == "area S" for column in columns):
        notes.append("area: under the curve, as TrackingNet's server gives it.")
    if published:
        notes += _published_notes(name, entries[0].scores)
    foot = f'<p class="note">{escape(" ".join(notes))}</p>' if notes else ""
    return (
        f'<div class="wide"><table class="scores"><thead><tr><th scope="col">tracker</th>{head}'
        f"</tr></thead><tbody>{''.join(rows)}{''.join(published)}</tbody></table></div>{foot}"
    )


def _published(name: str, variant: str, columns: Sequence[_Column]) -> list[str]:
    """Return the rows of published numbers."""
    rows = []
    for row in published_rows(name):
        cells = []
        for column in columns:
            number = row.numbers.get(column.measure)
            if number is None:
                cells.append("<td></td>")
                continue
            lone = "<sup>1</sup>" if len(number.sources) == 1 else ""
            sources = escape("; ".join(number.sources))
            cells.append(f'<td title="{sources}">{number.value:.1f}{lone}</td>')
        kind = "published same" if row.variant == variant else "published"
        rows.append(
            f'<tr class="{kind}"><th scope="row">LoRAT {escape(row.variant)}, published</th>'
            f"{''.join(cells)}</tr>"
        )
    return rows


def _published_notes(name: str, ours: DatasetScores) -> list[str]:
    """Say what published numbers are, and where they are of something else than ours."""
    numbers = [number for row in published_rows(name) for number in row.numbers.values()]
    sources = sorted({source for number in numbers for source in number.sources})
    notes = [f"published: as quoted in {', '.join(sources)}; each value's own on hovering."]
    official = expected_sequences(ours.dataset, ours.split)
    if official is not None and official != len(ours.sequences):
        notes.append(f"They are over all {official} sequences of the set.")
    if ours.convention == "matlab":
        notes.append("They are not in the MATLAB toolkit's convention, so they compare loosely.")
    if any(len(number.sources) == 1 for number in numbers):
        notes.append("¹ one source only.")
    return notes


def _plots(entries: Sequence[_Entry]) -> str:
    kinds = (
        (
            "Success",
            "AUC",
            Axis("overlap threshold", OVERLAP_THRESHOLDS, (0, 0.2, 0.4, 0.6, 0.8, 1)),
            lambda s: (s.success_curve, s.auc),
        ),
        (
            "Precision",
            "at 20 px",
            Axis("centre error, pixels", CENTRE_THRESHOLDS, (0, 10, 20, 30, 40, 50), 20.0),
            lambda s: (s.precision_curve, s.precision),
        ),
        (
            "Normalised precision",
            "at 0.20",
            Axis("centre error, object sides", NORM_THRESHOLDS, (0, 0.1, 0.2, 0.3, 0.4, 0.5), 0.2),
            lambda s: (s.norm_precision_curve, s.norm_precision),
        ),
    )
    figures = []
    for title, value, axis, read in kinds:
        curves = [Curve(entry.label, entry.colour, read(entry.scores)[0]) for entry in entries]
        ranked = sorted(entries, key=lambda entry: -read(entry.scores)[1])
        legend = "".join(
            f"<li>{_swatch(entry.colour)}{escape(entry.label)} "
            f"<b>{100 * read(entry.scores)[1]:.1f}</b></li>"
            for entry in ranked
        )
        figures.append(
            f"<figure><figcaption>{title} <small>{value}</small></figcaption>"
            f"{curve_plot(curves[::-1], axis, f'{title} curves')}"
            f'<ul class="legend">{legend}</ul></figure>'
        )
    return f'<div class="plots">{"".join(figures)}</div>'


def _attributes(entries: Sequence[_Entry]) -> str:
    ours = entries[0].scores.attributes
    if not ours:
        return ""
    rivals = entries[1:-1]
    by_code = [{each.code: each.auc for each in rival.scores.attributes} for rival in rivals]
    rows = []
    for attribute in ours:
        bars = _bar(entries[0], attribute.auc)
        for rival, known in zip(rivals, by_code, strict=True):
            if attribute.code in known:
                bars += _bar(rival, known[attribute.code])
        rows.append(
            f'<tr><th scope="row">{escape(attribute.title)} <small>{escape(attribute.code)}'
            f"</small></th>{_cell(attribute.sequences, 0)}{_cell(100 * attribute.auc)}"
            f"{_cell(100 * attribute.precision)}{_cell(100 * attribute.norm_precision)}"
            f'<td class="bars">{bars}</td></tr>'
        )
    names = ("attribute", "sequences", "AUC", "P", "Pnorm")
    head = _sort_heads(names) + '<th scope="col" class="bars">AUC</th>'
    return (
        '<h3>By attribute</h3><div class="wide"><table class="sortable"><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _bar(entry: _Entry, value: float) -> str:
    said = escape(f"{entry.label} {100 * value:.1f}")
    return f'<i class="bar c{entry.colour}" style="width:{100 * value:.1f}%" title="{said}"></i>'


def _sequences(name: str, entries: Sequence[_Entry]) -> str:
    ours, rivals, still = entries[0].scores, entries[1:-1], entries[-1].scores
    others = [{each.name: each for each in rival.scores.sequences} for rival in rivals]
    still_by_name = {each.name: each for each in still.sequences}
    corrected = any(each.norm_precision_corrected is not None for each in ours.sequences)
    names = ["sequence", "frames", "AUC", *(rival.label for rival in rivals)]
    names += ["± best other"] if rivals else []
    names += [STILL, "P", "Pnorm", *(["Pnorm*"] if corrected else []), "fps"]
    rows = "".join(
        _sequence_row(each, others, still_by_name[each.name], corrected) for each in ours.sequences
    )
    folded = "" if len(ours.sequences) > _MANY_SEQUENCES else " open"
    return (
        f'<details{folded}><summary><h3>By sequence</h3></summary><div class="wide">'
        f'<table class="sortable filtered" data-name="{escape(name)}"><thead><tr>'
        f"{_sort_heads(names)}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _sequence_row(
    ours: SequenceScores,
    others: Sequence[dict[str, SequenceScores]],
    still: SequenceScores,
    corrected: bool,
) -> str:
    theirs = [_hundred(known[ours.name].auc) if ours.name in known else None for known in others]
    best = max((value for value in theirs if value is not None), default=None)
    cells = [_cell(ours.frames, 0), _cell(100 * ours.auc), *(_cell(value) for value in theirs)]
    if others:
        gap = None if best is None else 100 * ours.auc - best
        sign = "" if gap is None else "up" if gap > 0 else "down"
        cells.append(_cell(gap, 1, sign, signed=True))
    cells += [_cell(100 * still.auc), _cell(100 * ours.precision)]
    cells.append(_cell(100 * ours.norm_precision))
    if corrected:
        shown = ours.norm_precision_corrected
        cells.append(_cell(100 * (ours.norm_precision if shown is None else shown)))
    cells.append(_cell(ours.fps))
    return f'<tr><th scope="row">{escape(ours.name)}</th>{"".join(cells)}</tr>'


def _sort_heads(names: Sequence[str]) -> str:
    return "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)


def _worst(strips: Sequence[Strip]) -> str:
    if not strips:
        return ""
    return (
        '<h3>Worst sequences</h3><p class="note"><i class="key predicted"></i> predicted '
        '<i class="key true"></i> true; below the pictures the overlap over the sequence, shaded '
        "where the object is absent, with a tick at each picture.</p>"
    ) + "".join(map(_strip, strips))


def _strip(strip: Strip) -> str:
    said = [f"{strip.frames:,} frames", f"AUC {100 * strip.auc:.1f}"]
    if strip.lost is not None:
        said.append(f"lost from frame {strip.lost:,}")
    if strip.undecoded:
        said.append(f"{strip.undecoded} pictures left out, their frames do not decode")
    figures = "".join(
        f'<figure><img width="{each.size[0]}" height="{each.size[1]}" loading="lazy" '
        f'alt="{escape(strip.name)}, frame {each.number}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(each.jpeg).decode("ascii")}">'
        f"<figcaption>{each.number:,} <small>"
        f"{'absent' if each.overlap is None else f'{100 * each.overlap:.0f} %'}</small>"
        "</figcaption></figure>"
        for each in strip.pictures
    )
    line = timeline(strip.overlap, strip.frames, [each.number for each in strip.pictures])
    return (
        f'<article class="strip"><h4>{escape(strip.name)} <small>{escape(", ".join(said))}</small>'
        f'</h4><div class="frames">{figures}</div>{line}</article>'
    )


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _cell(value: float | None, decimals: int = 1, kind: str = "", *, signed: bool = False) -> str:
    if value is None or not np.isfinite(value):
        return "<td>-</td>"
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    mark = f' class="{kind}"' if kind else ""
    return f'<td{mark} data-v="{value:.6g}">{text}</td>'


def _swatch(colour: int) -> str:
    return f'<i class="swatch {"still" if colour < 0 else f"c{colour}"}"></i>'
