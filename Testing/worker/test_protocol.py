"""The wire, line by line, without a process."""

import json
from dataclasses import asdict

import pytest

from PartialSegLib import protocol
from PartialSegLib.protocol import (
    Cancel,
    FoundSegment,
    ImageSet,
    LoadedModel,
    LoadModel,
    Predict,
    Prediction,
    ProtocolError,
    Request,
    SegmentFile,
    SetImage,
    decode,
    encode,
    parse_request,
)

AFFINE = [[0, 0, -2.0, 50], [0, -2, 0, -10], [5, 0, 0, 100], [0, 0, 0, 1]]


def line(**message):
    return encode(message).encode("ascii") + b"\n"


def set_image(array="image-2.npy", affine=AFFINE, **more):
    return line(id=2, method="set_image", params={"array": array, "affine": affine, **more})


def test_a_message_is_one_line_of_ascii_and_comes_back_the_same():
    message = {"id": 7, "warning": "Größe 肝\n\u2028\x00", "progress": [1, 12], "none": None}
    text = encode(message)
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert decode(text) == decode(text.encode() + b"\r\n") == message


def test_unescaped_utf_8_is_understood():
    assert decode('{"warning": "Größe 肝"}\n'.encode()) == {"warning": "Größe 肝"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_no_json_are_not_sent(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        encode({"value": value})


def test_a_model_is_asked_for_by_its_path_alone():
    request = parse_request(line(id=1, method="load_model", params={"path": "Modelle/tiny é"}))
    defaults = LoadModel(
        "Modelle/tiny é", "auto", "auto", None, False, None, "auto", False, None, 1.0, "auto"
    )
    assert request == Request(1, "load_model", defaults)


def test_every_option_of_a_model_is_understood():
    options = {"device": "cuda:1", "precision": "float32", "overlap": 0.5, "mirror": True, "cache_bytes": 0}
    options |= {"selection": "fast", "skip_air": True, "region_from": "a/b", "effort": 0, "engine": "torch"}
    request = parse_request(line(id=1, method="load_model", params={"path": "tiny", **options}))
    expected = LoadModel("tiny", "cuda:1", "float32", 0.5, True, 0, "fast", True, "a/b", 0.0, "torch")
    assert request.params == expected


def test_an_image_has_a_file_and_an_affine():
    affine = tuple(tuple(map(float, row)) for row in AFFINE)
    assert parse_request(set_image()).params == SetImage("image-2.npy", affine, None)
    assert parse_request(set_image(crop_to_body=False)).params == SetImage("image-2.npy", affine, False)


def test_tasks_structures_and_region_may_be_left_open():
    params = {"tasks": ["liver"], "structures": None, "roi": [0, 1, 2.5, 3, 4, 5]}
    request = parse_request(line(id=0, method="predict", params=params))
    assert request == Request(0, "predict", Predict(("liver",), None, (0, 1, 2.5, 3, 4, 5)))
    assert parse_request(line(id=0, method="predict", params={"tasks": None})).params == Predict(None)
    params = {"tasks": None, "effort": 0.25}
    assert parse_request(line(id=0, method="predict", params=params)).params == Predict(None, effort=0.25)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("load_model", LoadModel("tiny", overlap=0.5, region_from="a/b")),
        ("set_image", SetImage("image-2.npy", ((0.0, 0.0, -2.0, 50.0),) * 4)),
        ("predict", Predict(("liver",), None, (0.0, 1.0, 2.5, 3.0, 4.0, 5.0), 0.25)),
        ("segment_file", SegmentFile("/a é.nii", "/b.seg.nrrd", None, ("liver", "spleen/spleen"), True)),
    ],
)
def test_a_request_arrives_as_it_was_made(method, params):
    assert parse_request(line(id=4, method=method, params=asdict(params))) == Request(4, method, params)


def test_a_cancel_needs_nothing_else():
    assert parse_request(b'{"method": "cancel"}\n') == Cancel()


@pytest.mark.parametrize(
    ("given", "id", "sentence"),
    [
        (b"junk\n", None, r"not JSON: 'junk"),
        (b"\n", None, "not JSON"),
        (b"\xff\xfe\x00", None, "not JSON"),
        (b"[" * 100_000, None, "not JSON"),
        (b"1" * 100_000, None, "not JSON"),
        (b"[1, 2]", None, r"no JSON object: '\[1, 2\]'"),
        (b"{}", None, "id: expected a whole number, got 'null'"),
        (line(id=-1, method="predict"), None, "id: expected a whole number"),
        (line(id=True, method="predict"), None, "id: expected a whole number"),
        (line(id="../1", method="predict"), None, "id: expected a whole number"),
        (line(id=10**30, method="predict"), None, "id: expected a whole number"),
        (line(id=3), 3, "method: expected a text"),
        (line(id=3, method="predct"), 3, "Unknown method 'predct'; perhaps you meant predict"),
        (line(id=3, method="x" * 999), 3, "choose from load_model, set_image, predict"),
        (line(id=3, method="load_model"), 3, "load_model: params.path: missing"),
        (line(id=3, method="load_model", params=None), 3, "params: expected an object, got null"),
        (line(id=3, method="load_model", params={"path": 5}), 3, "params.path: expected a text, got 5"),
        (line(id=3, method="load_model", params={"path": "a", "devise": "cpu"}), 3, "you meant device"),
        (line(id=3, method="load_model", params={"path": "a", "overlap": "0"}), 3, "overlap: expected"),
        (line(id=3, method="load_model", params={"path": "a", "mirror": 1}), 3, "mirror: expected true"),
        (line(id=3, method="load_model", params={"path": "a", "cache_bytes": -1}), 3, "cache_bytes: exp"),
        (line(id=3, method="load_model", params={"path": "a", "selection": None}), 3, "selection: expected"),
        (line(id=3, method="load_model", params={"path": "a", "skip_air": "no"}), 3, "skip_air: expected"),
        (line(id=3, method="load_model", params={"path": "a", "region_from": 1}), 3, "region_from: expected"),
        (line(id=3, method="load_model", params={"path": "a", "effort": 50}), 3, r"effort: expected 0 \("),
        (line(id=3, method="load_model", params={"path": "a", "engine": True}), 3, "engine: expected a text"),
        (line(id=3, method="predict", params={"tasks": None, "effort": -1}), 3, r"effort: expected 0 \("),
        (line(id=3, method="set_image", params={"array": "a.npy"}), 3, "set_image: params.affine: missing"),
        (set_image(affine=AFFINE[:3]), 2, "params.affine: expected 4 values"),
        (set_image(affine=[*AFFINE[:3], [0, 0, 0, None]]), 2, r"params.affine\[3\]\[3\]: expected a number"),
        (set_image().replace(b"100", b"NaN"), 2, r"params.affine\[2\]\[3\]: expected a number"),
        (set_image().replace(b"100", b"1" + b"0" * 400), 2, "set_image: "),
        (line(id=3, method="predict", params={}), 3, "predict: params.tasks: missing"),
        (line(id=3, method="predict", params={"tasks": "liver"}), 3, "params.tasks: expected a list"),
        (line(id=3, method="predict", params={"tasks": []}), 3, "params.tasks: expected at least one name"),
        (line(id=3, method="predict", params={"tasks": [1]}), 3, r"params.tasks\[0\]: expected a text"),
        (line(id=3, method="predict", params={"tasks": None, "roi": [1, 2]}), 3, "params.roi: expected 6"),
        (line(id=3, method="predict", params={"tasks": None, "structures": []}), 3, "structures: expected"),
        (line(id=3, method="predict", params={"tasks": None, "effort": 1.01}), 3, r"effort: expected 0 \("),
        (line(id=3, method="segment_file", params={"image": "a", "output": "/b"}), 3, "image: expected an"),
        (line(id=3, method="segment_file", params={"image": "/a", "output": "b"}), 3, "output: expected an"),
        (line(id=2**53 + 1, method="predict"), None, "id: expected a whole number"),
    ],
)  # fmt: skip
def test_each_fault_has_its_sentence(given, id, sentence):
    with pytest.raises(ProtocolError, match=sentence) as refusal:
        parse_request(given)
    assert refusal.value.id == id
    message = str(refusal.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize(
    "name",
    ["", ".npy", "..", "../a.npy", "a/b.npy", "a\\b.npy", "/a.npy", "C:a.npy", "a.npy\n", "a\0.npy", "a.npz",
     "image.npy.exe", "-a.npy", "~a.npy", "é.npy", "a b.npy", "a" * 200 + ".npy"],
)  # fmt: skip
def test_only_bare_names_of_array_files_are_accepted(name):
    with pytest.raises(ProtocolError, match=r"params.array: expected the bare name of a .npy file"):
        parse_request(set_image(array=name))


def test_replies_have_the_documented_shape():
    model = LoadedModel("tiny", "1", "0" * 64, "cpu", "float32", {"liver": ["liver"]}, True)
    segment = FoundSegment("liver", "liver", "mask-3-0.npy", ((0, 1), (2, 3), (4, 5)), 1)
    messages = [
        protocol.ready_message("0.1.0", 99),
        protocol.progress_message(3, 4, 12),
        protocol.warning_message(3, "Slower."),
        protocol.result_message(1, model),
        protocol.result_message(2, ImageSet(12, {"preprocess": 0.5})),
        protocol.result_message(3, Prediction([segment], {"model": "tiny"}, {"encode": 1.0}, 3)),
        protocol.error_message(None, "InputError", "No image.", "Send one."),
    ]
    assert [json.loads(encode(message)) for message in messages] == [
        {"ready": {"version": "0.1.0", "pid": 99}},
        {"id": 3, "progress": [4, 12]},
        {"id": 3, "warning": "Slower."},
        {"id": 1, "result": {"name": "tiny", "version": "1", "sha256": "0" * 64, "device": "cpu",
                             "precision": "float32", "tasks": {"liver": ["liver"]}, "keeps_image": True}},
        {"id": 2, "result": {"patches": 12, "timings": {"preprocess": 0.5}}},
        {"id": 3, "result": {
            "segments": [{"task": "liver", "structure": "liver", "array": "mask-3-0.npy",
                          "box": [[0, 1], [2, 3], [4, 5]], "voxels": 1}],
            "provenance": {"model": "tiny"}, "timings": {"encode": 1.0}, "patches_encoded": 3}},
        {"id": None, "error": {"type": "InputError", "message": "No image.", "advice": "Send one."}},
    ]  # fmt: skip
