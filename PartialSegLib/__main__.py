"""Command line: `python -m PartialSegLib`, also installed as `partialseg`.

Exit codes: 0 done; 2 wrong usage or input; 3 out of memory or a missing device; 130 interrupted. A user's
mistake is answered by one sentence on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import __version__
from .cli.data_arguments import add_data_arguments
from .cli.terminal import discard_output
from .cli.training_arguments import add_training_arguments
from .errors import Cancelled, DeviceError, InputError
from .files.file_names import expanded
from .sentences import RESEARCH_USE, suggestion, without_control

REPEATED = ("--task", "--structure", "--data-set", "--mask", "--fold")
WRONG_INPUT, NO_DEVICE, INTERRUPTED = 2, 3, 130
_ENDING_SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]
"""Of a scheduler, of a terminal or connection that is closed (those that nohup ignores stay ignored), and of
Ctrl+Break on Windows."""
SERIES = "of a DICOM folder that holds several: its UID, or a part of its description"
TASK = "a task of the model; repeat for more, or separate them by commas"
KEEP = "keep only this structure (TASK/STRUCTURE: of that task only); several as with --task"


class Parser(argparse.ArgumentParser):
    """Answers wrong usage with one sentence.

    Attributes:
        commands: parsers of the commands, by their names.
    """

    commands: Mapping[str, argparse.ArgumentParser] = {}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not self._negative_number_matcher.match("-1e1"):  # before Python 3.14
            self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        """Leave with the sentence."""
        self.exit(WRONG_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: those after the program's name; None for the process's own.

    Returns:
        The exit code.
    """
    _accept_all_characters()
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # the CPU does what Apple's GPUs cannot
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    heeded = [number for number in _ENDING_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, _interrupt) for number in heeded}
    try:
        options = _parsed(arguments)
        command = getattr(import_module(f".cli.{options.module}", __package__), options.function)
        command(options)
        sys.stdout.flush()
    except (KeyboardInterrupt, Cancelled) as stopped:
        return _fail(INTERRUPTED, str(stopped) or "Interrupted; unfinished output was removed.")
    except DeviceError as error:
        return _fail(NO_DEVICE, str(error))
    except MemoryError:
        return _fail(NO_DEVICE, "Out of memory; close other programs or segment a smaller region with --roi.")
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        discard_output()
    except InputError as error:
        return _fail(WRONG_INPUT, str(error))
    except OSError as error:
        return _fail(WRONG_INPUT, f"{error.filename or 'Input or output'}: {error.strerror or error}.")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: of a program that embeds Python
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command; settings of a training run (KEY=VALUE) may also follow an option."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    _check_command(parser, given)
    options, others = parser.parse_known_args(given)
    if any(text.startswith("-") or not hasattr(options, "change") for text in others):
        parser.error(f"unrecognized arguments: {' '.join(others)}{_repeating(given, others[0])}")
    if others:
        options.change += others
    return options


def _repeating(given: list[str], other: str) -> str:
    """Advice where an argument too many is the second name of an option that takes one."""
    before = given[: given.index(other)] if other in given else []
    last = next((number for number in reversed(range(len(before))) if before[number].startswith("-")), None)
    option, has_value, _ = before[last].partition("=") if last is not None else ("", "", "")
    if last is None or option not in REPEATED:
        return ""
    second = given[last + (1 if has_value else 2)]  # argparse may have taken it for the input
    return f"; repeat {option} for each name, as in {option} {second}"


def _check_command(parser: Parser, given: Sequence[str]) -> None:
    """Leave with a sentence where the first word is no command; argparse would name a later one."""
    first = given[0] if given else ""
    if first.startswith("-"):
        if first not in ("-h", "--help", "--version") and len(given) > 1:
            parser.error(f"options follow the command, as in partialseg segment CT.nii.gz {first} …")
    elif first and first not in parser.commands:
        parser.error(f"there is no command {first!r}; {suggestion(first.lower(), parser.commands)}")


def build_parser() -> Parser:
    """Describe all commands and their options."""
    text = "Segment CT with networks trained on partially labelled data."
    parser = Parser("partialseg", description=text, epilog=RESEARCH_USE)
    parser.add_argument("--version", action="version", version=f"partialseg {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parser.commands = commands.choices

    def add(name: str, module: str, function: str, text: str) -> Parser:
        command = commands.add_parser(name, help=text, description=text, epilog=RESEARCH_USE)
        command.set_defaults(module=module, function=function)
        return command

    _segment_arguments(add("segment", "segmenting", "segment", "Segment a CT."))
    _demo_arguments(add("demo", "segmenting", "demo", "Segment all tasks of a CT or phantom, and draw them."))
    _batch_arguments(add("batch", "batching", "batch", "Segment many images; goes on where it was stopped."))
    add("models", "inspecting", "models", "List the installed models.")
    command = add("info", "inspecting", "info", "Say what a volume, segmentation or model package is.")
    text = "image, DICOM folder, .seg.nrrd, label map, folder of masks, package folder, or name of a model"
    command.add_argument("file", help=text)
    command.add_argument("--series", metavar="UID_OR_TEXT", help=SERIES)
    _import_arguments(
        add("import", "inspecting", "import_model", "Turn an official checkpoint into a package.")
    )
    command = add("install", "inspecting", "install", "Install a model package, so that its name will do.")
    command.add_argument("source", type=_path, help="a package: its folder, or a .zip of it")
    text = "take the place of an installed package of the same name"
    command.add_argument("--replace", action="store_true", help=text)
    add_training_arguments(add("train", "training_run", "train_model", "Train a model, or go on with a run."))
    _evaluate_arguments(add("evaluate", "evaluating", "evaluate_files", "Compare with a reference."))
    text = "Let a model label what a collection is not labelled for; a new collection results."
    _pseudo_label_arguments(add("pseudo-label", "pseudo_labelling", "pseudo_label", text))
    text = "Make, check and list collections of training cases."
    add_data_arguments(add("data", "collecting", "", text))
    return parser


def _segment_arguments(command: Parser) -> None:
    text = ".nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, or a folder with one DICOM series"
    command.add_argument("input", type=_path, help=text)
    text = ".seg.nrrd, .nii.gz (one label map), .dcm (DICOM, from a folder), or a folder (one .nii.gz each)"
    command.add_argument("-o", "--output", type=_path, required=True, metavar="OUT", help=text)
    command.add_argument("--series", metavar="UID_OR_TEXT", help=SERIES)
    command.add_argument("--task", action="append", metavar="T", help=TASK)
    command.add_argument("--structure", action="append", metavar="S", help=KEEP)
    text = "only this box, mm in RAS coordinates"
    command.add_argument(
        "--roi", type=float, nargs=6, metavar=("X0", "X1", "Y0", "Y1", "Z0", "Z1"), help=text
    )
    command.add_argument("--report", type=_path, metavar="FILE.json", help="also write volumes and times")
    text = "also draw cuts, surfaces and a legend, to look at"
    command.add_argument("--picture", type=_path, metavar="FILE.png", help=text)
    _session_arguments(command)


def _demo_arguments(command: Parser) -> None:
    command.add_argument(
        "input", type=_path, nargs="?", metavar="CT", help="image or DICOM folder (a phantom)"
    )
    command.add_argument("-o", "--output", type=_path, required=True, metavar="FOLDER")
    command.add_argument("--series", metavar="UID_OR_TEXT", help=SERIES)
    command.set_defaults(task=None, structure=None, roi=None)
    _session_arguments(command)


def _batch_arguments(command: Parser) -> None:
    text = "image files, folders with image files, or folders with DICOM series at any depth"
    command.add_argument("input", type=_path, nargs="+", metavar="INPUT", help=text)
    text = "gets one segmentation for each image, and summary.csv"
    command.add_argument("-o", "--output", type=_path, required=True, metavar="FOLDER", help=text)
    text = ".seg.nrrd, .nii.gz (one label map), .dcm (DICOM), or folder (a mask per structure) (%(default)s)"
    command.add_argument("--format", type=_suffix, default=".seg.nrrd", metavar="F", help=text)
    command.add_argument("--task", action="append", metavar="T", help=TASK)
    command.add_argument("--structure", action="append", metavar="S", help=KEEP)
    text = "also draw CASE.png of each: cuts, surfaces and a legend, to look through"
    command.add_argument("--pictures", action="store_true", help=text)
    command.add_argument("--overwrite", action="store_true", help="begin anew")
    _session_arguments(command)


def _session_arguments(command: Parser) -> None:
    """What `cli.segmenting.open_session` understands, the same for all commands that segment."""
    command.add_argument(
        "--model", type=_model, metavar="NAME|PATH", help="an installed model or a package (the bundled one)"
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    text = "auto, torch, openvino (to be installed; cpu) or openvino-int8: rounded, faster (%(default)s)"
    command.add_argument("--engine", default="auto", metavar="E", help=text)
    command.add_argument(
        "--overlap", type=float, metavar="0..1", help="of neighbouring patches (the model's)"
    )
    command.add_argument("--mirror", action="store_true", help="average over flips: slower, a little better")
    text = "auto, exact, fast or off: which slices to look at, if the model can tell (%(default)s)"
    command.add_argument("--selection", default="auto", metavar="S", help=text)
    command.add_argument("--skip-air", action="store_true", help="leave out air and table around the body")
    text = "a coarse model that looks first; only what it finds is looked at closely (all, if nothing)"
    command.add_argument("--region-from", type=_model, metavar="NAME|PATH", help=text)
    text = "of --region-from: 0 takes what the coarse model finds, 1 looks closely at all of it (1)"
    command.add_argument("--effort", type=float, metavar="0..1", help=text)
    command.add_argument(
        "--force",
        action="store_true",
        help="accept an image that does not look like CT in HU or has an odd size",
    )


def _import_arguments(command: Parser) -> None:
    command.add_argument("name", help="dodnet, transdodnet, multitalent, stunet, nnunet, or auto")
    text = "file; for nnU-Net and STU-Net also the model folder, or the .zip that nnU-Net exports"
    command.add_argument("checkpoint", type=_path, help=text)
    command.add_argument("-o", "--output", type=_path, required=True, metavar="PACKAGE", help="new folder")
    text = "number of a fold, or all for the network of all cases; repeat for more (every numbered fold)"
    command.add_argument("--fold", action="append", default=[], metavar="F", help=text)
    text = "which model of several, such as 3d_fullres (the only three-dimensional one)"
    command.add_argument("--configuration", metavar="C", help=text)
    command.add_argument("--replace", action="store_true", help="take the place of a package that is there")


def _evaluate_arguments(command: Parser) -> None:
    command.add_argument("prediction", type=_path, help="a segmentation, or a folder of them")
    command.add_argument("reference", type=_path, help="the same with the truth, matched by name")
    command.add_argument("--structure", action="append", metavar="S", help="only these, separated by commas")
    text = "of label maps without a table: 1=liver,2=liver_tumor, or a data set (lits, kits19, btcv, …)"
    command.add_argument("--labels", metavar="V=S,V=S", help=text)
    text = "the same for predictions (--labels, unless they have a dataset.json)"
    command.add_argument("--prediction-labels", metavar="V=S,V=S", help=text)
    text = "what a reference does not list is empty there, a false tumour then has Dice 0 (not scored)"
    command.add_argument("--absent-is-empty", action="store_true", help=text)
    text = "up to which surfaces agree (3)"
    command.add_argument("--tolerance", type=float, metavar="MM", help=text)
    command.add_argument("-o", "--output", type=_path, metavar="FILE", help=".csv or .json; else a table")


def _pseudo_label_arguments(command: Parser) -> None:
    command.add_argument("collection", type=_path, help="collection file (.json); nothing of it is changed")
    text = "the new collection; its label maps and a record of their origin lie beside it"
    command.add_argument("-o", "--output", type=_path, required=True, metavar="FILE.json", help=text)
    text = "an installed model or a package (the bundled one)"
    command.add_argument("--model", type=_model, metavar="NAME|PATH", help=text)
    text = "add this one, where it is not annotated; repeat for more (all of the model's)"
    command.add_argument("--structure", action="append", metavar="S", help=text)
    command.add_argument("--task", action="append", metavar="T", help=TASK)
    text = "only cases of this data set; repeat for more"
    command.add_argument("--data-set", action="append", metavar="D", help=text)
    command.add_argument("--unlabelled", action="store_true", help="only cases without a label map")
    text = "what data sets with pseudo-labels train (the task of each)"
    command.add_argument("--new-task", metavar="T", help=text)
    text = "leave cases out where 1 - Dice with a second prediction is above this"
    command.add_argument("--max-disagreement", action="append", metavar="[S=]SHARE", help=text)
    text = "the second prediction is this model's, not one without mirroring"
    command.add_argument("--compare", type=_model, metavar="NAME|PATH", help=text)
    text = "leave cases out whose volumes are outside these percentiles of the labelled cases"
    command.add_argument("--volume-percentiles", type=float, nargs=2, metavar=("LOW", "HIGH"), help=text)
    text = "of the label maps: .nii.gz or .nrrd (%(default)s)"
    formats = (".nii.gz", ".nrrd")
    command.add_argument("--format", type=_suffix, choices=formats, default=".nii.gz", metavar="F", help=text)
    command.add_argument("--no-mirror", action="store_true", help="do not average over flips: faster")
    text = "of neighbouring patches (the model's)"
    command.add_argument("--overlap", type=float, metavar="0..1", help=text)
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    text = "accept images that do not look like CT in HU or have an odd size"
    command.add_argument("--force", action="store_true", help=text)
    command.add_argument("--overwrite", action="store_true", help="begin anew")


def _accept_all_characters() -> None:
    """Write "?" for what a terminal's or a file's encoding lacks; drop all where the streams are closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the process's life
        elif getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def _path(text: str) -> Path:
    """An empty text, as of a shell variable that is not set, would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty path was given; name a file or folder")
    return expanded(text)


def _model(text: str) -> str:
    """An empty text, as of a shell variable that is not set, would mean another model than was wanted."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name was given; name a model or its folder")
    return text


def _suffix(text: str) -> str:
    """A file format, also where its dot was left out or it is in capitals."""
    text = text.lower()
    return text if text == "folder" or text.startswith(".") else f".{text}"


def _fail(code: int, sentence: str) -> int:
    with suppress(OSError):  # the terminal may be closed
        sys.stderr.write(f"{without_control(sentence)}\n")
    return code


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """End as Ctrl+C does; a second such signal, as of a closed terminal, would break off the tidying up."""
    signal.signal(signum, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
