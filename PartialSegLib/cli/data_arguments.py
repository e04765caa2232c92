"""The options of `partialseg data` and its own commands."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from .training_arguments import add_config_arguments

LAYOUTS = {
    "decathlon": "Medical Segmentation Decathlon: TaskNN_NAME with dataset.json, imagesTr and labelsTr.",
    "nnunet": "nnU-Net raw data, version 1 (TaskNNN_NAME) or 2 (DatasetNNN_NAME).",
    "kits": "KiTS19: case_NNNNN/imaging.nii.gz and segmentation.nii.gz.",
    "lits": "LiTS: volume-N.nii and segmentation-N.nii.",
    "btcv": "BTCV: img/img0001.nii.gz and label/label0001.nii.gz.",
    "btcv-pelvis": "The pelvic part of BTCV: img/NUMBER-Image.nii.gz and label/NUMBER-Label.nii.gz.",
    "segthor": "SegTHOR: Patient_NN/Patient_NN.nii.gz and GT.nii.gz.",
    "structseg": "StructSeg 2019, task 3: N/data.nii.gz and label.nii.gz.",
    "brats": "BraTS until 2021: NAME/NAME_flair.nii.gz, NAME_t1ce, NAME_t1, NAME_t2 and NAME_seg.",
    "pair": "Any two folders: images/NAME and labels/NAME, with --label for each structure.",
}
RECIPES = {
    "mots": "MOTS, the collection of DoDNet: seven tasks, 1155 cases.",
    "multitalent": "MultiTalent's collection: 13 data sets, 47 classes, 1460 cases.",
}


def add_data_arguments(command: ArgumentParser) -> None:
    """Describe the commands below `data`."""
    commands = command.add_subparsers(metavar="WHAT", required=True)

    def add(name: str, function: str, text: str) -> ArgumentParser:
        below = commands.add_parser(name, help=text, description=text)
        below.set_defaults(function=function, what=name)
        return below

    for layout, text in LAYOUTS.items():
        below = add(layout, "collect", text)
        _layout_arguments(below)
        below.add_argument("--unlabelled", action="store_true", help="keep cases without a label map, too")
    text = "TotalSegmentator: sNNNN/ct.nii.gz and segmentations/*.nii.gz, merged into label maps."
    below = add("totalsegmentator", "collect_totalsegmentator", text)
    _totalsegmentator_arguments(below)
    for recipe, text in RECIPES.items():
        _recipe_arguments(add(recipe, "collect_recipe", text))
    _phantom_arguments(add("phantom", "collect_phantoms", "MOTS in miniature, made of phantoms."))
    below = add("join", "join", "Make one collection of several.")
    below.add_argument("collection", type=Path, nargs="+", metavar="COLLECTION")
    _output_arguments(below)
    below = add("check", "check", "Read all cases and list what is wrong with them.")
    below.add_argument("collection", type=Path, metavar="COLLECTION")
    _worker_argument(below)
    text = "Preprocess the cases that a training will read, and nothing else: no GPU is needed."
    _prepare_arguments(add("prepare", "prepare_cases", text))
    below = add("evaluate", "evaluate_collection", "Score a model on whole labelled cases of a collection.")
    below.set_defaults(module="collection_evaluating")
    _evaluate_arguments(below)
    below = add("list", "show", "Say what a collection holds.")
    below.add_argument("collection", type=Path, metavar="COLLECTION")


def _layout_arguments(command: ArgumentParser) -> None:
    command.add_argument("folder", type=Path, nargs="+", metavar="FOLDER", help="one for each data set")
    text = "a structure's label values (those of the data set); repeat for more"
    command.add_argument("--label", action="append", metavar="NAME=VALUE[,VALUE]", help=text)
    text = "a value of voxels that nobody has labelled; repeat for more"
    command.add_argument("--ignore", action="append", type=int, metavar="VALUE", help=text)
    text = "take the labels of this public data set, such as nih-pancreas"
    command.add_argument("--protocol", metavar="NAME", help=text)
    _data_set_arguments(command)
    _output_arguments(command)
    _split_arguments(command)


def _totalsegmentator_arguments(command: ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="FOLDER", help="with the folders sNNNN in it")
    text = "merge only these masks; where two overlap, the one named later wins (all, alphabetically)"
    command.add_argument("--mask", action="append", metavar="NAME", help=text)
    text = "a structure made of masks, such as kidney=kidney_left,kidney_right; repeat for each (each mask)"
    command.add_argument("--label", action="append", metavar="NAME=MASK[,MASK]", help=text)
    command.add_argument(
        "--incomplete", action="store_true", help="leave out cases whose masks cannot be merged"
    )
    _data_set_arguments(command)
    _output_arguments(command)
    _split_arguments(command)
    _worker_argument(command)


def _recipe_arguments(command: ArgumentParser) -> None:
    text = "with the unpacked archives in it"
    command.add_argument("--folder", type=Path, required=True, metavar="ROOT", help=text)
    command.add_argument("--incomplete", action="store_true", help="do with what is there")
    _output_arguments(command)
    _split_arguments(command)


def _phantom_arguments(command: ArgumentParser) -> None:
    text = "gets images, label maps and collection.json"
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help=text)
    text = "about this many for training (%(default)s)"
    command.add_argument("--cases", type=int, default=92, metavar="N", help=text)
    text = "size of a voxel in mm, from 1 to 10 (%(default)s)"
    command.add_argument("--spacing", type=float, default=6.0, metavar="MM", help=text)
    command.add_argument("--seed", type=int, default=0, help="of the phantoms (%(default)s)")


def _prepare_arguments(command: ArgumentParser) -> None:
    add_config_arguments(command)
    text = "that work at the same time, each with one case in memory (all cores but one)"
    command.add_argument("--processes", type=int, metavar="N", help=text)


def _evaluate_arguments(command: ArgumentParser) -> None:
    command.add_argument("collection", type=Path, metavar="COLLECTION")
    text = "an installed model or a package, such as that of a run"
    command.add_argument("--model", required=True, metavar="NAME|PATH", help=text)
    text = "of the collection (test if it has such cases, else validation)"
    command.add_argument("--split", choices=("training", "validation", "test"), help=text)
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help=".csv or .json; else a table")
    command.add_argument("--tolerance", type=float, metavar="MM", help="up to which surfaces agree (3)")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")


def _data_set_arguments(command: ArgumentParser) -> None:
    command.add_argument("--name", metavar="NAME", help="of the data set")
    command.add_argument("--task", metavar="TASK", help="of the model that its cases train")


def _output_arguments(command: ArgumentParser) -> None:
    command.add_argument("-o", "--output", type=Path, required=True, metavar="COLLECTION.json")
    text = "leave out this case, named as in the collection or as its file; repeat for more"
    command.add_argument("--exclude", action="append", default=[], metavar="NAME", help=text)


def _split_arguments(command: ArgumentParser) -> None:
    text = "a file with one case a line for training, validation or test; repeat for each"
    command.add_argument("--list", action="append", metavar="SPLIT=FILE", help=text)
    text = "validate on this fold, 0 to 4 of five (none)"
    command.add_argument("--fold", type=int, metavar="K", help=text)
    text = "take the folds from nnU-Net's splits_final.json instead of drawing them"
    command.add_argument("--folds", type=Path, metavar="FILE", help=text)
    command.add_argument("--seed", type=int, default=0, help="of splits drawn at random (%(default)s)")


def _worker_argument(command: ArgumentParser) -> None:
    text = "cases read at a time (%(default)s)"
    command.add_argument("--workers", type=int, default=2, metavar="N", help=text)
