"""The header of .ts files is read line by line; what is in comments means nothing; odd files end in one line."""

import os

import numpy as np
import pytest

from cnn.data.datasets.ucr import STRETCH, Ucr, common_length
from cnn.errors import UserError
from cnn.files.series import TsFile, read_csv, read_npy

BODY = "@data\n1,2,3:cat\n4,5,?:Dog\n"
GOOD = "@problemName mine\n@timeStamps false\n@classLabel true cat Dog\n"


def parsed(tmp_path, text, **options):
    path = tmp_path / "mine.ts"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return TsFile(path, **options)


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        "# lines before @data are comments, and @timeStamps true in one means nothing\n" + GOOD,
        "% @classLabel true x y @data\n\n" + GOOD,
        "# İİİİİİİİİİ: lower case of these letters is longer\n" + GOOD,
        GOOD.replace("mine", "data@data"),
        GOOD.upper().replace("CAT DOG", "cat Dog").replace("TRUE", "True"),
        "\ufeff" + GOOD,
        GOOD.replace("\n", "  \n").replace("@", " \t@"),
        GOOD.replace("\n", "\r\n"),
        GOOD + "@targetLabel false\n# the end\n",
    ],
)
def test_the_header_is_read_line_by_line(tmp_path, header):
    found = parsed(tmp_path, header + BODY)
    assert found.classes == ("cat", "Dog") and found.labels == ["cat", "Dog"]
    np.testing.assert_array_equal(found.series[0][:, 0], [1, 2, 3])
    np.testing.assert_array_equal(found.series[1][:, 0], [4, 5, np.nan])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("cat Dog", "cat Dog cat") + BODY, "'@classLabel' names 'cat' twice"),
        (GOOD + "@CLASSLABEL true x y\n" + BODY, "line 4: '@CLASSLABEL' is there twice"),
        (GOOD + "1,2,3:cat\n" + BODY, "line 4: before '@data'"),
        (GOOD + "@\n" + BODY, "line 4: before '@data'"),
        (GOOD + "# @data\n1,2:cat\n", "no line '@data'"),
        (GOOD + "@data now\n1,2:cat\n", "no line '@data'"),
        (GOOD + "@data\n1,inf:cat\n", "line 5: holds an infinite value"),
        (GOOD + "@data\n1,\x1b[31m:cat\n", r"line 5: could not convert .*x1b\[31m"),
        (GOOD.replace("true cat Dog", "") + BODY, "has no classes"),
        (b"\x00\xff" * 100, "no line '@data'"),
        ("", "no line '@data'"),
    ],
)
def test_what_is_refused(tmp_path, text, said):
    with pytest.raises(UserError, match=said) as caught:
        parsed(tmp_path, text)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_names_of_classes_that_are_not_utf_8_stay_different(tmp_path):
    text = b"@classLabel true a\xe9 a\xe8\n@data\n1,2:a\xe8\n3,4:a\xe9\n"
    found = parsed(tmp_path, text)
    assert found.classes == ("a\\xe9", "a\\xe8") and found.labels == ["a\\xe8", "a\\xe9"]


def test_pipes_are_not_opened(tmp_path):
    for suffix, read in ((".ts", TsFile), (".npy", read_npy), (".csv", read_csv)):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        with pytest.raises(UserError, match="a pipe"):
            read(tmp_path / f"pipe{suffix}")


def test_one_long_series_does_not_stretch_all_others(tmp_path):
    rows = ["1,2,3,4:cat", "4,3,2,1:Dog"] * 1000
    rows[7] = ",".join(["5"] * 40_000) + ":cat"
    data = Ucr(str(parsed_path(tmp_path, rows)))
    mean = -(-(1999 * 4 + 40_000) // 2000)
    assert data.info.input_shape == (STRETCH * mean, 1)
    assert sum(data.arrays(split)["series"].nbytes for split in data.splits) < 2 << 20
    (note, _) = data.notes()
    assert f"of 4 to 40000 steps, all resampled to {STRETCH * mean} by a spline (40000 would take 305 MiB" in note
    assert common_length([7, 29, 15], 12) == 29 and common_length([100] * 10_000_000, 1) == 100


def parsed_path(tmp_path, rows):
    (tmp_path / "mine.ts").write_text(GOOD + "@data\n" + "\n".join(rows))
    return tmp_path / "mine.ts"
