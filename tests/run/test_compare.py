"""Studies with a known effect, written as summaries, and one from images."""

import numpy as np
import pandas as pd
import pytest
import tifffile

import chunkflow as cf
from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.run.batch import Options, run_batch
from chunkflow.run.compare import Questions, compare, unit_of, words_of


def write_study(folder, *, shift, replicates=4, files=3, seed=0, **columns):
    """A summary of two conditions: counts near 20 and 20 + shift, days and files scattering by 1."""
    random = np.random.default_rng(seed)
    rows = []
    for condition, mean in (("ctrl", 20.0), ("drug", 20.0 + shift)):
        for day in range(replicates):
            level = mean + random.normal(0, 1)
            for k in range(files):
                rows.append(
                    {
                        "file": f"{condition}/day{day}/{k}.tif",
                        "result": f"{condition}/day{day}/{k}",
                        "condition": condition,
                        "replicate": f"day{day}",
                        "status": "done",
                        "error": "",
                        "outlier": "",
                        "objects": level + random.normal(0, 1),
                        "length_um": 5.0 + random.normal(0, 0.1),
                        **columns,
                    }
                )
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "summary.csv", index=False)
    return folder


def test_the_known_effect_is_found_with_its_interval_and_nothing_where_there_is_nothing(tmp_path):
    held, found, false_finds = 0, 0, 0
    for seed in range(20):
        effects = compare(write_study(tmp_path / "s", shift=6.0, seed=seed)).effects.set_index("measure")
        objects, length = effects.loc["objects"], effects.loc["length_um"]
        held += objects.low <= 6.0 <= objects.high
        found += objects.low > 0
        false_finds += not length.low <= 0 <= length.high
    assert held >= 17
    assert found == 20
    assert false_finds <= 3


def test_replicates_are_n_and_files_are_not(tmp_path):
    row = compare(write_study(tmp_path / "s", shift=3, replicates=4, files=10)).effects.iloc[0]
    assert (row.n_control, row.n_condition) == (4, 4)
    assert (row.files_control, row.files_condition) == (40, 40)
    table = pd.read_csv(tmp_path / "s" / "summary.csv")
    means = table.groupby(["condition", "replicate"]).objects.mean().groupby("condition").mean()
    assert row.difference == pytest.approx(means["drug"] - means["ctrl"])
    assert row.ratio == pytest.approx(means["drug"] / means["ctrl"])


def test_files_without_named_replicates_count_as_one_each_and_that_is_said(tmp_path):
    done = compare(write_study(tmp_path / "s", shift=3, replicate=""))
    assert done.effects.n_control.eq(12).all()
    assert any("every file counts as one" in text for text in done.warnings)


def test_tests_are_corrected_over_all_measures(tmp_path):
    folder = write_study(tmp_path / "s", shift=8)
    effects = compare(folder, Questions(test="permutation", correction="holm")).effects
    assert effects.p.min() == pytest.approx(2 / 70)
    assert effects.p_corrected.tolist() == pytest.approx([2 * 2 / 70, max(2 * 2 / 70, effects.p[1])])
    few = compare(write_study(tmp_path / "few", shift=8, replicates=3), Questions(test="permutation"))
    assert any("cannot give a p below 0.1" in text for text in few.warnings)


def test_a_mixed_model_finds_the_effect_from_files(tmp_path):
    pytest.importorskip("statsmodels")
    row = compare(write_study(tmp_path / "s", shift=6, files=6), Questions(test="mixed")).effects.iloc[0]
    assert row.mixed_low <= 6 <= row.mixed_high
    assert row.p < 0.01
    with pytest.raises(UsageError, match="several files per replicate"):
        compare(write_study(tmp_path / "one", shift=6, files=1), Questions(test="mixed"))


def test_pairs_are_days_of_one_name(tmp_path):
    done = compare(write_study(tmp_path / "s", shift=6), Questions(paired=True, test="permutation"))
    assert done.effects.p[0] == pytest.approx(2 / 2**4)
    table = pd.read_csv(tmp_path / "s" / "summary.csv")
    table.loc[table.file.str.startswith("drug/day3"), "replicate"] = "day9"
    table.to_csv(tmp_path / "s" / "summary.csv", index=False)
    done = compare(tmp_path / "s", Questions(paired=True))
    assert done.effects.n_control[0] == 3
    assert any("no partner: day3, day9" in text for text in done.warnings)


def test_failed_files_are_left_out_and_named(tmp_path):
    folder = write_study(tmp_path / "s", shift=6)
    table = pd.read_csv(folder / "summary.csv").astype({"error": object})
    table.loc[0, "status"], table.loc[0, "error"], table.loc[0, "objects"] = "failed", "torn", np.nan
    table.to_csv(folder / "summary.csv", index=False)
    done = compare(folder, Questions(without=("drug/day0/1.tif",)))
    assert len(done.tidy) == 2 * 22
    assert any("ctrl/day0/0.tif" in text for text in done.warnings)
    assert any("drug/day0/1.tif" in text for text in done.warnings)


def test_the_tidy_table_is_a_row_per_file_and_measure(tmp_path):
    done = compare(write_study(tmp_path / "s", shift=1))
    tidy = pd.read_csv(done.path / "tidy.csv")
    assert list(tidy.columns) == ["file", "condition", "replicate", "measure", "unit", "value"]
    assert len(tidy) == 24 * 2
    assert set(tidy.loc[tidy.measure == "length_um", "unit"]) == {"µm"}


def test_conditions_may_be_named_anew(tmp_path):
    folder = write_study(tmp_path / "s", shift=6, condition="")
    with pytest.raises(UsageError, match="nothing to compare"):
        compare(folder)
    done = compare(folder, Questions(control="drug"), conditions="{condition}/{replicate}/*.tif")
    assert done.conditions == ("drug", "ctrl")
    assert done.effects.difference[0] < 0


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        (Questions(measures=("lenght_um",)), "length_um"),
        (Questions(control="contrl"), "no condition"),
        (Questions(without=("nobody.tif",)), "no file"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(tmp_path, questions, said):
    with pytest.raises(UsageError, match=said):
        compare(write_study(tmp_path / "s", shift=1), questions)


def test_a_folder_that_is_no_batch_is_refused(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"summary\.csv"):
        compare(tmp_path)


def test_time_points_of_a_file_are_averaged(tmp_path):
    folder = write_study(tmp_path / "s", shift=6)
    table = pd.read_csv(folder / "summary.csv")
    later = table.assign(objects=table.objects + 2, t=1)
    pd.concat([table.assign(t=0), later]).to_csv(folder / "summary.csv", index=False)
    done = compare(folder)
    assert done.effects.n_control[0] == 4
    assert len(done.tidy) == 24 * 2
    assert any("time points" in text for text in done.warnings)


def test_measures_have_words_and_units():
    assert (words_of("object_volume_median_um3"), unit_of("object_volume_median_um3")) == (
        "object volume median",
        "µm³",
    )
    assert (words_of("length_um"), unit_of("objects")) == ("total length", "")


@pytest.mark.thorough
def test_an_effect_drawn_into_images_is_measured_from_them(tmp_path):
    """About six cubes a file against nine, of one size: as many more as were drawn, and no larger."""
    random = np.random.default_rng(0)
    drawn = {"ctrl": [], "drug": []}
    for condition, count in (("ctrl", 6), ("drug", 9)):
        for day in range(3):
            path = tmp_path / "in" / condition / f"day{day}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = random.poisson(10, (8, 32, 32)).astype(np.uint16)
            drawn[condition].append(count + int(random.integers(-1, 2)))
            for cell in random.permutation(16)[: drawn[condition][-1]]:
                y, x = (8 * int(v) + 2 for v in divmod(int(cell), 4))
                image[2:5, y : y + 4, x : x + 4] += 200
            tifffile.imwrite(path, image)
    stages = ["threshold", {"label": {"min_voxels": 4}}, "measure"]
    pipeline = cf.Pipeline.from_dict({"version": 1, "input": {"voxel_um": [0.2, 0.1, 0.1]}, "stages": stages})
    options = Options(on="serial", conditions="{condition}/*.tif")
    run_batch(pipeline, [tmp_path / "in"], tmp_path / "out", options=options)
    effects = compare(tmp_path / "out").effects.set_index("measure")
    assert effects.low["objects"] > 0
    assert effects.difference["objects"] == pytest.approx(np.mean(drawn["drug"]) - np.mean(drawn["ctrl"]))
    one = 3 * 4 * 4 * 0.2 * 0.1 * 0.1
    assert effects.mean_control["object_volume_median_um3"] == pytest.approx(one)
    assert effects.difference["object_volume_median_um3"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["NA", "null", "None", "nan"])
def test_a_condition_may_be_called_like_a_missing_value(tmp_path, name):
    folder = write_study(tmp_path / "s", shift=6.0)
    table = pd.read_csv(folder / "summary.csv")
    table["condition"] = table["condition"].replace("drug", name)
    table.to_csv(folder / "summary.csv", index=False)
    assert compare(folder, Questions(control="ctrl")).conditions == ("ctrl", name)


def test_a_batch_of_which_all_files_failed_is_refused_for_that(tmp_path):
    folder = write_study(tmp_path / "s", shift=6.0)
    pd.read_csv(folder / "summary.csv").assign(status="failed").to_csv(folder / "summary.csv", index=False)
    with pytest.raises(UsageError, match="no file of the batch has a result"):
        compare(folder)
