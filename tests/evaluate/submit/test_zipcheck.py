"""The judge of submission zips: whole ones pass, and each defect is found as what it is."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorat.evaluate.results.files import SequenceResult
from lorat.evaluate.submit.check import judge_zip
from lorat.evaluate.submit.pack import pack_zip
from lorat.evaluate.submit.servers import ERRORS, SERVERS, WARNINGS
from lorat.shards.base.errors import UserError
from tests.evaluate.zip_files import (
    BOXES,
    GOT10K,
    OTHER,
    TIMES,
    TRACKINGNET,
    got10k_files,
    trackingnet_files,
    tree_of,
    zipped,
)

GOLDEN = Path(__file__).parents[2] / "golden"
NAME, LAST = GOT10K[6], GOT10K[-1]
RUN, TIME = f"{NAME}/{NAME}_001.txt", f"{NAME}/{NAME}_time.txt"
TN = TRACKINGNET[6]


def judge(files, server=None, clips=()):
    return judge_zip(zipped(files), "t.zip", server, clips=clips)


def found(judgement):
    """Kind → the places of its findings."""
    kinds = {kind: [f.where for f in judgement.findings if f.kind == kind] for kind in ERRORS | WARNINGS}
    return {kind: places for kind, places in kinds.items() if places}


@pytest.mark.parametrize("top", ["", "MyTracker/"])
@pytest.mark.parametrize("runs", [1, 2, 3])
def test_both_trees_of_got10k_pass(top, runs):
    judgement = judge(got10k_files(top, runs))
    assert (judgement.server.name, judgement.sequences, judgement.findings) == ("got10k", 180, ())
    assert judgement.verdict().startswith("fit to submit, if each")
    judgement = judge(got10k_files(top, runs), clips=tree_of(dict.fromkeys(GOT10K, 2)))
    assert judgement.verdict() == "fit to submit"
    assert judgement.unchecked == 0


def test_flat_trackingnet_passes_and_folders_are_noted():
    judgement = judge(trackingnet_files())
    assert (judgement.server.name, judgement.sequences) == ("trackingnet", 511)
    assert judgement.findings == ()
    judgement = judge({f"T/{n[:-4]}/{n}": data for n, data in trackingnet_files().items()})
    assert list(found(judgement)) == ["place"] and len(judgement.findings) == 511
    assert not judgement.errors and judgement.verdict().startswith("fit to submit")


def test_entries_for_folders_and_stored_files_are_as_good():
    folders = {f"{name}/": None for name in GOT10K}
    files = zipped(folders | got10k_files(), zipfile.ZIP_STORED)
    assert judge_zip(files, "t.zip").findings == ()


@pytest.mark.parametrize(
    ("file", "server", "sequences", "missing", "summary", "verdict"),
    [
        (
            "g9_GOT10k-test.zip",
            "got10k",
            3,
            177,
            "6 files inside the folder MyTracker, 3 of 180",
            "; what is there is sound",
        ),
        ("g9_TrackingNet-test.zip", "trackingnet", 0, 511, "3 files in folders, 0 of 511", ""),
    ],
)
def test_small_sets_of_the_published_writer_lack_only_the_others(file, server, sequences, missing, summary, verdict):
    with (GOLDEN / file).open("rb") as opened:
        judgement = judge_zip(opened, file)
        assert (judgement.server.name, judgement.sequences) == (server, sequences)
        assert len(found(judgement)["missing"]) == missing
        assert found(judgement).get("unexpected", []) == ([] if sequences else ["seqA_0", "seqB_1", "seqC_2"])
        assert found(judgement).keys() <= {"missing", "unexpected"} and summary in judgement.summary
        assert judgement.verdict() == f"not fit to submit{verdict}"
        names = [name for name in zipfile.ZipFile(opened).namelist() if "_time" not in name]
        again = judge_zip(opened, file, expected={name.split("/")[1] for name in names})
    assert not again.errors and found(again).keys() <= {"place"}


def set_lines(*lines, end="\n"):
    return "".join(line + end for line in lines).encode()


GOOD = ("10,20,30,40", "11,20,30,40")

TEXTS = [
    ("rows", b"", "no line"),
    ("rows", b"\n\n", "no line"),
    ("lines", set_lines("10 20 30 40", "11 20 30 40"), "line 1: '10 20 30 40' and 1 more"),
    ("lines", set_lines("10\t20\t30\t40", "11\t20\t30\t40"), r"'10\t20\t30\t40'"),
    ("lines", set_lines("10;20;30;40", "11;20;30;40"), "line 1"),
    ("lines", set_lines(GOOD[0], "11 20 30 40"), "line 2"),
    ("lines", set_lines("x,y,w,h", *GOOD), "line 1: 'x,y,w,h'"),
    ("lines", set_lines("10,20,30", "11,20,30"), "3 columns instead of 4"),
    ("lines", set_lines("10,5,20,5,30,5,40,5", "11,5,20,5,30,5,40,5"), "8 columns"),
    ("lines", set_lines(GOOD[0], "11,20,30"), "line 2: '11,20,30'"),
    ("lines", set_lines(GOOD[0], "11,20,,40"), "line 2: '11,20,,40'"),
    ("lines", set_lines(GOOD[0], "11,20,3-0,40"), "line 2"),
    ("lines", set_lines(GOOD[0], "11,20,a,40"), "line 2"),
    ("lines", b"\xff\xfe1\x000\x00", "no plain text"),
    ("form", set_lines(GOOD[0], "1.1e+01,20,30,40"), "line 2"),
    ("form", set_lines("10, 20, 30, 40", GOOD[1]), "line 1"),
    ("form", set_lines("+10,20,30,40", GOOD[1]), "line 1"),
    ("form", set_lines(" 10.00,20.00,30.00,40.00", GOOD[1]), "line 1"),
    ("form", set_lines(*GOOD, end="\r"), "2 carriage returns"),
    ("form", set_lines(*GOOD, end="\r\n"), "2 carriage returns"),
    ("blank lines", set_lines(*GOOD, ""), "1 line"),
    ("boxes", set_lines(GOOD[0], "11,nan,30,40"), "row 2: 11,nan,30,40"),
    ("boxes", set_lines(GOOD[0], "inf,20,30,40"), "row 2"),
    ("boxes", set_lines(GOOD[0], "11,20,0.00,40"), "row 2"),
    ("boxes", set_lines(GOOD[0], "11,20,30,-4"), "row 2"),
    ("boxes", set_lines("0,0,0,0", "0,0,0,0"), "row 1: 0,0,0,0 and 1 more"),
    ("boxes", set_lines(GOOD[0], "100000,20,30,40"), "row 2"),
    ("outside", set_lines(GOOD[0], "-40,20,30,40"), "row 2"),
    ("outside", set_lines(GOOD[0], "11,-50,30,40"), "row 2"),
]


@pytest.mark.parametrize(("kind", "text", "detail"), TEXTS)
def test_a_text_the_server_cannot_take_is_found_and_nothing_else(kind, text, detail):
    for server, files, where in (("got10k", got10k_files(), RUN), ("trackingnet", trackingnet_files(), f"{TN}.txt")):
        judgement = judge(files | {where: text})
        assert judgement.server.name == server
        assert found(judgement) == {kind: [where]}
        assert detail in judgement.findings[0].what
        assert judgement.verdict().startswith("not") == (kind in ERRORS)


@pytest.mark.parametrize(
    ("text", "kind", "detail"),
    [
        (b"\xef\xbb\xbf" + set_lines(*GOOD), "form", "byte order mark"),
        (set_lines(GOOD[0], "   ", GOOD[1]), "blank lines", "1 line"),
    ],
)
def test_what_pandas_reads_and_numpy_does_not_is_an_error_for_got10k_alone(text, kind, detail):
    judgement = judge(trackingnet_files() | {f"{TN}.txt": text})
    assert found(judgement) == {kind: [f"{TN}.txt"]} and not judgement.errors
    assert detail in judgement.findings[0].what
    judgement = judge(got10k_files() | {RUN: text})
    assert found(judgement) == {"lines": [RUN]}


def test_a_whole_zip_with_windows_line_ends_and_padded_numbers_is_fit():
    for files in (got10k_files(), trackingnet_files()):
        padded = {name: b" " + data.replace(b"\n", b"\r\n") for name, data in files.items()}
        judgement = judge(padded)
        assert not judgement.errors and judgement.verdict().startswith("fit to submit")
        boxes = [name for name in files if "_time" not in name]
        assert set(found(judgement)["form"]) == set(boxes)


@pytest.mark.parametrize("runs", [0, 1, 2])
@pytest.mark.parametrize("top", ["", "Ocean/", "a/b/"])
def test_a_flat_got10k_zip_has_one_finding_that_says_what_the_server_wants(top, runs):
    whole = got10k_files(runs=runs) if runs else {f"{name}/{name}.txt": BOXES for name in GOT10K}
    flat = {f"{top}{name.rpartition('/')[2]}": data for name, data in whole.items()}
    judgement = judge(flat)
    (finding,) = judgement.findings
    assert finding.kind == "layout" and finding.where == next(iter(flat))
    wanted = f"{GOT10K[0]}/{GOT10K[0]}_001.txt"
    assert finding.what == f"flat; the server wants {wanted}, and all {len(flat)} files so"
    where = f"inside the folder {top[:-1]}" if top else "at the root"
    assert judgement.summary == f"GOT-10k test, {len(flat)} files flat {where}, 180 of 180 sequences"
    assert judge(flat | {next(iter(flat)): b"10 20 30 40\n"}).errors[1].kind == "lines"  # the rows are judged too


def without(files, *names):
    return {name: data for name, data in files.items() if name not in names}


def renamed(files, old, new):
    return {new if name == old else name: data for name, data in files.items()}


def got10k_defects():
    one, two, three = got10k_files(), got10k_files(runs=2), got10k_files(runs=3)
    second, third = RUN.replace("_001", "_002"), RUN.replace("_001", "_003")
    inner = got10k_files("a/b/")
    return {
        "missing": (without(one, RUN, TIME), {"missing": [NAME]}),
        "only times": (without(one, RUN), {"missing": [NAME]}),
        "unexpected sequence": (
            one
            | {"GOT-10k_Test_000181/GOT-10k_Test_000181_001.txt": BOXES}
            | {"GOT-10k_Test_000181/GOT-10k_Test_000181_time.txt": TIMES},
            {"unexpected": ["GOT-10k_Test_000181"]},
        ),
        "unexpected file": (one | {"readme.md": b"x"}, {"unexpected": ["readme.md"]}),
        "unexpected run": (one | {RUN.replace("_001", "_000"): BOXES}, {"unexpected": [RUN.replace("_001", "_000")]}),
        "fewer runs": (without(three, third), {"runs": [NAME]}),
        "more runs": (one | {second: OTHER}, {"runs": [NAME]}),
        "a gap": (without(three, second), {"runs": [NAME]}),
        "a run of other length": (two | {second: OTHER[:32]}, {"rows": [second]}),
        "four runs": (
            {**three, **{n.replace("_003", "_004"): OTHER for n in three if "_003" in n}},
            {"runs": list(GOT10K)},
        ),
        "flat": (renamed(one, RUN, RUN.split("/")[1]), {"layout": [RUN.split("/")[1]]}),
        "other folder": (renamed(one, RUN, f"{LAST}/{NAME}_001.txt"), {"layout": [f"{LAST}/{NAME}_001.txt"]}),
        "two trees": (renamed(one, RUN, f"T/{RUN}"), {"layout": [f"T/{RUN}"]}),
        "deep": (inner, {"layout": list(inner)[:1]}),
        "runs without numbers": (
            {f"{name}/{name}.txt": BOXES for name in GOT10K},
            {"layout": [f"{GOT10K[0]}/{GOT10K[0]}.txt"]},
        ),
        "one flat": (renamed(one, RUN, f"{NAME}.txt"), {"layout": [f"{NAME}.txt"]}),
        "both trees": (one | {f"T/{RUN}": BOXES}, {"layout": [f"T/{RUN}"], "matched twice": [NAME]}),
        "twice": ([*one.items(), (RUN, BOXES)], {"matched twice": [NAME]}),
        "litter": (
            one | {f"__MACOSX/{NAME}/._{NAME}_001.txt": b"\0\5"},
            {"unexpected": [f"__MACOSX/{NAME}/._{NAME}_001.txt"]},
        ),
        "leaves": (one | {"../x": b""}, {"path": ["../x"], "unexpected": ["../x"]}),
        "no times": (without(one, TIME), {"times": [NAME]}),
        "short times": (one | {TIME: TIMES[:11]}, {"times": [TIME]}),
        "zero times": (one | {TIME: b"0.01\n0.00\n"}, {"times": [TIME]}),
        "NaN times": (one | {TIME: b"0.01\nnan\n"}, {"times": [TIME]}),
        "columns of times": (one | {TIME: b"1,2,3\n1,2,3\n"}, {"times": [TIME]}),
        "spaced times": (three | {TIME: b"1 2 3\n1 2 3\n"}, {"time format": [TIME]}),
        "same runs": (
            {name: BOXES if "time" not in name else data for name, data in three.items()},
            {"identical": list(GOT10K)},
        ),
    }


@pytest.mark.parametrize("defect", got10k_defects())
def test_a_defect_of_a_got10k_zip_is_found_and_nothing_else(defect):
    files, expected = got10k_defects()[defect]
    judgement = judge(files, "got10k")
    assert found(judgement) == expected
    error = any(kind in ERRORS for kind in expected)
    assert judgement.verdict().startswith("not fit" if error else "fit")


def trackingnet_defects():
    flat, name = trackingnet_files(), f"{TN}.txt"
    return {
        "missing": (without(flat, name), {"missing": [TN]}),
        "unexpected": (flat | {"x_0.txt": BOXES}, {"unexpected": ["x_0"]}),
        "unexpected file": (flat | {"a.csv": b""}, {"passed over": ["a.csv"]}),
        "both layouts": (flat | {f"T/{TN}/{name}": BOXES}, {"matched twice": [TN], "place": [f"T/{TN}/{name}"]}),
        "second copy": (flat | {f"copy of {name}": BOXES}, {"matched twice": [TN], "place": [f"copy of {name}"]}),
        "twice": ([*flat.items(), (name, BOXES)], {"matched twice": [TN]}),
        "longer name": (renamed(flat, name, f"a_{name}"), {"place": [f"a_{name}"]}),
        "times": (flat | {f"{TN}_time.txt": TIMES}, {"passed over": [f"{TN}_time.txt"]}),
        "litter": (flat | {f"__MACOSX/._{name}": b""}, {"passed over": [f"__MACOSX/._{name}"]}),
        "case": (renamed(flat, name, name.swapcase()[:-3] + "txt"), {"missing": [TN], "unexpected": [TN.swapcase()]}),
        "letters": (flat | {"über.txt": BOXES}, {"path": ["über.txt"], "unexpected": ["über"]}),
    }


@pytest.mark.parametrize("defect", trackingnet_defects())
def test_a_defect_of_a_trackingnet_zip_is_found_and_nothing_else(defect):
    files, expected = trackingnet_defects()[defect]
    assert found(judge(files, "trackingnet")) == expected


def test_name_in_other_case_is_told_how_it_is_written():
    (finding,) = (f for f in judge(trackingnet_defects()["case"][0]).findings if f.kind == "unexpected")
    assert finding.what == f"written {TN}"


FIRST = np.array([10.0, 20.0, 30.0, 40.0])
FRAMES = dict.fromkeys(GOT10K, 2)


@pytest.mark.parametrize(
    ("given_box", "kind"),
    [
        ([10, 20, 30, 40], None),
        ([10.004, 20, 30, 40], None),
        ([10.4, 20.7, 29.2, 38.9], None),  # rasterised: 10, 20 to 40, 60
        ([9, 19, 30, 40], "one pixel off"),
        ([11, 21, 30, 40], "one pixel off"),
        ([9.5, 19.3, 30, 40], None),
        ([9, 21, 30, 40], None),
        ([10, 23, 30, 40], "first box"),
        ([10, 20, 33, 40], "first box"),
    ],
)
def test_first_boxes_are_compared_with_the_given_ones(given_box, kind):
    firsts = dict.fromkeys(GOT10K, FIRST) | {NAME: np.array(given_box, float)}
    judgement = judge(got10k_files(), clips=tree_of(FRAMES, firsts))
    assert found(judgement) == ({kind: [RUN]} if kind else {})


def test_rows_are_compared_with_frames_where_they_are_known():
    judgement = judge(got10k_files(), clips=tree_of(FRAMES | {NAME: 3}))
    assert found(judgement) == {"rows": [RUN], "times": [TIME]}
    assert judgement.findings[0].what == "2 rows for 3 frames"
    judgement = judge(got10k_files(), clips=tree_of(without(FRAMES, NAME)))
    assert judgement.findings == () and judgement.unchecked == 1
    tree = tree_of(dict.fromkeys(TRACKINGNET, 2) | {TN: 1})
    judgement = judge(trackingnet_files(), "trackingnet", tree)
    assert found(judgement) == {"rows": [f"{TN}.txt"]}


def test_boxes_right_of_and_below_the_image_are_found_where_its_size_is_known():
    files = got10k_files() | {RUN: set_lines(GOOD[0], "640,20,30,40", "11,360,30,40")}
    files[TIME] = TIMES + b"0.1\n"
    assert judge(files).findings == ()
    judgement = judge(files, clips=tree_of(FRAMES | {NAME: 3}, size=(640, 360)))
    assert found(judgement) == {"outside": [RUN]}
    assert judgement.findings[0].what == "row 2: 640,20,30,40 and 1 more"


def test_backslashes_are_called_what_they_are():
    files = {name.replace("/", "\\"): data for name, data in got10k_files().items()}
    judgement = judge(files)
    assert len(found(judgement)["path"]) == 360
    assert judgement.verdict().startswith("not fit to submit")


def test_an_entry_whose_name_ends_before_it_begins_is_no_path():
    data = zipped(trackingnet_files() | {"?name": b""}).getvalue().replace(b"?name", b"\0name")
    judgement = judge_zip(io.BytesIO(data), "t.zip")
    assert found(judgement) == {"path": ["\0name"], "passed over": [""]}


def test_encrypted_damaged_and_strangely_packed_entries_are_named():
    data = bytearray(zipped(got10k_files(), zipfile.ZIP_STORED).getvalue())
    infos = zipfile.ZipFile(io.BytesIO(data)).infolist()
    at = {info.filename: info.header_offset for info in infos}
    data[at[RUN] + 30 + len(RUN) + 3] ^= 1  # a digit of the text, which its checksum tells
    directory = data.index(b"PK\1\2")
    for number, (offset, value) in {20: (8, 1), 30: (10, 98)}.items():
        entry = directory + sum(46 + len(info.filename) for info in infos[:number])
        data[entry + offset] = value  # flags: encrypted; method: PPMd
    judgement = judge_zip(io.BytesIO(data), "t.zip")
    reasons = {f.where: f.what for f in judgement.findings if f.kind == "unreadable"}
    assert "encrypted" in reasons[infos[20].filename]
    assert "compression method" in reasons[infos[30].filename]
    assert "Bad CRC-32" in reasons[RUN]
    assert len(reasons) == len(judgement.findings) == 3


def test_bombs_are_refused_before_an_entry_is_read(monkeypatch):
    large = zipped({RUN: b"1,2,3,4\n" * (2 << 20) + b"1,2,3,4\n"})
    data = bytearray(zipped({f"{n}.txt": b"1" for n in range(70)}).getvalue())
    many = zipped(((f"{n}", b"") for n in range(20_001)), zipfile.ZIP_STORED)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("an entry was read"))
    with pytest.raises(UserError, match=r"t\.zip: 1 entries .* the largest to 16 MiB; not read"):
        judge_zip(large, "t.zip")
    at = data.index(b"PK\1\2")
    for _ in range(70):  # each declares just under the limit of an entry
        data[at + 24 : at + 28] = (16 << 20).to_bytes(4, "little")
        at = data.find(b"PK\1\2", at + 1)
    with pytest.raises(UserError, match="unpack to 1,120 MiB"):
        judge_zip(io.BytesIO(data), "t.zip")
    with pytest.raises(UserError, match="20,001 entries"):
        judge_zip(many, "t.zip")
    with pytest.raises(UserError, match="64 MiB, where a submission"):
        judge_zip(io.BytesIO(bytes((64 << 20) + 1)), "t.zip")


def test_what_is_no_zip_or_shows_no_layout_is_refused():
    for data in (b"", b"hello", zipped(got10k_files()).getvalue()[:-40]):
        with pytest.raises(UserError, match=r"t\.zip: not a zip"):
            judge_zip(io.BytesIO(data), "t.zip")
    listed = {f"{n}.csv": b"" for n in TRACKINGNET}
    for files, told in (
        ({}, "holds no file, neither .*; say with --server"),
        ({"a/b.txt": BOXES, "c": b""}, r"holds 1 \.txt \(such as a/b\.txt\), 1 without ending .*; say with --server"),
        (listed, rf"holds 511 \.csv \(such as {TRACKINGNET[0]}\.csv\), .*end in \.txt"),
        ({f"{TN}.TXT": BOXES}, r"holds 1 \.TXT .*end in \.txt"),
        ({"sub/inner.zip": b""}, r"holds 1 \.zip \(such as sub/inner\.zip\), .*; check the zip that is inside"),
    ):
        with pytest.raises(UserError, match=told):
            judge(files)


WHOLE = zipped({RUN: BOXES, TIME: TIMES, "../\u202ex": OTHER}).getvalue()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), max_size=6))
def test_no_damage_to_the_bytes_of_a_zip_escapes_as_anything_but_a_finding(changes):
    data = bytearray(WHOLE)
    for at, value in changes.items():
        data[at] = value
    try:
        judgement = judge_zip(io.BytesIO(data), "t.zip", "got10k")
    except UserError as error:
        assert error.message.isprintable()
    else:
        assert all(str(finding).isprintable() for finding in judgement.findings)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text("0123456789.,- \n\re+naif;\tx", max_size=80)))
def test_no_text_escapes_as_anything_but_a_finding(text):
    data = text.encode() if isinstance(text, str) else text
    names = ("a",)
    judgement = judge_zip(zipped({"a.txt": data}), "t.zip", "trackingnet", names)
    assert judgement.sequences == 1
    assert all(str(finding).isprintable() for finding in judgement.findings)


box = st.tuples(st.floats(-900, 3000), st.floats(-900, 3000), st.floats(0, 900), st.floats(0, 900))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.integers(1, 3),
    rows=st.lists(box, min_size=1, max_size=5),
    time=st.sampled_from([0.01, 1e-7, 1e-12, np.nan]),
)
def test_what_the_packer_writes_is_judged_without_an_error(tmp_path, runs, rows, time):
    boxes, n = np.array(rows), len(rows)
    names = ("a_1", "b_2")
    results = {k: SequenceResult(k, boxes, np.zeros(n), np.full(n, time)) for k in names}
    tree = tree_of(dict.fromkeys(names, n), dict.fromkeys(names, boxes[0]), (640, 360))
    for server in SERVERS:
        packed = pack_zip(server, [results] * runs, tree, tmp_path / "t.zip", overwrite=True)
        with packed.path.open("rb") as file:
            judgement = judge_zip(file, "t.zip", expected=names, clips=tree)
        assert judgement.errors == () and judgement.sequences == 2
