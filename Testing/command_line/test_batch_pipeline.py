"""Reading, computing and writing at the same time: what overlaps, what is bounded, whose errors are whose."""

import gc
import signal
import weakref
from itertools import count
from threading import Event, main_thread

import numpy as np
import pytest
from tiny_model import TASKS, write_tiny_model

from PartialSegLib import Volume, __main__, write_volume
from PartialSegLib.batch.pipeline import Stages, run_overlapped
from PartialSegLib.errors import DeviceError, InputError, OutOfMemoryError
from PartialSegLib.manifest import Preprocessing

PATIENCE = 20  # seconds until a test that waits in vain fails


class Image:
    """Can be told from others, and its end can be noticed."""

    def __init__(self, case):
        self.case = case


class Recorder:
    """Stages that note what happens, and fail where they are told to."""

    def __init__(self, faults=()):
        self.events = []
        self.finished = []
        self.faults = dict(faults)

    def read(self, case):
        self._note("read", case)
        return Image(case)

    def compute(self, case, image):
        assert image.case == case
        self._note("compute", case)
        return f"found {case}"

    def write(self, case, found):
        assert found == f"found {case}"
        self._note("write", case)
        return f"written {case}"

    def run(self, cases):
        stages = Stages(self.read, self.compute, self.write)
        run_overlapped(cases, stages, lambda case, attempt: self.finished.append((case, attempt)))
        return self.finished

    def _note(self, stage, case):
        self.events.append((stage, case))
        fault = self.faults.pop((stage, case), None)
        if fault is not None:
            raise fault


def test_all_cases_are_finished_in_their_order():
    finished = Recorder().run("abcd")
    assert [(case, attempt.value) for case, attempt in finished] == [(c, f"written {c}") for c in "abcd"]
    assert all(attempt.error is None and attempt.seconds >= 0 for _, attempt in finished)


def test_the_seconds_of_a_case_are_those_of_all_its_stages(monkeypatch):
    monkeypatch.setattr("PartialSegLib.batch.pipeline.perf_counter", count().__next__)
    ((_, attempt),) = Recorder().run("a")
    assert attempt.seconds == 3


def test_no_cases_are_no_work():
    assert Recorder().run([]) == []


def test_the_next_image_is_read_and_the_last_result_written_while_one_is_computed():
    class Waiting(Recorder):
        reading_c, writing_a = Event(), Event()

        def read(self, case):
            if case == "c":
                self.reading_c.set()
            return super().read(case)

        def compute(self, case, image):
            if case == "b":
                assert self.reading_c.wait(PATIENCE)
                assert self.writing_a.wait(PATIENCE)
            return super().compute(case, image)

        def write(self, case, found):
            if case == "a":
                self.writing_a.set()
            return super().write(case, found)

    assert [attempt.error for _, attempt in Waiting().run("abc")] == [None, None, None]


def test_at_most_one_image_waits_and_none_is_kept():
    class Counting(Recorder):
        def __init__(self):
            super().__init__()
            self.alive, self.most = weakref.WeakSet(), 0

        def read(self, case):
            image = super().read(case)
            self.alive.add(image)
            self.most = max(self.most, len(self.alive))
            return image

    recorder = Counting()
    assert len(recorder.run("abcdefgh")) == 8
    gc.collect()
    assert recorder.most <= 3  # computed, just dropped, and waiting
    assert not recorder.alive
    for position, case in enumerate("abcdef"):
        after_next = "abcdefgh"[position + 2]
        assert recorder.events.index(("compute", case)) < recorder.events.index(("read", after_next))


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_an_error_belongs_to_its_case_alone(stage):
    error = InputError("no")
    finished = Recorder({(stage, "b"): error}).run("abc")
    assert [case for case, _ in finished] == ["a", "b", "c"]
    assert [attempt.error for _, attempt in finished] == [None, error, None]


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
@pytest.mark.parametrize("kind", [MemoryError, OutOfMemoryError])
def test_a_case_without_enough_memory_is_tried_again_alone(stage, kind):
    recorder = Recorder({(stage, "b"): kind("full")})
    finished = recorder.run("abcd")
    if stage == "write":  # needs little, and the result is there no more
        assert [attempt.error is None for _, attempt in finished] == [True, False, True, True]
        return
    assert all(attempt.error is None for _, attempt in finished)
    assert recorder.events.count(("read", "b")) == 2
    again = len(recorder.events) - recorder.events[::-1].index(("read", "b"))
    assert ("write", "a") in recorder.events[:again]
    computed = recorder.events.index(("compute", "b"), again)
    assert ("read", "c") not in recorder.events[again:computed]


def test_nothing_else_is_in_memory_when_a_case_is_tried_again():
    class Slow(Recorder):
        reading_c, again = Event(), Event()

        def read(self, case):
            if case == "c":
                self.reading_c.set()
                self.again.wait(0.05)
            elif ("read", "b") in self.events:
                self.again.set()
            return super().read(case)

        def compute(self, case, image):
            if case == "b":
                self.reading_c.wait(PATIENCE)
            return super().compute(case, image)

        def write(self, case, found):
            self.again.wait(0.05)
            return super().write(case, found)

    recorder = Slow({("compute", "b"): MemoryError("full")})
    recorder.run("abc")
    again = len(recorder.events) - recorder.events[::-1].index(("read", "b"))
    assert {("write", "a"), ("read", "c")} <= set(recorder.events[:again])


def test_nothing_is_read_ahead_while_a_case_is_tried_again():
    class Watching(Recorder):
        reading_c = Event()

        def read(self, case):
            if case == "c":
                self.reading_c.set()
            return super().read(case)

        def compute(self, case, image):
            if case == "b" and ("b", "full") in self.events:
                assert not self.reading_c.wait(0.05)
            elif case == "b":
                self.reading_c.wait(PATIENCE)
                self.reading_c.clear()
                self.events.append(("b", "full"))
                raise MemoryError
            return super().compute(case, image)

    assert [attempt.error for _, attempt in Watching().run("abc")] == [None, None, None]


def test_a_case_that_was_alone_in_memory_is_not_tried_again():
    recorder = Recorder({("compute", "a"): MemoryError("full")})
    assert recorder.run("a")[0][1].lacked_memory
    assert recorder.events == [("read", "a"), ("compute", "a")]


def test_a_case_that_cannot_be_finished_is_not_finished_twice():
    finished, recorder = [], Recorder()

    def refuse(case, attempt):
        finished.append(case)
        raise InputError("The summary cannot be written.")

    with pytest.raises(InputError):
        run_overlapped("a", Stages(recorder.read, recorder.compute, recorder.write), refuse)
    assert finished == ["a"]


def test_a_case_that_never_has_enough_memory_fails_alone():
    class Hungry(Recorder):
        def compute(self, case, image):
            if case == "b":
                raise OutOfMemoryError("full")
            return super().compute(case, image)

    finished = Hungry().run("abc")
    assert [attempt.lacked_memory for _, attempt in finished] == [False, True, False]
    assert finished[1][1].error.__traceback__ is None


@pytest.mark.parametrize("fault", [DeviceError("gone"), KeyboardInterrupt()])
def test_what_ends_the_run_lets_the_written_case_be_finished(fault):
    recorder = Recorder({("compute", "b"): fault})
    with pytest.raises(type(fault)):
        recorder.run("abcd")
    assert [(case, attempt.value) for case, attempt in recorder.finished] == [("a", "written a")]
    assert ("read", "d") not in recorder.events


@pytest.mark.parametrize("cases", ["a", "ab"])
def test_an_interruption_while_a_result_is_written_loses_none(cases):
    class Interrupted(Recorder):
        def write(self, case, found):
            Event().wait(0.05)
            signal.pthread_kill(main_thread().ident, signal.SIGINT)
            Event().wait(0.05)
            return super().write(case, found)

    recorder = Interrupted()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            recorder.run(cases)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert [(case, attempt.value) for case, attempt in recorder.finished] == [("a", "written a")]


def test_a_batch_writes_what_single_runs_write(tmp_path):
    preprocessing = Preprocessing("SAR", (5.0, 4.0, 4.0), (-325, 325), divide=325)
    package = write_tiny_model(tmp_path / "tiny", TASKS, preprocessing, gain=20)
    affine = np.array([[0, 0, -4.0, 40], [0, 4.0, 0, -30], [5.0, 0, 0, 100], [0, 0, 0, 1]])
    given = ["--model", str(package), "--device", "cpu"]
    for number in range(3):
        array = np.random.default_rng(number).integers(-1000, 200, (20 + number, 24, 26)).astype(np.int16)
        write_volume(tmp_path / f"images/{number}.nii.gz", Volume(array, affine))
    assert __main__.main(["batch", str(tmp_path / "images"), "-o", str(tmp_path / "out"), *given]) == 0
    for number in range(3):
        image, alone = tmp_path / f"images/{number}.nii.gz", tmp_path / f"{number}.seg.nrrd"
        assert __main__.main(["segment", str(image), "-o", str(alone), *given]) == 0
        assert (tmp_path / f"out/{number}.seg.nrrd").read_bytes() == alone.read_bytes()
