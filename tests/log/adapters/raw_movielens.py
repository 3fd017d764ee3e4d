"""MovieLens of two users and four movies, in each layout that it comes in, written as files."""

import bz2
import gzip
import lzma
import zipfile

# 2000-01-01 00:00 UTC, an hour's start.
T0 = 946_684_800
# user, movie, stars, seconds after T0. User 1 rates in two hours, one rating of 3 among them.
RATINGS = [(1, 10, 5, 50), (1, 11, 2, 20), (1, 12, 3, 30), (2, 10, 1, 40), (1, 13, 4, 3_600)]
GENRES_100K = 19


def atomic():
    rows = [f"{u}\t{m}\t{r}\t{T0 + t}" for u, m, r, t in RATINGS]
    return {
        "tiny.inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *rows],
        "tiny.item": [
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            "10\tMisérables, Les\t1995\tDrama Musical",
            "11\tHeat\t1985\tAction",
            "12\tNo Year\tV\tComedy",
            "13\tOld (1950)\tV\tSci-Fi",
        ],
        "tiny.user": [
            "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
            "1\t24\tF\twriter\t85711",
            "2\t56\tM\tother\tT8H1N",
        ],
    }


def original_100k():
    def movie(number, title, date, *genres):
        flags = ["1" if k in genres else "0" for k in range(GENRES_100K)]
        return "|".join([str(number), title, date, "", "http://x", *flags])

    return {
        "u.data": [f"{u}\t{m}\t{r}\t{T0 + t}" for u, m, r, t in RATINGS],
        "u.item": [
            movie(10, "Misérables, Les (1995)", "01-Jan-1995", 8, 12),
            movie(11, "Heat", "01-Jan-1985", 1),
            movie(12, "No Year", "", 5),
            movie(13, "Old (1950)", "", 15),
        ],
        "u.user": ["1|24|F|writer|85711", "2|56|M|other|T8H1N"],
    }


def original_1m(timed=True):
    name = "ratings.dat" if timed else "ratings.notime.dat"
    rows = [f"{u}::{m}::{r}" + (f"::{T0 + t}" if timed else "") for u, m, r, t in RATINGS]
    return {
        name: rows,
        "movies.dat": [
            "10::Misérables, Les (1995)::Drama|Musical",
            "11::Heat (1985)::Action",
            "12::No Year::Comedy",
            "13::Old (1950)::Sci-Fi",
        ],
        "users.dat": ["1::F::18::writer::85711", "2::M::56::other::T8H1N"],
    }


def write(path, layout, compression=""):
    path.mkdir(exist_ok=True)
    for name, lines in layout.items():
        latin = name in ("u.item", "movies.dat")
        text = ("\n".join(lines) + "\n").encode("latin-1" if latin else "utf-8")
        if compression == ".xz":
            (path / f"{name}.xz").write_bytes(lzma.compress(text))
        elif compression == ".gz":
            (path / f"{name}.gz").write_bytes(gzip.compress(text))
        elif compression == ".bz2":
            (path / f"{name}.bz2").write_bytes(bz2.compress(text))
        elif compression == ".zip":
            with zipfile.ZipFile(path / f"{name}.zip", "w") as archive:
                archive.writestr(name, text)
        else:
            (path / name).write_bytes(text)
    return path
