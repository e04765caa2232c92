"""The worker as a real process: lines go in, lines come out."""

import contextlib
import io
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import full_disk
from tiny_model import write_tiny_model

from PartialSegLib import InferenceSession, InputError, Volume, __version__, load_model, write_volume
from PartialSegLib.failures import describe_failure
from PartialSegLib.inference.region_selection import CoarsePass
from PartialSegLib.manifest import Preprocessing, Task
from PartialSegLib.protocol import LINE_LIMIT
from PartialSegLib.worker.scratch import ScratchFolder
from PartialSegLib.worker.wire import Replies, read_lines

ROOT = Path(__file__).parents[2]
TIMEOUT = 120  # seconds until a test gives up; never waited for when all is well
PLAIN = ("-m", "PartialSegLib.worker")
TROUBLED = (str(Path(__file__).with_name("troubled_worker.py")),)
PATCHES = 8
TASKS = (Task("liver", {"liver": 0, "liver_tumor": 1}), Task("kidney", {"kidney": 0, "kidney_tumor": 1}))
STRUCTURES = {task.name: list(task.structures) for task in TASKS}
AFFINE = [[0, 0, -4.0, 50], [0, -4, 0, -10], [4, 0, 0, 100], [0, 0, 0, 1]]
OPTIONS = {"device": "cpu", "precision": "float32"}


class RunningWorker:
    """A worker process with a scratch folder whose name has a space and letters beyond ASCII."""

    def __init__(self, folder, *program):
        self.scratch = folder / "Zwischen ablage é 肝"
        self.scratch.mkdir(parents=True)
        self._log = folder / "log"
        self._last_id = 0
        self._lines = queue.SimpleQueue()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "--scratch", str(self.scratch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    @property
    def log(self):
        return self._log.read_text(encoding="utf-8")

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, method, **params):
        """Send a request and return its number."""
        self._last_id += 1
        self.write(json.dumps({"id": self._last_id, "method": method, "params": params}).encode() + b"\n")
        return self._last_id

    def cancel(self):
        self.write(b'{"method": "cancel"}\n')

    def receive(self):
        line = self._lines.get(timeout=TIMEOUT)
        assert line is not None, self.log
        assert line.isascii()
        return json.loads(line)

    def reply(self, id, messages=None):
        """The reply to a request; what comes before it is added to the messages."""
        while True:
            message = self.receive()
            assert message["id"] == id, message
            if "result" in message or "error" in message:
                return message
            if messages is not None:
                messages.append(message)

    def result(self, method, messages=None, **params):
        reply = self.reply(self.send(method, **params), messages)
        assert "result" in reply, f"{reply}\n{self.log}"
        return reply["result"]

    def error(self, method, messages=None, **params):
        reply = self.reply(self.send(method, **params), messages)
        assert "error" in reply, reply
        return reply["error"]

    def prepare(self, package, array, affine=AFFINE, **options):
        """Load a model and send an image."""
        self.result("load_model", path=str(package), **{**OPTIONS, **options})
        name = f"image-{self._last_id + 1}.npy"
        np.save(self.scratch / name, array)
        return self.result("set_image", array=name, affine=affine)

    def masks(self, result):
        """Read and delete the masks of a prediction, as the client does."""
        masks = {}
        for segment in result["segments"]:
            path = self.scratch / segment["array"]
            mask = np.load(path, allow_pickle=False)
            path.unlink()
            assert mask.dtype == np.uint8
            assert list(mask.shape) == [stop - start for start, stop in segment["box"]]
            assert mask.sum() == np.count_nonzero(mask) == segment["voxels"]
            masks[segment["task"], segment["structure"]] = segment["box"], mask.view(bool)
        return masks

    def ends(self):
        """Wait for the end of the process and return its exit code."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def close(self):
        self.process.kill()
        self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        self.process.stdout.close()
        with contextlib.suppress(OSError):
            self.process.stdin.close()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts workers, and kills them in the end."""
    started = []

    def start(*program):
        worker = RunningWorker(tmp_path_factory.mktemp("worker"), *program)
        started.append(worker)
        worker.write(b"\n")  # no request, but the worker hears us
        assert worker.receive()["ready"] == {"version": __version__, "pid": worker.process.pid}
        assert "not JSON" in worker.receive()["error"]["message"]
        return worker

    yield start
    for worker in started:
        worker.close()


@pytest.fixture(scope="module")
def worker(start):
    return start(*PLAIN)


@pytest.fixture(scope="module")
def troubles(tmp_path_factory):
    return tmp_path_factory.mktemp("troubles")


@pytest.fixture(scope="module")
def started_troubled(start, troubles):
    return start(*TROUBLED, str(troubles))


@pytest.fixture
def troubled(started_troubled, troubles):
    """The worker in trouble, without any at first."""
    for file in troubles.iterdir():
        file.unlink()
    return started_troubled


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("Modelle é") / "tiny 肝"
    return write_tiny_model(folder, TASKS, Preprocessing("SPL", (4, 4, 4), (-325, 325), divide=325), gain=20)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """A model on a grid of 8 mm."""
    preprocessing = Preprocessing("SPL", (8, 8, 8), (-325, 325), divide=325)
    return write_tiny_model(tmp_path_factory.mktemp("Modelle") / "coarse", TASKS, preprocessing, gain=20)


@pytest.fixture(scope="module")
def array():
    """20 x 21 x 24 voxels of the network's size: 8 patches."""
    coarse = torch.from_numpy(np.random.default_rng(0).normal(0, 250, (1, 1, 7, 8, 9)))
    smooth = torch.nn.functional.interpolate(coarse, (20, 21, 24), mode="trilinear")[0, 0]
    return smooth.numpy().astype(np.int16)


@pytest.fixture(scope="module")
def session(package, array):
    session = InferenceSession(load_model(package), **OPTIONS)
    session.set_image(Volume(array, np.array(AFFINE)))
    return session


@pytest.fixture(scope="module")
def reference(session):
    return session.predict()


def assert_same(masks, reference):
    assert list(masks) == list(reference)
    for key, (box, mask) in masks.items():
        expected_box, expected = reference.cropped(key)
        assert box == [[part.start, part.stop] for part in expected_box]
        np.testing.assert_array_equal(mask, expected)


# --- What a client asks for


def test_masks_are_those_of_a_session_in_this_process(worker, package, array, reference):
    loaded = worker.result("load_model", path=str(package), **OPTIONS)
    sha256 = load_model(package).sha256
    model = {"name": "tiny", "version": "1.2.3", "sha256": sha256, "tasks": STRUCTURES}
    assert loaded == {**model, **OPTIONS, "keeps_image": loaded["keeps_image"]}
    before = set(worker.scratch.iterdir())  # of other tests
    np.save(worker.scratch / "first.npy", array)
    image = worker.result("set_image", array="first.npy", affine=AFFINE, crop_to_body=False)
    assert image["patches"] == PATCHES
    assert image["timings"]["preprocess"] > 0

    result = worker.result("predict", tasks=None)

    assert_same(worker.masks(result), reference)
    assert result["provenance"] == reference.provenance
    assert not [path for path in set(worker.scratch.glob("mask-*")) - before]


def test_a_second_task_encodes_nothing(worker, package, array):
    worker.prepare(package, array)
    first, second = (worker.result("predict", tasks=[task]) for task in ("liver", "kidney"))
    assert (first["patches_encoded"], second["patches_encoded"]) == (PATCHES, 0)
    assert first["timings"]["encode"] > 0
    assert second["timings"]["encode"] == 0
    assert [segment["structure"] for segment in second["segments"]] == STRUCTURES["kidney"]


def test_progress_counts_patches(worker, package, array):
    worker.prepare(package, array)
    messages = []
    worker.result("predict", messages, tasks=["liver"])
    assert [message["progress"] for message in messages] == [
        [done, PATCHES] for done in range(1, PATCHES + 1)
    ]


def test_structures_and_region_are_chosen(worker, package, array, session):
    worker.prepare(package, array)
    roi = [30, 40, -50, -20, 110, 130]
    result = worker.result("predict", tasks=["kidney"], structures=["kidney"], roi=roi)
    assert_same(worker.masks(result), session.predict("kidney", structures="kidney", roi=roi))
    assert result["provenance"]["roi"] == [[30, 40], [-50, -20], [110, 130]]


def test_structures_of_which_nothing_was_found_are_listed(worker, package, array, reference):
    worker.prepare(package, array)
    index = np.argwhere(~reference["kidney"])[0]
    x, y, z = (np.array(AFFINE) @ [*index, 1])[:3]
    roi = [x - 1, x + 1, y - 1, y + 1, z - 1, z + 1]
    found = worker.masks(worker.result("predict", tasks=None, roi=roi))
    assert list(found) == list(reference)
    box, mask = found["kidney", "kidney"]
    assert (box, mask.shape) == ([[0, 0]] * 3, (0, 0, 0))


def test_images_may_be_of_any_number_type_and_order(worker, package, array, reference):
    for variant in (np.asfortranarray(array), array.astype(np.float64), array.astype(">i2")):
        worker.prepare(package, variant)
        assert_same(worker.masks(worker.result("predict", tasks=None)), reference)


def test_the_same_model_again_keeps_image_and_features(worker, package, array):
    worker.prepare(package, array)
    worker.result("predict", tasks=["liver"])
    other_spelling = str(package.parent / "." / package.name) + os.sep
    assert worker.result("load_model", path=other_spelling, **OPTIONS)["keeps_image"]
    assert worker.result("predict", tasks=["kidney"])["patches_encoded"] == 0


def test_other_options_replace_the_session_and_drop_the_image(worker, package, array):
    worker.prepare(package, array)
    loaded = worker.result("load_model", path=str(package), device="cpu", overlap=0.0)
    assert (loaded["device"], loaded["keeps_image"]) == ("cpu", False)
    assert "no image" in worker.error("predict", tasks=["liver"])["message"]
    assert not list(worker.scratch.glob("image-*"))


def test_a_package_that_was_replaced_is_loaded_again(worker, package, array, tmp_path):
    copy = shutil.copytree(package, tmp_path / "tiny")
    worker.prepare(copy, array)
    manifest = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    (copy / "model.json").write_text(json.dumps({**manifest, "version": "2.0.0"}), encoding="utf-8")
    assert worker.result("load_model", path=str(copy), **OPTIONS)["version"] == "2.0.0"


def test_an_image_is_deleted_when_another_takes_its_place(worker, package, array):
    worker.prepare(package, array)
    worker.prepare(package, array)
    assert len(list(worker.scratch.glob("image-*"))) == 1
    (name,) = (path.name for path in worker.scratch.glob("image-*"))
    np.save(worker.scratch / "other.npy", array)
    os.replace(worker.scratch / "other.npy", worker.scratch / name)  # the same name once more
    worker.result("set_image", array=name, affine=AFFINE)
    worker.result("predict", tasks=["liver"])


def test_requests_are_answered_one_after_the_other(worker, package, array):
    worker.prepare(package, array)
    numbers = [worker.send("predict", tasks=[task]) for task in ("liver", "kidney", "liver")]
    encoded = [worker.reply(number)["result"]["patches_encoded"] for number in numbers]
    assert encoded == [PATCHES, 0, 0]


def test_a_request_is_a_line_in_the_log(worker, package, array):
    worker.prepare(package, array - array.min())  # no CT in HU; the panel has asked
    number = worker.send("predict", tasks=["liver"])
    worker.reply(number)
    refused = worker.send("predict", tasks=["Läber"])
    worker.reply(refused)
    assert len(re.findall(rf"(?m)^.*predict {number}, [\d.]+ s: done$", worker.log)) == 1
    assert len(re.findall(rf"(?m)^.*predict {refused}, .* 'Läber' .*$", worker.log)) == 1
    assert not re.search("Traceback|Warning|may be wrong", worker.log)


# --- What may be left out


def leaving_out(coarse, **options):
    return {"skip_air": True, "region_from": str(coarse), "effort": 0.3, "engine": "torch", **options}


def test_what_is_left_out_is_what_a_session_leaves_out(worker, package, coarse, array):
    airy = np.where(np.arange(array.shape[2]) < 8, -1000, array)
    worker.prepare(package, airy, **leaving_out(coarse))
    result = worker.result("predict", tasks=None)
    region_from = CoarsePass(load_model(coarse), effort=0.3)
    session = InferenceSession(
        load_model(package), **OPTIONS, skip_air=True, region_from=region_from, engine="torch"
    )
    session.set_image(Volume(airy, np.array(AFFINE)))
    expected = session.predict()
    assert_same(worker.masks(result), expected)
    assert result["provenance"] == expected.provenance
    assert 0 < result["patches_encoded"] < PATCHES
    assert result["provenance"]["selection"]["skip_air"]
    assert result["provenance"]["selection"]["region_from"]["effort"] == 0.3


def test_another_effort_keeps_image_and_features(worker, package, coarse, array):
    worker.prepare(package, array, **leaving_out(coarse))
    results = {
        effort: worker.result("predict", tasks=["liver"], effort=effort) for effort in (0, None, 1, 0.3)
    }
    encoded = [result["patches_encoded"] for result in results.values()]
    assert encoded[0] == encoded[3] == 0
    assert 0 < encoded[1] < encoded[1] + encoded[2] <= PATCHES
    masks = {effort: worker.masks(result) for effort, result in results.items()}
    for key, (box, mask) in masks[None].items():
        assert box == masks[0.3][key][0]
        np.testing.assert_array_equal(mask, masks[0.3][key][1])


def test_the_coarse_model_is_kept_until_it_is_replaced_or_left_out(worker, package, coarse, array, tmp_path):
    copy = shutil.copytree(coarse, tmp_path / "coarse")
    worker.prepare(package, array, **leaving_out(copy))
    worker.result("predict", tasks=["liver"])
    other_spelling = str(tmp_path / "." / "coarse") + os.sep
    worker.result("load_model", path=str(package), **{**OPTIONS, **leaving_out(other_spelling)})
    assert worker.result("predict", tasks=["liver"])["patches_encoded"] == 0
    manifest = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    (copy / "model.json").write_text(json.dumps({**manifest, "version": "2.0.0"}), encoding="utf-8")
    worker.prepare(package, array, **leaving_out(copy))
    region_from = worker.result("predict", tasks=["liver"])["provenance"]["selection"]["region_from"]
    assert region_from["model_version"] == "2.0.0"
    worker.prepare(package, array, **leaving_out(copy, region_from=None))
    assert worker.result("predict", tasks=["liver"])["provenance"]["selection"]["region_from"] is None


# --- What cannot be done


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"junk\n", "not JSON"),
        (b"\n", "not JSON"),
        (b"[1]\n", "no JSON object"),
        (b'{"id": "x"}\n', "id: expected a whole number"),
        (b"x" * (3 * LINE_LIMIT) + b"\n", f"longer than {LINE_LIMIT} bytes"),
    ],
)
def test_junk_is_answered_and_the_worker_goes_on(worker, package, line, sentence):
    worker.write(line)
    message = worker.receive()
    assert message["id"] is None
    assert message["error"]["type"] == "ProtocolError"
    assert sentence in message["error"]["message"]
    worker.result("load_model", path=str(package), **OPTIONS)


@pytest.mark.parametrize(
    ("method", "params", "kind", "sentence"),
    [
        ("predct", {}, "ProtocolError", "perhaps you meant predict"),
        ("predict", {}, "ProtocolError", "params.tasks: missing"),
        ("predict", {"tasks": ["livr"]}, "InputError", "perhaps you meant liver"),
        ("predict", {"tasks": ["liver"], "structures": ["kidney"]}, "InputError", "No chosen task yields"),
        ("predict", {"tasks": ["liver"], "roi": [9000, 9001, 0, 1, 0, 1]}, "InputError", "outside the image"),
        ("set_image", {"array": "../a.npy", "affine": AFFINE}, "ProtocolError", "bare name"),
        ("set_image", {"array": "a\\b.npy", "affine": AFFINE}, "ProtocolError", "bare name"),
        ("set_image", {"array": "a.npy"}, "ProtocolError", "params.affine: missing"),
        ("load_model", {"path": "no such model"}, "InputError", "Unknown model 'no such model'"),
        ("load_model", {"path": "tiny\0"}, "InputError", "Unknown model"),
        ("load_model", {"path": "PACKAGE", "device": "gpu"}, "InputError", "Unknown device 'gpu'"),
        ("load_model", {"path": "PACKAGE", "device": "cuda:999"}, "DeviceError", "does not work"),
        ("load_model", {"path": "PACKAGE", "precision": "int8"}, "InputError", "Unknown precision"),
        ("load_model", {"path": "PACKAGE", "overlap": 1.0}, "InputError", "fraction in"),
        ("load_model", {"path": "PACKAGE", "mirror": True}, "InputError", "no axes to mirror"),
        ("load_model", {"path": "PACKAGE", "engine": "steam"}, "InputError", "Unknown engine 'steam'"),
        ("load_model", {"path": "PACKAGE", "selection": "quick"}, "InputError", "Unknown selection 'quick'"),
        ("load_model", {"path": "PACKAGE", "selection": "fast"}, "InputError", "has no decision network"),
        ("load_model", {"path": "PACKAGE", "region_from": "coarsest"}, "InputError", "Unknown model 'coarse"),
        ("load_model", {"path": "PACKAGE", "effort": 1.5}, "ProtocolError", "effort: expected 0 (fast)"),
        ("predict", {"tasks": None, "effort": -0.5}, "ProtocolError", "effort: expected 0 (fast)"),
    ],
)
def test_after_a_refusal_the_image_need_not_be_sent_again(
    worker, package, array, reference, method, params, kind, sentence
):
    worker.prepare(package, array)
    if params.get("path") == "PACKAGE":
        params = {**params, "path": str(package)}
    error = worker.error(method, **params)
    assert error["type"] == kind
    assert sentence in error["message"]
    assert_same(worker.masks(worker.result("predict", tasks=None)), reference)


def write_truncated(path, array):
    np.save(path, array)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("write", "affine", "kind", "sentence"),
    [
        (lambda path, array: None, AFFINE, "ProtocolError", "no file bad.npy in the scratch folder"),
        (lambda path, array: path.mkdir(), AFFINE, "ProtocolError", "no complete .npy file"),
        (lambda path, array: path.write_bytes(b""), AFFINE, "ProtocolError", "no complete .npy file"),
        (write_truncated, AFFINE, "ProtocolError", "no complete .npy file"),
        (lambda path, array: np.save(path, np.array([{}])), AFFINE, "ProtocolError", "no complete .npy file"),
        (lambda path, array: np.save(path, array[0]), AFFINE, "InputError", "3-D image"),
        (lambda path, array: np.save(path, array), np.zeros((4, 4)).tolist(), "InputError", ""),
        (lambda path, array: np.save(path, array + np.float32("nan")), AFFINE, "InputError", "NaN"),
    ],
)
def test_an_unusable_image_is_refused_and_the_next_one_is_taken(
    worker, package, array, reference, write, affine, kind, sentence
):
    worker.prepare(package, array)
    path = worker.scratch / "bad.npy"
    write(path, array)
    error = worker.error("set_image", array="bad.npy", affine=affine)
    assert error["type"] == kind
    assert sentence in error["message"]
    assert "no image" in worker.error("predict", tasks=["liver"])["message"]
    assert not path.is_file()
    if path.exists():
        path.rmdir()
    worker.prepare(package, array)
    assert_same(worker.masks(worker.result("predict", tasks=None)), reference)


def test_torch_is_not_imported_before_a_model_is_loaded(start, package):
    worker = start("-X", "importtime", *PLAIN)
    for method, params in (("predict", {"tasks": None}), ("set_image", {"array": "a.npy", "affine": AFFINE})):
        assert worker.error(method, **params)["message"] == "No model is loaded; send load_model first."
    assert "InputError" in worker.error("load_model", path="no such model")["type"]
    assert not re.search(r"\| +torch$", worker.log, re.M)
    worker.result("load_model", path=str(package), **OPTIONS)
    assert re.search(r"\| +torch$", worker.log, re.M)


def test_a_missing_scratch_folder_is_one_sentence(tmp_path):
    command = [sys.executable, *PLAIN, "--scratch", str(tmp_path / "none")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert (run.returncode, run.stdout) == (2, "")
    assert "there is no folder" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_full_disk_leaves_no_half_written_mask(tmp_path):
    scratch = ScratchFolder(tmp_path)
    with full_disk(), pytest.raises(InputError, match="free some space"):
        scratch.write("mask-1-0.npy", np.zeros(10_000, np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_cannot_be_loaded_is_said():
    kind, message, advice = describe_failure(ImportError("DLL load failed while importing torch"))
    assert (kind, "DLL load failed" in message, "Install" in advice) == ("InternalError", True, True)


def test_long_lines_are_passed_over():
    lengths = [3, 25, 9, 10, 11, 20, 21, 1000, 0]
    lines = [b"x" * length + b"\n" for length in lengths]
    expected = [line if len(line) <= 11 else None for line in lines]
    assert list(read_lines(io.BytesIO(b"".join(lines) + b"last"), 10)) == [*expected, b"last"]
    assert list(read_lines(io.BytesIO(b"x" * 30), 10)) == [None]


@pytest.mark.skipif(os.name != "posix", reason="Windows has other pipes")
def test_replies_that_nobody_reads_end_the_process_the_same_way():
    reading, writing = os.pipe()
    os.close(reading)
    codes = []
    with os.fdopen(writing, "wb", 0) as stream:
        Replies(stream, codes.append).send({"ready": True})
    assert codes == [1]


# --- Cancelling and ending


def test_a_cancelled_request_ends_within_a_patch_and_what_is_encoded_stays(
    troubled, troubles, package, array, reference
):
    troubled.prepare(package, array)
    (troubles / "slow").write_text("0.5")
    number = troubled.send("predict", tasks=["liver"])
    assert troubled.receive()["progress"] == [1, PATCHES]
    troubled.cancel()
    troubled.cancel()
    messages = []
    error = troubled.reply(number, messages)["error"]
    assert error == {"type": "Cancelled", "message": "The request was cancelled.", "advice": ""}
    assert len(messages) <= 1  # a patch that was done when the cancel came
    (troubles / "slow").unlink()
    result = troubled.result("predict", tasks=None)
    assert PATCHES - 3 <= result["patches_encoded"] < PATCHES
    assert_same(troubled.masks(result), reference)


def test_a_cancel_right_behind_the_request_ends_it_before_the_second_patch(
    troubled, troubles, package, array
):
    troubled.prepare(package, array)
    (troubles / "slow").write_text("1")
    number = troubled.send("predict", tasks=["liver"])
    troubled.cancel()
    messages = []
    assert troubled.reply(number, messages)["error"]["type"] == "Cancelled"
    assert messages == []
    (troubles / "slow").unlink()
    assert troubled.result("predict", tasks=["liver"])["patches_encoded"] >= PATCHES - 1


def test_a_cancel_of_the_running_request_leaves_the_waiting_one_alone(troubled, troubles, package, array):
    troubled.prepare(package, array)
    (troubles / "slow").write_text("0.3")
    running, waiting = (troubled.send("predict", tasks=[task]) for task in ("liver", "kidney"))
    assert troubled.receive()["progress"] == [1, PATCHES]
    troubled.write(b"junk\n")
    troubled.cancel()
    troubled.cancel()
    assert troubled.reply(running)["error"]["type"] == "Cancelled"
    (troubles / "slow").unlink()
    assert len(troubled.reply(waiting)["result"]["segments"]) == 2
    assert troubled.receive()["error"]["type"] == "ProtocolError"


def test_a_cancel_while_nothing_runs_is_ignored(worker, package, array):
    worker.prepare(package, array)
    worker.cancel()
    assert worker.result("predict", tasks=["liver"])["patches_encoded"] == PATCHES
    worker.cancel()
    worker.cancel()
    assert worker.result("predict", tasks=["kidney"])["patches_encoded"] == 0


@pytest.mark.parametrize("method", ["load_model", "set_image"])
def test_loading_and_setting_an_image_can_be_cancelled(worker, package, array, reference, method):
    worker.prepare(package, array)
    worker.result("predict", tasks=["liver"])
    np.save(worker.scratch / "next.npy", np.tile(array, (8, 8, 8)))  # takes a while
    params = {
        "load_model": {"path": str(package), "device": "cpu", "overlap": 0.25},
        "set_image": {"array": "next.npy", "affine": AFFINE},
    }
    line = json.dumps({"id": 1000, "method": method, "params": params[method]}).encode()
    worker.write(line + b'\n{"method": "cancel"}\n')
    assert worker.reply(1000)["error"]["type"] == "Cancelled"
    worker.prepare(package, array)
    assert_same(worker.masks(worker.result("predict", tasks=None)), reference)


def test_the_end_of_the_input_ends_an_idle_worker(start):
    worker = start(*PLAIN)
    np.save(worker.scratch / "image-1.npy", np.zeros(3))
    worker.process.stdin.close()
    assert worker.ends() == 0
    assert not worker.scratch.exists()  # a client that has crashed cannot remove it


def test_the_end_of_the_input_ends_a_busy_worker_at_once(start, package, array, tmp_path):
    worker = start(*TROUBLED, str(tmp_path))
    worker.prepare(package, array)
    (tmp_path / "slow").write_text("1000")
    worker.send("predict", tasks=["liver"])
    worker.send("predict", tasks=["kidney"])
    worker.process.stdin.close()
    assert worker.ends() == 0


def test_the_end_of_the_input_lets_a_file_be_written_to_its_end(start, package, array, tmp_path):
    (tmp_path / "troubles").mkdir()
    (tmp_path / "out").mkdir()
    write_volume(tmp_path / "ct.nii.gz", Volume(array, np.array(AFFINE)))
    worker = start(*TROUBLED, str(tmp_path / "troubles"))
    worker.result("load_model", path=str(package), **OPTIONS)
    (tmp_path / "troubles" / "slow disk").write_text("0.5")
    image, output = str(tmp_path / "ct.nii.gz"), str(tmp_path / "out" / "ct.seg.nrrd")
    worker.send("segment_file", image=image, output=output, any_modality=True)
    while worker.receive().get("progress") != [PATCHES, PATCHES]:
        pass
    end = time.monotonic() + TIMEOUT
    while not list((tmp_path / "out").iterdir()):
        assert time.monotonic() < end, worker.log
        time.sleep(0.01)
    worker.process.stdin.close()
    assert worker.ends() == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["ct.seg.nrrd"]


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent to consoles only")
def test_an_interrupt_is_left_to_the_client(worker, package):
    worker.result("load_model", path=str(package), **OPTIONS)
    worker.process.send_signal(signal.SIGINT)
    worker.result("load_model", path=str(package), **OPTIONS)


# --- Troubles of libraries and devices


def test_stray_prints_never_reach_the_wire(troubled, troubles, package, array, reference):
    troubled.prepare(package, array)
    (troubles / "noisy").touch()
    messages = []
    result = troubled.result("predict", messages, tasks=None)
    assert_same(troubled.masks(result), reference)
    assert len(messages) == PATCHES
    beyond_python = ["C puts", "child process"] if os.name == "posix" else []
    for noise in ["print", "sys.__stdout__", "os.write", *beyond_python]:
        assert troubled.log.count(noise) == PATCHES


FEATURES = str(1 << 20)
WITHOUT_FEATURES = "Out of memory on cuda; trying again without keeping features."
ON_CPU = "Out of memory on cuda; trying again on the cpu, which takes longer."


@pytest.mark.parametrize("kind", ["OutOfMemoryError", "RuntimeError"])
@pytest.mark.parametrize(
    ("full", "warnings", "sessions"),
    [
        ("cuda", [WITHOUT_FEATURES], [f"cuda {FEATURES}", "cuda 0"]),
        ("cuda cuda0", [WITHOUT_FEATURES, ON_CPU], [f"cuda {FEATURES}", "cuda 0", f"cpu {FEATURES}"]),
    ],
)
def test_out_of_memory_is_tried_again_smaller_then_on_the_cpu(
    troubled, troubles, package, array, reference, kind, full, warnings, sessions
):
    (troubles / "full").write_text(f"{kind} {full}")
    troubled.prepare(package, array, device="cuda", cache_bytes=int(FEATURES))
    messages = []
    result = troubled.result("predict", messages, tasks=None)
    assert [message["warning"] for message in messages if "warning" in message] == warnings
    assert [message["progress"] for message in messages if "progress" in message][-1] == [PATCHES, PATCHES]
    assert_same(troubled.masks(result), reference)
    assert result["patches_encoded"] == PATCHES
    assert result["provenance"]["device"] == "cpu"
    assert (troubles / "sessions").read_text().split("\n")[-len(sessions) - 1 : -1] == sessions
    again = []
    troubled.result("predict", again, tasks=["liver"])
    assert all("progress" in message for message in again)


def test_with_no_memory_at_all_the_error_says_so_and_the_session_stays_usable(
    troubled, troubles, package, array, reference
):
    troubled.prepare(package, array, device="cuda")
    (troubles / "full").write_text("OutOfMemoryError cuda cuda0 cpu cpu0")
    messages = []
    error = troubled.error("predict", messages, tasks=None)
    assert [message["warning"] for message in messages] == [
        WITHOUT_FEATURES,
        ON_CPU,
        WITHOUT_FEATURES.replace("cuda", "cpu"),
    ]
    assert error["type"] == "OutOfMemoryError"
    assert error["message"] == "Out of memory on cpu, even without keeping features."
    assert "Close other programs" in error["advice"]
    (troubles / "full").unlink()
    assert_same(troubled.masks(troubled.result("predict", tasks=None)), reference)


def test_the_next_image_is_tried_on_the_first_device_again(troubled, troubles, package, array):
    (troubles / "full").write_text("OutOfMemoryError cuda cuda0")
    troubled.prepare(package, array, device="cuda")
    troubled.result("predict", tasks=["liver"])
    (troubles / "full").unlink()
    (troubles / "sessions").unlink()
    troubled.prepare(package, array, device="cuda")
    assert (troubles / "sessions").read_text().startswith("cuda ")


def test_a_worker_that_has_lost_its_graphics_card_says_so_and_leaves(start, package, array, tmp_path):
    (tmp_path / "broken").write_text(
        "CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA"
    )
    worker = start(*TROUBLED, str(tmp_path))
    worker.prepare(package, array)
    error = worker.error("predict", tasks=None)
    assert error["message"] == "The graphics card has stopped working: CUDA error: unspecified launch failure"
    assert "choose the device cpu" in error["advice"]
    assert worker.ends() == 0


def test_an_unexpected_error_is_told_and_logged_and_the_session_stays_usable(
    troubled, troubles, package, array, reference
):
    troubled.prepare(package, array)
    (troubles / "broken").write_text("An operation is missing\nat line 3")
    error = troubled.error("predict", tasks=None)
    assert error["type"] == "InternalError"
    assert "RuntimeError: An operation is missing" in error["message"]
    assert "\n" not in error["message"]
    assert "report it" in error["advice"]
    assert "Traceback" in troubled.log
    (troubles / "broken").unlink()
    assert_same(troubled.masks(troubled.result("predict", tasks=None)), reference)
