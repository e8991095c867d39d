import pytest

from chunkflow.analysis.samples import Sample, from_pattern, from_table, without_ending
from chunkflow.errors import UsageError

FILES = ["ctrl/day1/a.tif", "ctrl/day2/a.tif", "drug/day1/b.ome.tif", "drug/deep/day2/c.tif"]


def rows(*lines):
    return [dict(zip(("file", "condition", "replicate"), line, strict=True)) for line in lines]


def test_endings_are_left_off_and_dots_inside_names_are_not():
    assert without_ending("a/b.ome.tif") == "a/b"
    assert without_ending("day1.5") == "day1.5"
    assert without_ending("cell.czi") == "cell"
    assert without_ending("x.ome.zarr") == "x"


def test_a_pattern_takes_conditions_from_folders_and_reaches_no_farther_than_a_slash():
    found, warnings = from_pattern("{condition}/{replicate}/*.tif", FILES)
    assert found == {
        "ctrl/day1/a.tif": Sample("ctrl", "day1"),
        "ctrl/day2/a.tif": Sample("ctrl", "day2"),
        "drug/day1/b.ome.tif": Sample("drug", "day1"),
    }
    assert "drug/deep/day2/c.tif" in warnings[0]


def test_two_stars_stand_for_folders_of_any_depth():
    found, warnings = from_pattern("{condition}/**/{replicate}/*", FILES)
    assert found["drug/deep/day2/c.tif"] == Sample("drug", "day2")
    assert found["ctrl/day1/a.tif"] == Sample("ctrl", "day1")
    assert not warnings


def test_a_pattern_reads_parts_of_names():
    found, _ = from_pattern("{condition}_{replicate}.tif", ["wt_3.tif", "ko_10.tif"])
    assert found == {"wt_3.tif": Sample("wt", "3"), "ko_10.tif": Sample("ko", "10")}


@pytest.mark.parametrize("pattern", ["*.tif", "{conditon}/*", "{condition}/{condition}/*", "{condition}.nothing"])
def test_patterns_that_say_nothing_are_refused(pattern):
    with pytest.raises(UsageError):
        from_pattern(pattern, FILES)


def test_a_table_names_files_whole_without_ending_or_by_their_end():
    found, warnings = from_table(
        rows(("ctrl/day1/a.tif", "ctrl", "1"), ("drug/day1/b", "drug", "1"), ("c.tif", "drug", "2")), FILES
    )
    assert found["ctrl/day1/a.tif"] == Sample("ctrl", "1")
    assert found["drug/day1/b.ome.tif"] == Sample("drug", "1")
    assert found["drug/deep/day2/c.tif"] == Sample("drug", "2")
    assert "ctrl/day2/a.tif" in warnings[-1]


def test_a_name_that_may_mean_two_files_is_refused_and_one_that_means_none_is_said():
    with pytest.raises(UsageError, match="line 2 names a.tif, which may be ctrl/day1/a.tif or ctrl/day2/a.tif"):
        from_table(rows(("a.tif", "x", "")), FILES)
    _, warnings = from_table(rows(("nobody.tif", "x", "")), FILES)
    assert "nobody.tif" in warnings[0]


def test_a_file_named_twice_and_a_missing_column_are_refused():
    with pytest.raises(UsageError, match="second time"):
        from_table(rows(("b", "x", ""), ("drug/day1/b", "y", "")), FILES)
    with pytest.raises(UsageError, match="no condition"):
        from_table([{"file": "b"}], FILES)
