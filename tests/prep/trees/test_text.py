import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat.prep.trees.base.text import BadLine, parse_table, read_boxes, read_flags, read_names
from lorat.shards.base.errors import UserError


@pytest.fixture
def boxes_of(tmp_path):
    def read(text, columns=(4,)):
        (tmp_path / "groundtruth.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_boxes(tmp_path / "groundtruth.txt", columns)

    return read


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3,4\n5,6,7,8\n",
        "1,2,3,4\r\n5,6,7,8\r\n",
        "1\t2\t3\t4\n5\t6\t7\t8",
        "1 2   3 4\n 5 6 7 8 \n\n  \n",
        "1, 2, 3, 4\n5 ,6 ,7 ,8\n\r\n",
        "1,2,3,4,\n5,6,7,8,\n",
        "\ufeff1.0,2e0,+3,4\n5,6,7,8\n",
        "1,2 3\t4\n5,6,7,8\n",
        "1,2,3,4\r5,6,7,8\r",
    ],
)
def test_every_separator_and_line_end_gives_the_same_boxes(boxes_of, text):
    np.testing.assert_array_equal(boxes_of(text), [[1, 2, 3, 4], [5, 6, 7, 8]])


def test_nan_and_inf_are_kept_and_a_single_row_has_two_dimensions(boxes_of):
    assert boxes_of("10.5,2,3,4").shape == (1, 4)
    np.testing.assert_array_equal(boxes_of("NaN,NaN,NaN,NaN\n1,2,inf,-4\n"), [[np.nan] * 4, [1, 2, np.inf, -4]])


@pytest.mark.parametrize(
    ("bad", "content"),
    [
        ("1,2,3", "'1,2,3'"),
        ("1,2,3,4,5", "'1,2,3,4,5'"),
        ("1,2,three,4", "'1,2,three,4'"),
        ("1,2,,4", "'1,2,,4'"),
        ("1,2,,3,4", "'1,2,,3,4'"),
        (",1,2,3,4", "',1,2,3,4'"),
        ("1,2,3,4,,", "'1,2,3,4,,'"),
        ("1_0,2,3,4", "'1_0,2,3,4'"),
        ("", "''"),
        ("# 1,2,3,4", "'# 1,2,3,4'"),
    ],
)
def test_a_line_that_does_not_parse_names_file_line_content_and_remedy(boxes_of, bad, content):
    with pytest.raises(UserError) as error:
        boxes_of(f"1,2,3,4\n{bad}\n5,6,7,8\n")
    message = str(error.value)
    assert "groundtruth.txt: line 2:" in message
    assert f"found {content};" in message
    assert "restore the file" in message


@pytest.mark.parametrize("text", [b"1,2,3,\xff\xfe4\n", "7," * 5000])
def test_bytes_that_are_no_text_are_an_error_of_their_line_and_a_long_line_is_shortened(boxes_of, text):
    with pytest.raises(UserError, match="line 1") as error:
        boxes_of(text)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("text", ["", "\n\r\n  \n"])
def test_an_empty_file_is_an_error(boxes_of, text):
    with pytest.raises(UserError, match="holds no numbers"):
        boxes_of(text)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match=r"groundtruth\.txt: cannot be read \(No such file"):
        read_boxes(tmp_path / "groundtruth.txt")


def test_rows_of_different_widths_are_an_error_even_if_both_are_allowed(boxes_of):
    with pytest.raises(UserError, match="line 2: expected 8 numbers"):
        boxes_of("1,2,3,4,5,6,7,8\n1,2,3,4\n", (4, 8))


def test_a_table_has_the_columns_of_its_first_row_and_its_lines_are_counted():
    np.testing.assert_array_equal(parse_table("1,2\n3 4\n", "times.txt"), [[1, 2], [3, 4]])
    for text, number, line in (("1,2\n3\n", 2, "3"), ("1\n\n2\n", 2, ""), ("1\n2\n\n", 3, "")):
        with pytest.raises(BadLine, match=rf"times\.txt of cat: line {number}: .*; mend it$") as e:
            parse_table(text, "times.txt of cat", remedy="mend it")
        assert (e.value.number, e.value.line) == (number, line)


@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6, width=64), min_size=4, max_size=4), min_size=1, max_size=20),
    separator=st.sampled_from([",", "\t", " ", ", ", "  "]),
    end=st.sampled_from(["\n", "\r\n"]),
    tail=st.sampled_from(["", "\n", "\n\n"]),
)
def test_any_table_comes_back_exactly(tmp_path_factory, rows, separator, end, tail):
    path = tmp_path_factory.mktemp("t") / "groundtruth.txt"
    text = end.join(separator.join(repr(v) for v in row) for row in rows) + tail
    path.write_bytes(text.encode())
    np.testing.assert_array_equal(read_boxes(path), rows)


@pytest.mark.parametrize("text", ["0,1,0\n", "0\n1\n0\n\n", "0 1 0", "0\r\n1\r\n0\r\n", "0,1,0,"])
def test_flags_may_stand_on_one_line_or_many(tmp_path, text):
    (tmp_path / "flags.txt").write_bytes(text.encode())
    flags = read_flags(tmp_path / "flags.txt", 3)
    assert flags.dtype == np.int64
    assert flags.tolist() == [0, 1, 0]
    (tmp_path / "flags.txt").write_bytes(text.replace("1", "8").encode())
    assert read_flags(tmp_path / "flags.txt", 3, highest=8).tolist() == [0, 8, 0]


@pytest.mark.parametrize(("text", "line", "found"), [("0\n2\n", 2, "2"), ("0,x", 1, "x"), ("0,,1", 1, "0,,1")])
def test_a_flag_that_does_not_parse_names_file_line_and_content(tmp_path, text, line, found):
    (tmp_path / "flags.txt").write_text(text)
    with pytest.raises(UserError, match=rf"flags\.txt: line {line}: .*found '{found}'"):
        read_flags(tmp_path / "flags.txt", 2)
    (tmp_path / "flags.txt").write_text("0,0,0")
    with pytest.raises(UserError, match=r"flags\.txt: 3 values for 4 boxes"):
        read_flags(tmp_path / "flags.txt", 4)


def test_name_lists_lose_blank_lines_and_repetitions_but_keep_order(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"b\r\n\r\na b\r\nb\r\n")
    assert read_names(tmp_path / "list.txt") == ("b", "a b")
