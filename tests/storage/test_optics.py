import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from chunkflow.geometry.scale import Scale
from chunkflow.storage.importing import import_image
from chunkflow.storage.omezarr import Format, image_facts, open_volume
from chunkflow.storage.omezarr_write import write_group, write_image_group
from chunkflow.storage.optics import ome_optics

FORMATS: list[Format] = ["0.5", "0.4"]
SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
SHAPE = (2, 3, 17, 19)  # c, z, y, x
GREEN = (
    'EmissionWavelength="0.525" EmissionWavelengthUnit="µm" ExcitationWavelength="488" PinholeSize="50000"'
    ' PinholeSizeUnit="nm" AcquisitionMode="LaserScanningConfocalMicroscopy"'
)
RED = 'EmissionWavelength="609" AcquisitionMode="WideField" ContrastMethod="Fluorescence"'
OBJECTIVES = (
    '<Objective ID="Objective:0" LensNA="0.5" Immersion="Air" NominalMagnification="10"/>'
    '<Objective ID="Objective:1" LensNA="1.4" Immersion="Oil" NominalMagnification="63"'
    ' CalibratedMagnification="62.8"/>'
)
SETTINGS = '<ObjectiveSettings ID="Objective:1" RefractiveIndex="1.518"/>'
LENS = {"na": 1.4, "immersion": "oil", "immersion_index": 1.518, "magnification": 62.8}
FACTS = (
    LENS | {"emission_nm": 525.0, "excitation_nm": 488.0, "pinhole_um": 50.0, "mode": "confocal"},
    LENS | {"emission_nm": 609.0, "mode": "widefield"},
)


def ome_image(settings: str = SETTINGS, *channels: str, number: int = 0) -> str:
    listed = "".join(
        f'<Channel ID="Channel:{number}:{i}" Name="{"gr"[i]}" {text}/>'
        for i, text in enumerate(channels or (GREEN, RED))
    )
    c, z, y, x = SHAPE
    return (
        f'<Image ID="Image:{number}">{settings}<Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" Type="uint8"'
        f' SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeC="{c}" SizeT="1" PhysicalSizeX="0.1" PhysicalSizeY="0.1"'
        f' PhysicalSizeZ="0.3">{listed}<TiffData/></Pixels></Image>'
    )


def ome_xml(*images: str, objectives: str = OBJECTIVES, schema: str = SCHEMA) -> str:
    instrument = f'<Instrument ID="Instrument:0">{objectives}</Instrument>'
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}">{instrument}{"".join(images)}</OME>'


def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, SHAPE).astype(np.uint8)


def ome_tiff(file: Path, xml: str) -> Path:
    tifffile.imwrite(file, voxels(), description=xml.encode(), metadata=None, photometric="minisblack")
    return file


def read_one(settings: str = SETTINGS, channel: str = "", objectives: str = OBJECTIVES) -> dict[str, Any]:
    first, second = ome_optics(ome_xml(ome_image(settings, channel, channel), objectives=objectives), 0, 2, "a.xml")
    assert first == second
    return dict(first)


def write_image(folder: Path, format: Format, **options: Any) -> Path:
    kind: dict[str, Any] = (
        {"zarr_format": 2} if format == "0.4" else {"zarr_format": 3, "dimension_names": tuple("czyx")}
    )
    array = zarr.create_array(folder / "0", shape=SHAPE, dtype="uint8", **kind)
    array[...] = voxels()
    write_image_group(folder, name="a", levels={"0": Scale((0.3, 0.1, 0.1))}, axes="czyx", format=format, **options)
    return folder


def metadata_file(folder: Path) -> Path:
    return next(folder / name for name in ("zarr.json", ".zattrs") if (folder / name).exists())


@pytest.mark.parametrize("format", FORMATS)
def test_an_imported_channel_opens_with_exactly_the_facts_of_its_ome_xml(
    tmp_path: Path, format: Format, caplog: pytest.LogCaptureFixture
) -> None:
    report = import_image(ome_tiff(tmp_path / "a.ome.tif", ome_xml(ome_image())), tmp_path / "a.zarr", format=format)
    assert report.optics == FACTS
    for number, name in enumerate(("g", "r")):
        for choice in (name, number):
            volume = open_volume(report.destination, channel=choice)
            assert (volume.channel, volume.optics) == (name, FACTS[number])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume))[...], voxels()[number])
    facts = image_facts(report.destination)
    assert (facts.optics, facts.levels[0].optics, facts.levels[0].channel) == (FACTS, FACTS[0], "g")
    assert not caplog.records


def test_a_stack_of_single_planes_has_the_optics_of_its_files(tmp_path: Path) -> None:
    plane = ome_image().replace('SizeZ="3"', 'SizeZ="1"')
    for z in range(3):
        tifffile.imwrite(
            tmp_path / f"{z}.tif",
            voxels()[:, z],
            description=ome_xml(plane).encode(),
            metadata=None,
            photometric="minisblack",
        )
    report = import_image(tmp_path, tmp_path / "a.zarr", voxel_um=(0.3, 0.1, 0.1))
    assert (report.shape, report.optics) == (SHAPE, FACTS)


def test_a_stack_of_files_with_absurd_optics_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    absurd = ome_image(SETTINGS, "", 'EmissionWavelength="0"').replace('SizeZ="3"', 'SizeZ="1"')
    for z in range(3):
        described = ome_xml(absurd).encode()
        tifffile.imwrite(
            tmp_path / f"{z}.tif", voxels()[:, z], description=described, metadata=None, photometric="minisblack"
        )
    report = import_image(tmp_path, tmp_path / "a.zarr", voxel_um=(0.3, 0.1, 0.1))
    assert report.optics == (LENS, LENS)
    (record,) = caplog.records
    assert record.getMessage().endswith("0.tif: optics that cannot be meant are left out: emission_nm 0.0")


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_that_states_no_optics_has_none_and_its_metadata_do_not_mention_them(
    tmp_path: Path, format: Format
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels()[0], photometric="minisblack")
    report = import_image(tmp_path / "a.tif", tmp_path / "a.zarr", voxel_um=(1, 1, 1), format=format)
    assert report.optics == ({},)
    volume = open_volume(report.destination)
    assert (volume.channel, volume.optics) == ("channel_0", {})
    assert not {"chunkflow", "optics"} & set(zarr.open_group(report.destination, mode="r").attrs)


def test_a_plain_zarr_array_states_no_optics(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, dtype="uint8")
    report = import_image(tmp_path / "a.zarr", tmp_path / "b.zarr", voxel_um=(1, 1, 1), axes="CZYX")
    assert report.optics == ({}, {})


@pytest.mark.parametrize("format", FORMATS)
def test_other_readers_accept_an_image_with_optics(tmp_path: Path, format: Format) -> None:
    models = pytest.importorskip("ome_zarr_models")
    folder = write_image(tmp_path / "a", format, optics=FACTS)
    assert type(models.open_ome_zarr(zarr.open_group(folder, mode="r"))).__name__ == "Image"
    assert zarr.open_group(folder, mode="r").attrs["chunkflow"] == {"optics": list(FACTS)}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("listed", [True, False])
def test_images_of_bioformats2raw_have_the_optics_of_their_own_series(
    tmp_path: Path, format: Format, listed: bool
) -> None:
    first = ome_image('<ObjectiveSettings ID="Objective:0"/>', "", "")
    write_group(tmp_path, {"bioformats2raw.layout": 3}, format=format)
    write_group(tmp_path / "OME", {"series": ["1", "A/2/0", "0"]} if listed else None, format=format)
    (tmp_path / "OME" / "METADATA.ome.xml").write_text(ome_xml(first, ome_image(number=1)), encoding="utf-8")
    air = {"na": 0.5, "immersion": "air", "magnification": 10.0}
    of_folder = {"1": air, "A/2/0": FACTS[1], "0": {}} if listed else {"0": air, "1": FACTS[1], "2": {}, "A/2/0": {}}
    for name, facts in of_folder.items():
        assert open_volume(write_image(tmp_path / name, format), channel=1).optics == facts


def test_the_one_image_of_a_bioformats2raw_folder_has_its_optics(tmp_path: Path) -> None:
    write_group(tmp_path, {"bioformats2raw.layout": 3})
    write_image(tmp_path / "0", "0.5")
    file = tmp_path / "OME" / "METADATA.ome.xml"
    write_group(file.parent, {"series": ["0"]})
    assert open_volume(tmp_path, channel=0).optics == {}
    file.write_text(ome_xml(ome_image()), encoding="utf-8")
    assert open_volume(tmp_path, channel=0).optics == FACTS[0]
    write_group(tmp_path)
    assert open_volume(tmp_path / "0", channel=0).optics == {}


@pytest.mark.parametrize(
    "content", [b"", b"<OME><Image></OME>", b"\xff\xfe<", b'<?xml version="1.0" encoding="x"?><a/>']
)
def test_xml_that_cannot_be_read_is_a_warning_and_the_image_opens(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write_group(tmp_path, {"bioformats2raw.layout": 3})
    write_image(tmp_path / "0", "0.5")
    write_group(tmp_path / "OME")
    (tmp_path / "OME" / "METADATA.ome.xml").write_bytes(content)
    assert open_volume(tmp_path / "0", channel=1).optics == {}
    (record,) = caplog.records
    assert "METADATA.ome.xml: no optics are read, this is not valid XML" in record.getMessage()


def test_a_damaged_list_of_series_does_not_stop_its_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_group(tmp_path, {"bioformats2raw.layout": 3})
    write_image(tmp_path / "0", "0.5")
    write_group(tmp_path / "OME")
    (tmp_path / "OME" / "METADATA.ome.xml").write_text(ome_xml(ome_image()), encoding="utf-8")
    (tmp_path / "OME" / "zarr.json").write_text("{")
    assert open_volume(tmp_path / "0", channel=1).optics == {}
    assert "is not valid JSON" in caplog.text


@pytest.mark.parametrize(
    "schema", [f"http://www.openmicroscopy.org/Schemas/OME/{year}" for year in ("2010-06", "2013-06", "2016-06")]
)
@pytest.mark.parametrize("prefix", ["", "ome:", None])
def test_facts_are_found_in_any_namespace(schema: str, prefix: str | None) -> None:
    xml = ome_xml(ome_image(), schema=schema)
    if prefix is None:
        xml = xml.replace(f' xmlns="{schema}"', "")
    elif prefix:
        xml = xml.replace("xmlns=", "xmlns:ome=").replace("</", "</ome:").replace("<ome:?", "<?")
        for name in ("OME", "Instrument", "Objective", "Image", "Pixels", "Channel", "TiffData"):
            xml = xml.replace(f"<{name}", f"<ome:{name}")
    assert ome_optics(xml, 0, 2, "a.xml") == FACTS


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('EmissionWavelength="5250" EmissionWavelengthUnit="Å"', {"emission_nm": 525.0}),
        ('ExcitationWavelength="4.05e-7" ExcitationWavelengthUnit="m"', {"excitation_nm": pytest.approx(405)}),
        ('PinholeSize="0.07" PinholeSizeUnit="mm"', {"pinhole_um": pytest.approx(70)}),
        ('PinholeSize="70"', {"pinhole_um": 70.0}),
        ('AcquisitionMode="SpinningDiskConfocal"', {"mode": "spinning-disk"}),
        ('AcquisitionMode="SPIM"', {"mode": "light-sheet"}),
        ('AcquisitionMode="Wide-field"', {"mode": "widefield"}),
        ('AcquisitionMode="MultiPhotonMicroscopy"', {}),
        ('AcquisitionMode="WideField" ContrastMethod="DIC"', {}),
        ('AcquisitionMode="LaserScanningConfocalMicroscopy" ContrastMethod="Brightfield"', {}),
    ],
)
def test_what_a_channel_states_is_read_in_its_unit(text: str, fact: dict[str, Any]) -> None:
    assert read_one(settings="", channel=text) == fact


@pytest.mark.parametrize(
    ("objective", "medium", "immersion"),
    [
        ("Immersion='WaterDipping'", "", "water"),
        ("Immersion='Glycerol'", "", "glycerol"),
        ("Immersion='Silicone'", "", "silicone"),
        ("Immersion='Multi'", "Medium='Water'", "water"),
        ("Immersion='Oil'", "Medium='Other'", "oil"),
        ("Immersion='Other'", "", None),
        ("", "", None),
    ],
)
def test_the_immersion_is_a_known_word_or_not_there(
    objective: str, medium: str, immersion: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = read_one(f'<ObjectiveSettings ID="O" {medium}/>', objectives=f'<Objective ID="O" {objective}/>')
    assert found.get("immersion") == immersion
    assert not caplog.records


@pytest.mark.parametrize("settings", ["", '<ObjectiveSettings ID="Objective:7"/>'])
def test_an_objective_that_the_image_does_not_name_is_not_guessed(settings: str) -> None:
    assert read_one(settings) == {}


@pytest.mark.parametrize(
    ("objective", "settings", "channel", "left_out"),
    [
        ('LensNA="0"', "", "", "na '0'"),
        ('LensNA="-1.4"', "", "", "na '-1.4'"),
        ('LensNA="1.71"', "", "", "na '1.71'"),
        ('LensNA="1,4"', "", "", "na '1,4'"),
        ('LensNA="nan"', "", "", "na 'nan'"),
        ('Immersion="Honey"', "", "", "immersion 'honey'"),
        ('NominalMagnification="0"', "", "", "magnification '0'"),
        ("", 'RefractiveIndex="0.99"', "", "immersion_index '0.99'"),
        ("", 'RefractiveIndex="1.71"', "", "immersion_index '1.71'"),
        ("", "", 'EmissionWavelength="199.9"', "emission_nm 199.9"),
        ("", "", 'EmissionWavelength="2001"', "emission_nm 2001.0"),
        ("", "", 'EmissionWavelength="1.2" EmissionWavelengthUnit="pixel"', "emission_nm '1.2 pixel'"),
        ("", "", 'ExcitationWavelength="0"', "excitation_nm 0.0"),
        ("", "", 'ExcitationWavelength="inf"', "excitation_nm inf"),
        ("", "", 'PinholeSize="0"', "pinhole_um 0.0"),
        ("", "", 'PinholeSize="wide"', "pinhole_um 'wide'"),
    ],
)
def test_an_absurd_value_is_left_out_by_name_and_the_others_stay(
    objective: str, settings: str, channel: str, left_out: str, caplog: pytest.LogCaptureFixture
) -> None:
    lens = f'<Objective ID="O" {objective}/>'
    mode = 'AcquisitionMode="WideField"'
    assert read_one(f'<ObjectiveSettings ID="O" {settings}/>', f"{mode} {channel}", lens) == {"mode": "widefield"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"a.xml: optics that cannot be meant are left out: {left_out}"


@pytest.mark.parametrize(
    ("na", "immersion", "index", "kept"),
    [
        ("1.4", "Air", "1.518", {"na": 1.4, "immersion_index": 1.518}),
        ("1.4", "Oil", "1.33", {"na": 1.4, "immersion": "oil"}),
        ("1.0", "Air", "1.0", {"na": 1.0}),
        ("0.95", "Air", "1.0", {"na": 0.95, "immersion": "air", "immersion_index": 1.0}),
        ("1.35", "Silicone", "1.405", {"na": 1.35, "immersion": "silicone", "immersion_index": 1.405}),
        ("1.57", "Oil", "1.66", {"na": 1.57, "immersion": "oil", "immersion_index": 1.66}),
    ],
)
def test_a_medium_that_the_numerical_aperture_excludes_is_left_out(
    na: str, immersion: str, index: str, kept: dict[str, Any]
) -> None:
    objective = f'<Objective ID="O" LensNA="{na}" Immersion="{immersion}"/>'
    assert read_one(f'<ObjectiveSettings ID="O" RefractiveIndex="{index}"/>', objectives=objective) == kept


def test_samples_of_a_colour_channel_share_its_facts_and_another_count_of_channels_gives_the_objective_alone() -> None:
    colours = ome_xml(ome_image(SETTINGS, f'SamplesPerPixel="3" {GREEN}'))
    assert ome_optics(colours, 0, 3, "a.xml") == (FACTS[0],) * 3
    assert ome_optics(ome_xml(ome_image()), 0, 3, "a.xml") == (LENS,) * 3
    assert ome_optics(ome_xml(ome_image()), 1, 2, "a.xml") == ({}, {})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("own", [3, "ab", [{}], [1, 2], {"na": 1}])
def test_attributes_of_ours_that_someone_broke_are_left_out(
    tmp_path: Path, format: Format, own: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_image(tmp_path / "a", format, optics=FACTS)
    file = metadata_file(folder)
    content = json.loads(file.read_text())
    content.get("attributes", content)["chunkflow"]["optics"] = own
    file.write_text(json.dumps(content))
    assert open_volume(folder, channel=1).optics == {}
    assert "the optics are not a list of facts for each of 2 channels" in caplog.text


def test_values_of_our_attributes_are_checked_as_foreign_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad: dict[str, Any] = {"na": True, "emission_nm": None, "mode": "sted", "immersion": ["oil"], "pinhole_um": [1]}
    folder = write_image(tmp_path / "a", "0.5", optics=[{**bad, "magnification": 40, "colour": "red"}, {}])
    assert open_volume(folder, channel=0).optics == {"magnification": 40.0}
    assert "left out: na True, pinhole_um [1], immersion ['oil'], mode 'sted'" in caplog.text
