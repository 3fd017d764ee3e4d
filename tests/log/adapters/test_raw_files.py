"""Files as people have them: packed, damaged, doubled, hidden, and in other encodings."""

import bz2
import gzip
import lzma
import shutil
import tracemalloc
import zipfile

import pytest

from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters import movielens, ratings
from interactrank_jax.log.adapters.raw_files import Folder
from tests.log.adapters.raw_movielens import original_1m, write

RATINGS = ["user_id,item_id,rating", *(f"u{i % 7},i{i % 11},{i % 2}" for i in range(77))]
TEXT = ("\n".join(RATINGS) + "\n").encode()


def zipped(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path.read_bytes()


def packed(tmp_path, suffix, text=TEXT):
    pack = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}.get(suffix)
    if pack:
        return pack(text)
    method = {"zip": zipfile.ZIP_DEFLATED, "stored.zip": zipfile.ZIP_STORED}[suffix]
    return zipped(tmp_path / "made", [("ratings.csv", text)], method)


def convert_ratings(source, out, **options):
    return ratings.convert(source, out, ratings.Options(**options))


def converted(source, tmp_path):
    shutil.rmtree(tmp_path / "log", ignore_errors=True)
    return convert_ratings(source, tmp_path / "log")["ratings"]


def one_file(tmp_path, name, content):
    (tmp_path / "source").mkdir(exist_ok=True)
    file = tmp_path / "source" / name
    file.write_bytes(content)
    return file


SUFFIXES = ["xz", "gz", "bz2", "zip", "stored.zip"]


@pytest.mark.parametrize("padding", [b"", bytes(8)])
@pytest.mark.parametrize("suffix", ["xz", "gz", "bz2"])
def test_a_file_packed_in_parts_is_read_to_its_end_or_not_at_all(tmp_path, suffix, padding):
    parts = [packed(tmp_path, suffix, part) for part in (TEXT[:300], TEXT[300:])]
    file = one_file(tmp_path, f"ratings.csv.{suffix}", padding.join([*parts, b""]))
    assert converted(file.parent, tmp_path) == 77
    # The standard library takes what it cannot read behind a first part for padding.
    file.write_bytes(parts[0] + b"?" + parts[1][1:])
    with pytest.raises(InputError, match="cannot be read"):
        converted(file.parent, tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_at_any_byte_is_an_error_that_names_the_file(tmp_path, suffix):
    content = packed(tmp_path, suffix)
    name = f"ratings.csv.{suffix.removeprefix('stored.')}"
    messages = []
    starts = range(1, len(content), 5)
    for at in starts:
        for broken in (content[:at], content[:at] + b"\xff\x00\xff" + content[at + 3 :]):
            file = one_file(tmp_path, name, broken)
            folder = Folder(file.parent, "")
            try:
                with folder.open("ratings.csv") as opened:
                    assert opened.read() == TEXT  # what was hit is not part of the text: a date
            except InputError as error:
                messages.append(str(error))
    assert len(messages) > 0.8 * 2 * len(starts)
    assert all(f"{name} cannot be read" in message for message in messages)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_shows_while_a_table_is_read(tmp_path, suffix):
    content = packed(tmp_path, suffix, TEXT * 40)
    middle = len(content) // 2
    name = f"ratings.csv.{suffix.removeprefix('stored.')}"
    broken = content[:middle] + bytes(b ^ 0x55 for b in content[middle : middle + 9])
    file = one_file(tmp_path, name, broken + content[middle + 9 :])
    with pytest.raises(InputError, match=rf"{name} cannot be read .*unpack it yourself"):
        ratings.convert(file.parent, tmp_path / "log", ratings.Options())
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("suffix", ["xz", "gz", "bz2", "zip"])
def test_movielens_names_its_damaged_file_too(tmp_path, suffix):
    source = write(tmp_path / "source", original_1m(), f".{suffix}")
    file = source / f"ratings.dat.{suffix}"
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(InputError, match=rf"ratings\.dat\.{suffix} cannot be read"):
        movielens.convert(source, tmp_path / "log")


@pytest.mark.parametrize("suffix", ["xz", "gz", "bz2", "zip"])
def test_a_suffix_that_lies_is_refused(tmp_path, suffix):
    file = one_file(tmp_path, f"ratings.csv.{suffix}", TEXT)
    with pytest.raises(InputError, match="not what its suffix says"):
        converted(file.parent, tmp_path)
    file.unlink()
    content = packed(tmp_path, suffix) if suffix != "zip" else b"PK\x03\x04 cut off"
    file = one_file(tmp_path, "ratings.csv", content)
    with pytest.raises(InputError, match=r"ratings\.csv is (packed by|a zip).*rename or unpack"):
        converted(file.parent, tmp_path)


@pytest.mark.parametrize(
    ("offset", "value", "reason"), [(6, 1, "encrypted"), (8, 97, "compression method")]
)
def test_a_zip_that_is_locked_or_of_an_unknown_method_is_refused(tmp_path, offset, value, reason):
    content = bytearray(zipped(tmp_path / "made", [("ratings.csv", TEXT)]))
    content[offset] = value  # in the member's header and, two bytes on, in the directory's
    content[content.index(b"PK\x01\x02") + offset + 2] = value
    file = one_file(tmp_path, "data.zip", content)
    with pytest.raises(InputError, match=rf"data\.zip.*cannot be read.*{reason}"):
        converted(file, tmp_path)
    with pytest.raises(InputError, match=rf"data\.zip.*cannot be read.*{reason}"):
        converted(one_file(tmp_path, "ratings.csv.zip", content).parent / file.name, tmp_path)


@pytest.mark.parametrize("members", [("2023/ratings.csv", "2024/ratings.csv"),
                                     ("ratings.csv", "ratings.csv.xz")])  # fmt: skip
def test_an_archive_with_one_name_twice_is_refused(tmp_path, members):
    zipped(tmp_path / "data.zip", [(name, TEXT) for name in members])
    with pytest.raises(InputError, match=f"{members[0]} and {members[1]}, which are both ratings"):
        converted(tmp_path / "data.zip", tmp_path)


@pytest.mark.parametrize("names", [("ratings.csv", "ratings.csv.gz"),
                                   ("ratings.csv.gz", "ratings.csv.xz")])  # fmt: skip
def test_a_directory_with_one_name_twice_is_refused(tmp_path, names):
    for name in names:
        one_file(tmp_path, name, TEXT)
    with pytest.raises(InputError, match=rf"{names[0]} and {names[1]}, which are both ratings"):
        converted(tmp_path / "source", tmp_path)
    layout = write(tmp_path / "movielens", original_1m())
    write(layout, original_1m(), ".xz")
    with pytest.raises(InputError, match=r"dat and \w+\.dat\.xz, which are both"):
        movielens.convert(layout, tmp_path / "log")


def test_names_that_nothing_reads_may_be_twice(tmp_path):
    members = [("a/readme", b""), ("b/readme", b""), ("b/ratings.csv", TEXT)]
    zipped(tmp_path / "data.zip", members)
    assert converted(tmp_path / "data.zip", tmp_path) == 77


@pytest.mark.parametrize("name", ["__MACOSX/ratings.csv", "__MACOSX/x/._ratings.csv", ".DS_Store",
                                  "x/.ratings.csv", ".git/ratings.csv"])  # fmt: skip
def test_what_systems_add_is_not_there(tmp_path, name):
    members = [("x/ratings.csv", TEXT), (name, b"\0\1")]
    zipped(tmp_path / "data.zip", members)
    assert converted(tmp_path / "data.zip", tmp_path) == 77
    one_file(tmp_path, "ratings.csv.zip", (tmp_path / "data.zip").read_bytes())
    (tmp_path / "source" / "ratings.csv.zip.part").mkdir()
    one_file(tmp_path, ".DS_Store", b"\0\1")
    one_file(tmp_path, "._ratings.csv", b"\0\1")
    with Folder(tmp_path / "source", "").open("ratings.csv") as file:
        assert file.read() == TEXT


def test_a_hidden_file_is_read_where_it_is_named_itself(tmp_path):
    assert converted(one_file(tmp_path, ".clicks", TEXT), tmp_path) == 77


def test_archives_of_windows_and_names_in_capitals_are_read(tmp_path):
    zipped(tmp_path / "data.zip", [("data\\Ratings.CSV", TEXT), ("data\\notes.txt", b"")])
    assert converted(tmp_path / "data.zip", tmp_path) == 77


def test_directories_below_are_named_as_such(tmp_path):
    parent = tmp_path / "parent"
    parent.mkdir()
    one_file(parent, "ratings.csv", TEXT)
    with pytest.raises(InputError, match=r"holds source/\. Expected a table"):
        converted(parent, tmp_path)


@pytest.mark.parametrize("out", ["log", "a/b/log", "../link/log", "."])
def test_nothing_is_written_into_what_is_read(tmp_path, out):
    tables = one_file(tmp_path, "ratings.csv", TEXT).parent
    films = write(tmp_path / "films", original_1m())
    for source, convert in ((tables, convert_ratings), (films, movielens.convert)):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(source)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=rf"is (inside|the same .* as) {source}.*only read"):
            convert(source, source / out)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_file_of_kinds_is_not_written_into_what_is_read(tmp_path):
    """It would be one more table there, and the next run would not know which is of ratings."""
    source = one_file(tmp_path, "data.csv", TEXT).parent
    with pytest.raises(InputError, match=r"would be written into --source=.*a file elsewhere"):
        convert_ratings(source, tmp_path / "log", schema=str(source / "kinds.json"))
    assert [path.name for path in tmp_path.rglob("*")] == ["source", "data.csv"]
    # Beside a table that is named as one it does no harm, and is read.
    convert_ratings(source / "data.csv", tmp_path / "log", schema=str(source / "kinds.json"))
    (source / "data.csv").rename(source / "ratings.csv")
    convert_ratings(source, tmp_path / "again", schema=str(source / "kinds.json"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding):
    text = "\n".join(["user_id,item_id,rating", "é,ü,1", "é,ö,0"])
    source = one_file(tmp_path, "ratings.csv", text.encode(encoding)).parent
    folder = Folder(source, "")
    assert folder.lines("ratings.csv", "utf-8") == text.split("\n")
    assert converted(source, tmp_path) == 2


@pytest.mark.parametrize("columns", [(), ("user_id", "item_id", "rating")])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,item_id,rating\né,i,1\n".encode("latin-1"), "is not UTF-8 text.*iconv -f WIN"),
        ("user_id,item_id,rätings\nu,i,1\n".encode("cp1252"), "is not UTF-8 text.*iconv -f WIN"),
        ("user_id,item_id,rating\n".encode("utf-16-le"), "is no text: it holds zero bytes"),
        ("user_id,item_id,rating\nu,i,1\n".encode("utf-16")[:-1], "is not UTF-8 text"),
        (b"user_id,item_id\xff\xfe", "is not UTF-8 text"),
    ],
    ids=["latin-1", "header in cp1252", "no mark", "half a character", "no text"],
)
def test_other_encodings_are_refused(tmp_path, content, message, columns):
    source = one_file(tmp_path, "ratings.csv", content).parent
    with pytest.raises(InputError, match=rf"ratings\.csv.* {message}"):
        ratings.convert(source, tmp_path / "log", ratings.Options(columns=columns))


def test_the_encoding_of_a_column_that_is_not_used_does_not_matter(tmp_path):
    content = "user_id,item_id,rating,note\nu,i,1,e\nu,j,0,é\n".encode("latin-1")
    assert converted(one_file(tmp_path, "ratings.csv", content).parent, tmp_path) == 2


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_endless_line_is_refused_at_its_start(tmp_path, suffix):
    layout = write(tmp_path / "movielens", original_1m())
    (layout / "ratings.dat").unlink()
    for file, read in (
        (tmp_path / f"ratings.csv{suffix}", lambda path: converted(path, tmp_path)),
        (layout / f"ratings.dat{suffix}", lambda path: movielens.convert(layout, tmp_path / "log")),
    ):
        opened = gzip.open(file, "wb", 1) if suffix else file.open("wb")  # noqa: SIM115
        with opened:
            for _ in range(32):
                opened.write(b"1," * (1 << 19))
        tracemalloc.start()
        with pytest.raises(InputError, match="first line is longer than 1,048,576 bytes"):
            read(file)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20  # of 32 MiB
        tracemalloc.stop()
