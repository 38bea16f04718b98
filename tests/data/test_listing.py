"""Pictures as they lie about: many of them cost little, and each kind of place is told from the others."""

from __future__ import annotations

import io
import os
import tracemalloc

import pytest

from reslightning.data.listing import Listing
from reslightning.errors import UserError
from tests import images


def names(*places, stdin: bytes = b"") -> list[str]:
    listing = Listing(list(map(str, places)), io.BytesIO(stdin))
    return [listing.name(number) for number in range(len(listing))]


def test_ten_thousand_links_cost_little(tmp_path):
    (tmp_path / "one.jpg").write_bytes(images.jpeg(1))
    (tmp_path / "many").mkdir()
    for number in range(10_000):
        os.symlink(tmp_path / "one.jpg", tmp_path / "many" / f"{number:05}.jpg")  # noqa: PTH211 - fast
    tracemalloc.start()
    listing = Listing([str(tmp_path / "many")])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listing) == 10_000
    assert listing.name(9_999).endswith("/09999.jpg")
    assert listing.read("test", 1234) == (tmp_path / "one.jpg").read_bytes()
    assert most < 20e6


def test_a_list_may_name_lists_tars_and_odd_names(tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \xf0.jpg"
    with open(odd, "wb") as file:  # noqa: PTH123 - no text
        file.write(b"x")
    tar = images.tar(images.tree(tmp_path / "tree", val=1, train=1), tmp_path / "all.tar")
    (tmp_path / "inner.txt").write_bytes(odd + b"\r\n")
    (tmp_path / "outer.txt").write_text(f"{tmp_path}/inner.txt\n{tar}\n")
    found = names(tmp_path / "outer.txt")
    assert len(found) == 9
    assert found[0].endswith(r"caf\udce9 \udcf0.jpg")
    assert names("-", stdin=odd + b"\0") == found[:1]


@pytest.mark.parametrize("content", [images.jpeg(1)[:300], b"\x89PNG\r\n\x1a\n", images.jpeg(1), b"P6\n1 1\n255\nabc"])
def test_a_picture_on_standard_input_is_no_list(content):
    assert names("-", stdin=content) == ["-"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "standard input is empty"), (b"\n\n", "standard input is empty"), (b"one\ntwo\n", "is no list of pictures")],
)
def test_nothing_on_standard_input(content, said):
    with pytest.raises(UserError, match=said):
        names("-", stdin=content)


def test_what_is_there_and_is_no_picture(tmp_path):
    (tmp_path / "a.md").write_text("a")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"no pictures in .*\nnot read: 1 files .*a\.md\nGive pictures, or folders"):
        names(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"a tar")
    with pytest.raises(UserError, match="is cut or no tar"):
        names(tmp_path / "a.tar")
    assert names("x" * 5000, "a\0b", "~nobody-known/a.jpg")[1] == r"a\x00b"


def test_a_link_to_a_folder_above_ends(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    assert names(tmp_path) == [f"{tmp_path}/in/a.jpg"]
