"""Many images: which are found, what they are called, what a stop leaves, what the summary says."""

import csv
import json
import ntpath
import os
import re
import subprocess
import sys
from pathlib import PureWindowsPath

import pytest
from small_packages import write_package

from PartialSegLib.batch.cases import Outcome
from PartialSegLib.batch.images import case_names, find_images
from PartialSegLib.batch.outputs import earlier_results
from PartialSegLib.batch.request import BatchRequest, settings_of
from PartialSegLib.batch.running import LOCK_FILE, REQUEST_FILE, Batch
from PartialSegLib.batch.summary import version_of
from PartialSegLib.errors import InputError
from PartialSegLib.manifest import read_manifest

TABLE = b"label,task,structure\n"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return read_manifest(write_package(tmp_path_factory.mktemp("package") / "tiny"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "bilder é"
    folder.mkdir()
    for name in ("b.nii.gz", "a.nrrd", "c.mha"):
        (folder / name).touch()
    return folder


def write_dicom_mark(folder, storage_class=""):
    folder.mkdir(parents=True)
    uid = f"1.2.840.10008.5.1.4.1.1.{storage_class}\0".encode()
    element = b"\2\0\2\0UI" + len(uid).to_bytes(2, "little") + uid if storage_class else b""
    (folder / "0001.dcm").write_bytes(bytes(128) + b"DICM" + element)


def rows_of(batch):
    with batch.summary.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refuse_to_write(*arguments):
    raise InputError("The summary is open elsewhere.") from PermissionError(13, "Access is denied")


def record(batch, *names, **outcome):
    for case in list(batch.cases):
        if case.name in names:
            case.output.parent.mkdir(exist_ok=True)
            case.output.touch()
            batch.record(case, Outcome(1.25, **outcome))


def test_a_folder_gives_its_images_and_the_dicom_folders_below(images):
    (images / "a.seg.nrrd").touch()
    (images / ".hidden.nii.gz").touch()
    (images / "notes.txt").touch()
    (images / "masks").mkdir()
    (images / "masks" / "liver.nii.gz").touch()
    write_dicom_mark(images / "patient 1" / "series 2")
    found = find_images([images])
    assert [str(path.relative_to(images)) for path in found] == [
        "a.nrrd", "b.nii.gz", "c.mha", "patient 1/series 2",
    ]  # fmt: skip


def test_patterns_that_windows_hands_on_as_they_are_stand_for_what_matches(images, tmp_path):
    for case in ("s1", "s0"):
        (tmp_path / case).mkdir()
        (tmp_path / case / "ct.nii.gz").touch()
    found = find_images([tmp_path / "*" / "ct.nii.gz", images / "[bc].*"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "s0/ct.nii.gz", "s1/ct.nii.gz", "bilder é/b.nii.gz", "bilder é/c.mha",
    ]  # fmt: skip
    (tmp_path / "[s0]").mkdir()
    (tmp_path / "[s0]" / "ct.nii.gz").touch()
    assert find_images([tmp_path / "[s0]"]) == [tmp_path / "[s0]" / "ct.nii.gz"]
    with pytest.raises(InputError, match=r"There is no file or folder .*\*\.mhd; check the path"):
        find_images([images / "*.mhd"])


@pytest.mark.parametrize(
    ("drive", "name"), [("D:\\", "D"), ("\\\\server\\scans\\", "server_scans"), ("/", "images")]
)
def test_the_series_of_a_whole_drive_has_a_name(drive, name):
    assert case_names([PureWindowsPath(drive)]) == [name]


@pytest.mark.parametrize("name", ["a.SEG.NRRD", "old.nii.gz/"])
def test_what_only_looks_like_an_image_is_none(images, name):
    (images / name).mkdir() if name.endswith("/") else (images / name).touch()
    assert [path.name for path in find_images([images])] == ["a.nrrd", "b.nii.gz", "c.mha"]


@pytest.mark.parametrize("name", ["DICOMDIR", ".0001.dcm"])
def test_indices_and_hidden_files_make_no_series(tmp_path, name):
    write_dicom_mark(tmp_path / "series")
    (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    assert find_images([tmp_path]) == [tmp_path / "series"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_nobody_waits_for_what_comes_out_of_a_named_pipe(images):
    os.mkfifo(images / "pipe")
    code = "import sys; from PartialSegLib.batch.images import find_images; find_images(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, str(images)], check=True, timeout=60)


def test_a_subfolder_that_cannot_be_read_is_told_of(images, monkeypatch, caplog):
    (images / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(find_images([images])) == 3
    assert f"{images / 'locked'} cannot be read (Permission denied) and is left out." in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_file_that_cannot_be_opened_is_passed_over(images):
    (images / "loop").symlink_to("loop")
    assert len(find_images([images])) == 3


def test_slices_without_preamble_and_behind_other_files_are_found(tmp_path):
    for number, start in enumerate((b"\2\0\0\0UL\4\0", b"\x08\0\5\0CS\12\0", b"\x08\0\x08\0\x12\0\0\0")):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "IM0").write_bytes(start + bytes(200))
        for name in ("a.txt", "b", "c"):
            (tmp_path / f"{number}" / name).write_text("notes of the scan")
    assert [path.name for path in find_images([tmp_path])] == ["0", "1", "2"]


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path):
    (tmp_path / "cts").mkdir()
    write_dicom_mark(tmp_path / "archive")
    (tmp_path / "cts" / "linked").symlink_to(tmp_path / "archive")
    (tmp_path / "cts" / "circle").symlink_to(tmp_path / "cts")
    assert find_images([tmp_path / "cts"]) == [tmp_path / "cts" / "linked"]


def test_dicom_folders_without_ct_are_left_out_and_named(tmp_path, caplog):
    for name, kind in (("ct", "2"), ("old", "7"), ("pet", "128"), ("seg", "66.4"), ("structures", "481.3")):
        write_dicom_mark(tmp_path / name, kind)
    assert [path.name for path in find_images([tmp_path])] == ["ct", "old"]
    assert "(no CT in 3 of the DICOM folders: " in caplog.text
    assert [path.name for path in find_images([tmp_path], any_modality=True)] == ["ct", "old", "pet"]
    with pytest.raises(InputError, match=r"holds no images \(no CT in 1 of the DICOM folders: .*seg"):
        find_images([tmp_path / "seg"])


def test_one_folder_without_ct_is_named_too(tmp_path, caplog):
    write_dicom_mark(tmp_path / "ct", "2")
    write_dicom_mark(tmp_path / "pet", "128")
    find_images([tmp_path])
    assert caplog.messages == [
        f"Some folders are left out (no CT in 1 of the DICOM folders: {tmp_path / 'pet'})."
    ]


def test_results_in_the_folder_of_the_images_are_no_images(images, manifest, caplog):
    (images / "b.nii.gz").unlink()
    request = BatchRequest(manifest, output_format=".nii.gz")
    record(Batch([images], images, request), "a", "c")
    for name in ("alone.nii.gz", "alone.labels.csv", "both.nii", "both.nii.gz", "both.labels.csv"):
        (images / name).write_text("label,task,structure\n" if "labels" in name else "")
    names = ["a.nrrd", "both.nii", "both.nii.gz", "c.mha"]
    assert [path.name for path in find_images([images])] == names
    assert [case.name for case in Batch([images / "a.nrrd", images / "c.nii.gz"], images, request).cases] == [
        "a"
    ]
    assert "c.nii.gz is the result of a batch and left out" in caplog.text


@pytest.mark.parametrize("contents", [None, b"case,segmentation\n\xe9,\xe9.nii.gz\n", b"x" * 200_000])
def test_images_beside_any_file_called_summary_are_found(images, contents):
    summary = images / "summary.csv"
    summary.mkdir() if contents is None else summary.write_bytes(contents)
    assert len(find_images([images])) == 3


def test_earlier_results_are_those_of_summary_and_request_that_are_still_there(tmp_path):
    for name in ("a.nrrd", "b.nrrd"):
        (tmp_path / name).touch()
    (tmp_path / "summary.csv").write_text("segmentation\na.nrrd\ngone.nrrd\n")
    request = tmp_path / REQUEST_FILE
    request.write_text(json.dumps({"earlier_results": ["b.nrrd", "c.nrrd"]}))
    assert earlier_results(tmp_path, request) == {"a.nrrd", "b.nrrd"}


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (("a/ct.nii.gz", "a/aorta.nii.gz", "b/ct.nii.gz", "b/c.json", "c/d/x.mha"), "give {}/*/ct.nii.gz."),
        (("imagesTr/1.nii.gz", "imagesTr/2.nii.gz", "labelsTr/1.nii.gz"), "such as {}/imagesTr."),
        (("a/labels.csv", "a/liver.nii.gz", "b/x.nrrd.txt"), "give a folder with DICOM series, or"),
        (("a/labels.csv", "a/liver.nii.gz", "b/c/ct.nii.gz"), "give {}/*/*/ct.nii.gz"),
    ],
)
def test_images_one_level_deeper_are_pointed_out(tmp_path, files, advice):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(TABLE if name.endswith(".csv") else bytes(9 if "ct" in name else 1))
    with pytest.raises(InputError, match=re.escape(advice.format(tmp_path))):
        find_images([tmp_path])


def test_images_in_subfolders_that_are_left_out_are_told_of(tmp_path, caplog):
    for name in ("a.nii.gz", "more/b.nii.gz", "more/c.nii.gz", "labels/a.nii.gz", "found/liver.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "found" / "labels.csv").write_bytes(TABLE)
    assert [path.name for path in find_images([tmp_path])] == ["a.nii.gz"]
    (message,) = caplog.messages
    assert message.startswith("In subfolders 2 image files are left out: ")
    assert message.endswith(f"give folders such as {tmp_path / 'more'}.")


def test_an_image_beside_a_table_of_something_else_is_an_image(tmp_path):
    (tmp_path / "P1.nii.gz").touch()
    (tmp_path / "P1.labels.csv").write_text("patient,label\nP1,benign\n")
    assert [path.name for path in find_images([tmp_path])] == ["P1.nii.gz"]


def test_a_batch_does_not_replace_a_table_of_something_else(images, manifest, tmp_path):
    table = tmp_path / "out" / "a.labels.csv"
    table.parent.mkdir()
    table.write_text("patient,label\n")
    request = BatchRequest(manifest, output_format=".nii.gz")
    with pytest.raises(InputError, match=r"no batch has written.*a\.labels\.csv"):
        Batch([images], table.parent, request)
    table.write_bytes(TABLE)
    assert Batch([images], table.parent, request).left


def test_names_of_cases_hold_no_dots_for_the_folder_above(images, monkeypatch, manifest, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    given = f"../{images.relative_to(tmp_path)}/a.nrrd"
    (case,) = Batch([given, images / "a.nrrd"], tmp_path / "out", BatchRequest(manifest)).cases
    assert (case.name, case.image) == ("a", images / "a.nrrd")


def test_images_that_have_changed_since_are_named(images, manifest, tmp_path, caplog):
    record(Batch([images], tmp_path / "out", BatchRequest(manifest)), "a", "b")
    written = (tmp_path / "out" / "a.seg.nrrd").stat().st_mtime
    os.utime(images / "a.nrrd", (written + 9, written + 9))
    left = Batch([images], tmp_path / "out", BatchRequest(manifest)).left
    assert "a" not in [case.name for case in left]
    (message,) = caplog.messages
    assert message.startswith("Newer than their segmentations, which stay all the same, are the images of a;")


def test_the_order_of_tasks_makes_no_other_batch(manifest, tmp_path, images):
    names = [task.name for task in manifest.tasks]
    assert len(names) > 1
    there, back = (BatchRequest(manifest, tuple(order)) for order in (names, names[::-1]))
    assert there.keys == back.keys
    assert not there.differences(back.to_json())
    older = {**there.to_json(), "segments": there.to_json()["segments"][::-1]}
    assert not there.differences(older)


def test_an_image_given_twice_is_one_case(images):
    assert find_images([images / "b.nii.gz", images, images / "b.nii.gz"])[0] == images / "b.nii.gz"
    assert len(find_images([images, images])) == 3


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "No images were given"),
        (["nowhere.nii.gz"], "There is no file or folder"),
        (["."], "no images"),
        ([300 * "a"], r"a cannot be read \(File name too long\); check its permissions"),
    ],
)
def test_inputs_without_images_are_refused(tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
        find_images(given)


def test_names_take_as_many_folders_as_tell_the_images_apart(tmp_path):
    images = [
        tmp_path / name
        for name in ("x/s1/ct.nii.gz", "x/s2/ct.nii.gz", "y/s2/ct.nii.gz", "z.nrrd", "z.mha", "w.mha")
    ]
    assert case_names(images) == ["s1_ct", "x_s2_ct", "y_s2_ct", "z.nrrd", "z.mha", "w"]


def test_names_that_differ_in_case_only_are_numbered(tmp_path):
    images = [tmp_path / name for name in ("Case.nii.gz", "case.nii.gz", "A/x.mha", "a/X.mha", "b/y.mha")]
    assert case_names(images) == ["Case", "case_2", "x", "X_2", "y"]
    with pytest.raises(InputError, match="2 images would all be called case_2"):
        case_names([*images, tmp_path / "CASE_2.mha"])


@pytest.mark.parametrize("name", ["summary.csv", REQUEST_FILE])
def test_a_summary_that_is_open_elsewhere_is_written_with_the_next_case(
    images, manifest, tmp_path, monkeypatch, caplog, name
):
    out, replace, locked = tmp_path / "out", os.replace, []

    def refuse(source, target):
        if locked and str(target).endswith(name):
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("PartialSegLib.files.output_files._PATIENCE_SECONDS", 0)
    record(Batch([images], out, BatchRequest(manifest, tasks=("liver",))), "a", "c")
    batch = Batch([images], out, BatchRequest(manifest, tasks=("spleen",)), overwrite=True)
    locked.append(True)
    record(batch, "a", "b")
    assert caplog.text.count("Access is denied") == 1
    with pytest.raises(InputError, match="2 finished cases are not in the summary"):
        batch.finish()
    locked.clear()
    record(batch, "c", error="bad")
    batch.finish()
    assert [row["case"] for row in rows_of(batch)] == ["a", "b", "c"]
    assert [case.name for case in Batch([images], out, batch.request).left] == ["c"]


def test_a_cancelled_case_is_not_written_down_once_the_summary_is_closed(
    images, manifest, tmp_path, monkeypatch
):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    record(batch, "a")
    with monkeypatch.context() as patch:
        patch.setattr("PartialSegLib.batch.running.write_rows", refuse_to_write)
        batch.begin(batch.cases[1])
        batch.withdraw(batch.cases[1])
    batch.finish()
    assert [row["case"] for row in rows_of(batch)] == ["a"]


def test_a_folder_that_cannot_be_written_to_is_told_at_once(images, manifest, tmp_path, monkeypatch):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    record(batch, "a")
    with monkeypatch.context() as patch:
        patch.setattr("PartialSegLib.batch.running.write_rows", refuse_to_write)
        patch.setattr(os, "access", lambda *arguments: False)
        with pytest.raises(InputError, match="open elsewhere"):
            batch.begin(batch.cases[1])
    batch.finish()
    assert [row["case"] for row in rows_of(batch)] == ["a"]


def test_results_that_a_new_batch_does_not_replace_are_named(images, manifest, tmp_path, caplog):
    record(Batch([images], tmp_path / "out", BatchRequest(manifest)), "a", "b", "c")
    Batch([images / "b.nii.gz"], tmp_path / "out", BatchRequest(manifest), overwrite=True)
    assert re.search(r"2 results of the earlier batch stay in .*out, a\.seg\.nrrd first", caplog.text)


@pytest.mark.parametrize("output_format", [".seg.nrrd", ".nii.gz", "folder"])
def test_files_that_no_batch_has_written_are_replaced_only_when_told_so(
    images, manifest, tmp_path, output_format
):
    request = BatchRequest(manifest, output_format=output_format)
    out = tmp_path / "labelsTr"
    theirs = out / "a" / "liver.nii.gz" if output_format == "folder" else out / f"a{output_format}"
    theirs.parent.mkdir(parents=True)
    (out / "b").mkdir(exist_ok=True)  # an empty folder is nobody's
    theirs.write_text("made by hand")
    with pytest.raises(InputError, match=r"no batch has written .* replace: a.*; choose another folder"):
        Batch([images], out, request)
    assert Batch([images / "b.nii.gz"], out, request).left
    assert len(Batch([images], out, request, overwrite=True).left) == 3


def test_a_stopped_batch_that_began_anew_goes_on_over_the_earlier_results(images, manifest, tmp_path, caplog):
    out = tmp_path / "out"
    record(Batch([images], out, BatchRequest(manifest, tasks=("liver",))), "a", "b", "c")
    request = BatchRequest(manifest, tasks=("spleen",))
    anew = Batch([images], out, request, overwrite=True)
    record(anew, "a")
    anew.record(anew.cases[1], Outcome(1.0, error="bad"))
    anew.finish()
    assert "stay where cases failed or were not reached: b.seg.nrrd, c.seg.nrrd." in caplog.text
    again = Batch([images], out, request)
    assert [case.name for case in again.left] == ["b", "c"]
    caplog.clear()
    record(again, "b", "c")
    again.finish()
    assert not caplog.text


def test_a_first_run_that_was_killed_before_its_request_was_written_is_begun_again(
    images, manifest, tmp_path
):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    batch.begin(batch.cases[0])
    (tmp_path / "out" / REQUEST_FILE).unlink()
    assert len(Batch([images], tmp_path / "out", BatchRequest(manifest)).left) == 3


def test_a_failed_case_without_an_earlier_result_is_not_said_to_have_one(images, manifest, tmp_path, caplog):
    batch = Batch([images / "a.nrrd"], tmp_path / "out", BatchRequest(manifest))
    batch.record(batch.cases[0], Outcome(1.0, error="bad"))
    batch.finish()
    assert not caplog.text


def test_a_cancelled_first_case_leaves_the_earlier_results_known(images, manifest, tmp_path):
    out = tmp_path / "out"
    record(Batch([images], out, BatchRequest(manifest, tasks=("liver",))), "a", "b", "c")
    request = BatchRequest(manifest, tasks=("spleen",))
    anew = Batch([images], out, request, overwrite=True)
    anew.begin(anew.cases[0])
    anew.withdraw(anew.cases[0])
    assert len(Batch([images], out, request).left) == 3


def test_a_stopped_batch_goes_on_and_tries_failures_again(images, manifest, tmp_path):
    request = BatchRequest(manifest, tasks=("liver",))
    batch = Batch([images], tmp_path / "out", request)
    assert [case.name for case in batch.left] == ["a", "b", "c"]
    record(batch, "a", volumes_ml={("liver", "liver"): 1500.0, ("liver", "liver_tumor"): 0.0})
    record(batch, "b", error="The file is empty; copy it again.")
    again = Batch([images], tmp_path / "out", request)
    assert [case.name for case in again.left] == ["b", "c"]
    assert again.failed == {"b": "The file is empty; copy it again."}
    record(again, "b")
    first, second = rows_of(again)
    assert (first["case"], first["status"], first["liver/liver [ml]"]) == ("a", "done", "1500.000")
    assert (first["liver/liver_tumor [ml]"], first["segmentation"]) == ("0.000", "a.seg.nrrd")
    assert (second["case"], second["status"], second["message"]) == ("b", "done", "")


def test_a_failed_case_has_its_seconds_but_neither_segmentation_nor_volumes(images, manifest, tmp_path):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest, tasks=("liver",)))
    record(batch, "a", error="The file is empty; copy it again.")
    (row,) = rows_of(batch)
    assert (row["seconds"], row["segmentation"], row["liver/liver [ml]"]) == ("1.2", "", "")


@pytest.mark.skipif(os.name == "nt", reason="simulates Windows")
def test_a_batch_goes_on_on_windows_where_a_path_is_spelt_otherwise(images, manifest, tmp_path, monkeypatch):
    """As C: in Slicer and c: on some terminals."""
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    record(batch, "a", "b")
    spelt = batch.summary.read_text(encoding="utf-8").replace(str(images), str(images).upper())
    batch.summary.write_text(spelt, encoding="utf-8")
    assert len(Batch([images], tmp_path / "out", BatchRequest(manifest)).left) == 3
    monkeypatch.setattr(os.path, "normcase", ntpath.normcase)
    again = Batch([images], tmp_path / "out", BatchRequest(manifest))
    assert [case.name for case in again.left] == ["c"]


def test_a_batch_goes_on_with_a_summary_that_a_spreadsheet_has_saved(images, manifest, tmp_path):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    record(batch, "a")
    header, row = batch.summary.read_text(encoding="utf-8").splitlines()
    batch.summary.write_text(f"{header},notes\n{row},looks fine\n", encoding="utf-8-sig")
    again = Batch([images], tmp_path / "out", BatchRequest(manifest))
    record(again, "b")
    assert [row["case"] for row in rows_of(again)] == ["a", "b"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode there")
def test_names_that_are_no_unicode_are_kept_in_the_summary(images, manifest, tmp_path):
    image = images / os.fsdecode(b"\xe9.nii.gz")
    image.touch()
    batch = Batch([image], tmp_path / "out", BatchRequest(manifest))
    record(batch, os.fsdecode(b"\xe9"))
    assert not Batch([image], tmp_path / "out", BatchRequest(manifest)).left


def test_a_segmentation_that_was_deleted_is_made_again(images, manifest, tmp_path):
    request = BatchRequest(manifest)
    batch = Batch([images], tmp_path / "out", request)
    record(batch, "a", "b")
    (tmp_path / "out" / "b.seg.nrrd").unlink()
    assert [case.name for case in Batch([images], tmp_path / "out", request).left] == ["b", "c"]


def test_a_folder_with_another_request_is_refused_unless_overwritten(images, manifest, tmp_path):
    record(Batch([images], tmp_path / "out", BatchRequest(manifest, tasks=("liver",))), "a")
    other = BatchRequest(manifest, tasks=("spleen",))
    with pytest.raises(InputError, match=r"another batch \(other structures; see .* \(--overwrite\)"):
        Batch([images], tmp_path / "out", other)
    batch = Batch([images], tmp_path / "out", other, overwrite=True)
    assert len(batch.left) == 3
    record(batch, "a")
    assert json.loads((tmp_path / "out" / REQUEST_FILE).read_text())["segments"] == [["spleen", "spleen"]]


def test_runs_that_share_a_folder_keep_each_others_rows(images, manifest, tmp_path):
    request, out = BatchRequest(manifest, tasks=("liver",)), tmp_path / "out"
    record(Batch([images], out, request), "c")
    runs = [Batch([images / name], out, request, overwrite=True) for name in ("a.nrrd", "b.nii.gz")]
    for run, name in zip(runs, "ab", strict=True):
        record(run, name)
    assert [row["case"] for row in rows_of(runs[0])] == ["a", "b"]
    record(Batch([images / "c.mha"], out, BatchRequest(manifest, tasks=("spleen",)), overwrite=True), "c")
    with pytest.raises(InputError, match="another batch"):
        record(runs[0], "a")


def test_what_another_run_made_good_stays_done(images, manifest, tmp_path):
    request, out = BatchRequest(manifest), tmp_path / "out"
    first = Batch([images], out, request)
    record(first, "a", error="The file is empty; copy it again.")
    second = Batch([images], out, request)
    record(first, "a")
    record(second, "b")
    assert [row["status"] for row in rows_of(second)] == ["done", "done"]


def test_a_name_that_another_image_has_is_refused(images, manifest, tmp_path):
    request, out = BatchRequest(manifest, tasks=("liver",)), tmp_path / "out"
    other = tmp_path / "other" / "A.mha"
    other.parent.mkdir()
    other.touch()
    runs = [Batch([path], out, request) for path in (images / "a.nrrd", other)]
    runs[0].begin(runs[0].cases[0])
    for step in (lambda: Batch([other], out, request), lambda: runs[1].begin(runs[1].cases[0])):
        with pytest.raises(InputError, match=r"The case A in .*a\.nrrd, and .*A\.mha would replace it; give"):
            step()
    record(runs[0], "a")
    with pytest.raises(InputError, match="would replace it"):
        record(runs[1], "A")
    assert [(row["case"], row["status"]) for row in rows_of(runs[0])] == [("a", "done")]
    (tmp_path / "link").symlink_to(images)
    assert Batch([tmp_path / "link" / "a.nrrd"], out, request).left
    assert Batch([other], out, request, overwrite=True).left
    (images / "a.nrrd").rename(other.parent / "a.nrrd")
    assert Batch([other.parent / "a.nrrd"], out, request).left


def test_what_came_to_nothing_is_not_written_down(images, manifest, tmp_path):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest, tasks=("liver",)))
    batch.begin(batch.cases[0])
    batch.withdraw(batch.cases[0])
    batch.withdraw(batch.cases[0])
    assert list(batch.folder.iterdir()) == []
    other = Batch([images], tmp_path / "out", BatchRequest(manifest, tasks=("spleen",)))
    record(other, "a")
    other.withdraw(other.cases[0])  # is done
    other.begin(other.cases[1])
    other.withdraw(other.cases[1])
    assert [(row["case"], row["status"]) for row in rows_of(other)] == [("a", "done")]


def test_what_another_run_has_begun_is_not_withdrawn(images, manifest, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.mha").touch()
    request = BatchRequest(manifest)
    runs = [Batch([path], tmp_path / "out", request) for path in (images / "a.nrrd", tmp_path / "other")]
    runs[0].begin(runs[0].cases[0])
    runs[1].withdraw(runs[1].cases[0])
    assert [row["image"] for row in rows_of(runs[0])] == [str(images / "a.nrrd")]


def test_a_summary_that_was_damaged_meanwhile_is_written_again(images, manifest, tmp_path):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    record(batch, "a")
    batch.summary.write_text("case;image\na;b\n")
    record(batch, "b")
    assert [row["case"] for row in rows_of(batch)] == ["a", "b"]


@pytest.mark.parametrize("name", ["summary.csv", REQUEST_FILE])
def test_a_file_of_the_batch_that_was_deleted_meanwhile_is_written_again(images, manifest, tmp_path, name):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    record(batch, "a")
    (tmp_path / "out" / name).unlink()
    record(batch, "b")
    assert [case.name for case in Batch([images], tmp_path / "out", batch.request).left] == ["c"]


def test_processes_that_record_at_once_lose_no_row(images, manifest, package, tmp_path):
    code = (
        "import sys; from PartialSegLib.batch.running import *\n"
        "from PartialSegLib.manifest import read_manifest\n"
        "batch = Batch([sys.argv[1]], sys.argv[2], BatchRequest(read_manifest(sys.argv[3])))\n"
        "for number in range(40):\n"
        "    batch.record(BatchCase(f'{sys.argv[4]}{number}', Path('x'), Path('x')), Outcome(1))"
    )
    arguments = [sys.executable, "-c", code, images, tmp_path / "out", package]
    runs = [subprocess.Popen(list(map(str, [*arguments, name]))) for name in "xy"]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(rows_of(Batch([images], tmp_path / "out", BatchRequest(read_manifest(package))))) == 80
    assert sorted(os.listdir(tmp_path / "out")) == ["batch.json", "summary.csv"]


def test_tables_of_others_are_not_replaced(images, manifest, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.csv").write_text("patient,age\n1,70\n")
    with pytest.raises(InputError, match=r"holds files that no batch has written .*summary\.csv"):
        Batch([images], out, BatchRequest(manifest))
    (out / "summary.csv").unlink()
    record(Batch([images], out, BatchRequest(manifest)), "a")
    (out / "summary.csv").write_text("case,structure,dice\na,liver,1\n")
    with pytest.raises(InputError, match=r"cannot be read .it has no column"):
        Batch([images], out, BatchRequest(manifest))


def test_a_table_with_some_columns_of_a_summary_is_not_replaced(images, manifest, tmp_path):
    (tmp_path / "summary.csv").write_text("case,image,dice\n")
    with pytest.raises(InputError, match=r"holds files that no batch has written .*summary\.csv"):
        Batch([images], tmp_path, BatchRequest(manifest))


def test_a_summary_of_the_same_size_is_another_version(tmp_path):
    file, other = tmp_path / "summary.csv", tmp_path / "other.csv"
    file.write_text("a")
    before = version_of(file)
    other.write_text("b")
    other.replace(file)
    assert before != version_of(file)


def test_the_lock_of_a_killed_run_is_taken_away(images, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("PartialSegLib.files.output_files._STALE_SECONDS", 0.1)
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_FILE).touch()
    record(batch, "a")
    assert len(rows_of(batch)) == 1


OPTIONS = {"overlap": None, "mirror": False, "selection": "auto", "skip_air": False, "engine": "auto"}


def test_settings_name_the_coarse_model_by_its_weights(package):
    options = {**OPTIONS, "region_from": str(package), "effort": 0.5, "device": "cpu", "output": "out"}
    settings = settings_of(options)
    assert settings["region_from"]["model"] == "tiny"
    assert settings["region_from"]["effort"] == 0.5
    assert settings == settings_of({**options, "region_from": f"{package}/", "device": "cuda"})
    assert settings != settings_of({**options, "effort": None})
    write_package(package, version="2.0.0")
    assert settings != settings_of(options)


def test_an_effort_that_is_not_given_is_the_highest(package):
    options = {**OPTIONS, "region_from": str(package)}
    assert settings_of({**options, "effort": None}) == settings_of({**options, "effort": 1.0})


def test_without_a_coarse_model_its_effort_means_nothing():
    settings = settings_of({**OPTIONS, "region_from": None, "effort": None})
    assert settings == settings_of({**OPTIONS, "region_from": None, "effort": 1.0})
    assert settings == {**OPTIONS, "region_from": None}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"overlap": 0.5}, []),
        ({"overlap": 0.25, "skip_air": True}, ["overlap", "skip_air"]),
        ({"engine": "torch"}, ["engine"]),
        ({"region_from": {"model": "tiny", "effort": 1.0}}, ["region_from"]),
    ],
)
def test_settings_that_differ_are_named(manifest, change, names):
    earlier = BatchRequest(manifest, settings={**OPTIONS, "region_from": None}).to_json()
    assert manifest.inference.overlap == 0.5
    request = BatchRequest(manifest, settings={**OPTIONS, "region_from": None, **change})
    assert request.differences(earlier) == names
    assert request.differences(earlier | {"weights_sha256": "0", "output_format": "x"}) == [
        "model", "format", *names,
    ]  # fmt: skip


def test_what_several_fields_say_is_named_once(manifest):
    request = BatchRequest(manifest)
    earlier = request.to_json() | {"model_version": "0", "weights_sha256": "0"}
    assert request.differences(earlier) == ["model"]


def test_a_setting_that_only_the_earlier_batch_had_is_named(manifest):
    request = BatchRequest(manifest)
    assert request.differences(request.to_json() | {"settings": {"sharpen": True}}) == ["sharpen"]


def test_without_openvino_the_engine_auto_is_torch(manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    requests = [BatchRequest(manifest, settings={**OPTIONS, "engine": one}) for one in ("auto", "torch")]
    assert requests[0].differences(requests[1].to_json()) == []


def test_a_damaged_summary_is_refused(images, manifest, tmp_path):
    batch = Batch([images], tmp_path / "out", BatchRequest(manifest))
    record(batch, "a")
    for damaged in ("{", "null", '{"settings": 1}'):
        (tmp_path / "out" / REQUEST_FILE).write_text(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            Batch([images], tmp_path / "out", BatchRequest(manifest))


def test_outputs_never_replace_inputs(images, manifest):
    request = BatchRequest(manifest, output_format=".nii.gz")
    with pytest.raises(InputError, match=re.escape("b.nii.gz; choose another output folder")):
        Batch([images], images, request)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tasks": ("livre",)}, "Unknown task 'livre'"),
        ({"structures": ("brain",)}, "No chosen task yields 'brain'"),
        ({"structures": ()}, "No structure is chosen"),
        ({"output_format": ".stl"}, "Unknown output format '.stl'"),
    ],
)
def test_wrong_requests_are_refused(manifest, options, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        BatchRequest(manifest, **options)


def test_dicom_is_refused_before_the_work_where_highdicom_is_missing(manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match="need highdicom"):
        BatchRequest(manifest, output_format=".dcm")


def test_files_without_dicom_get_no_dicom_segmentations(images, manifest, tmp_path):
    write_dicom_mark(images / "series")
    request = BatchRequest(manifest, output_format=".dcm")
    with pytest.raises(InputError, match=r"choose another format, or leave out .*a\.nrrd, .*b\.nii\.gz"):
        Batch([images], tmp_path / "out", request)
    assert len(Batch([images / "series"], tmp_path / "out", request).left) == 1
