"""Members go through tar unchanged, and a header that is not as written is refused."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorat.shards.base.errors import ShardCorrupt
from lorat.shards.tar import BLOCK, END_OF_ARCHIVE, pack_members, unpack_members
from tests.shards.conftest import flipped

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100)


@given(st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=4))
def test_members_come_back_and_are_what_tarfile_reads(members):
    raw = pack_members(members)
    assert unpack_members(raw, "here") == members
    with tarfile.open(fileobj=io.BytesIO(raw + END_OF_ARCHIVE), mode="r:") as archive:
        read = [(info.name, archive.extractfile(info).read()) for info in archive]
    assert [data for _, data in read] == [data for _, data in members]


def test_every_flipped_bit_of_a_header_is_refused():
    raw = pack_members([("toy-train-000000001.json", b"{}"), ("a.search.jpg", b"x" * 700)])
    for bit in range(8 * BLOCK):
        with pytest.raises(ShardCorrupt, match="here: "):
            unpack_members(flipped(raw, bit), "here")


@pytest.mark.parametrize("kept", [1, BLOCK - 1, BLOCK + 1, BLOCK + 600])
def test_a_cut_archive_is_refused(kept):
    raw = pack_members([("a.search.jpg", b"x" * 700)])
    with pytest.raises(ShardCorrupt, match=r"here: "):
        unpack_members(raw[:kept], "here")
