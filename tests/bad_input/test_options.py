"""Options out of range, options that do not go together, and places that cannot be written, of all commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bad_input.catalogue import RUN, Case, Refused, written
from tests.bad_input.test_captures import PROBE
from tests.bad_input.test_exports import FINETUNE, LIFT

PROBED = ("room", "other_room")
EXPORTED = ("runs",)


def out_of_range(
    words: tuple[str, ...],
    needs: tuple[str, ...],
    options: dict[str, tuple[str, ...]],
    says: Callable[[str], str] = str,
) -> Iterator[Case]:
    """A command with each value of each option; `says` gives what of the option's name the sentence has."""
    for option, values in options.items():
        for value in values:
            name = f"{words[0].removeprefix('fit3d-')} {option} {value}"
            yield Case(name, (*words, option, value), (says(option),), needs)


def as_field(option: str) -> str:
    """The name of an option, or of the field that it fills."""
    return option.strip("-").replace("-", "[-_]")


def numbers() -> Iterator[Case]:
    finetune = {
        "--epochs": ("0", "-1"),
        "--batch-size": ("0", "-1"),
        "--accumulate": ("0", "-3"),
        "--lr": ("0", "-1", "nan", "inf"),
        "--weight-decay": ("-1", "nan", "inf"),
        "--clip-norm": ("-1", "nan", "0"),
        "--warmup": ("-0.1", "1.5", "nan"),
        "--layer-decay": ("0", "-1", "nan", "2"),
        "--keep-original": ("-0.1", "1.1", "nan"),
        "--position-share": ("-0.1", "1.1", "nan"),
        "--weight-mix": ("-0.1", "1.1", "nan"),
        "--crop-scale": ("0", "-1", "1.5", "nan"),
        "--depth-weight": ("-1", "nan", "inf"),
        "--normal-weight": ("-1", "nan"),
        "--class-token-weight": ("-1", "nan"),
        "--gram-weight": ("-1", "nan"),
        "--anchor-weight": ("-1", "nan"),
        "--anchor-margin": ("nan", "-2", "1.5"),
        "--head-lr": ("0", "-1", "nan"),
        "--block-scenes": ("-1",),
        "--novel-views": ("-1",),
        "--val-fraction": ("-0.1", "1", "nan"),
        "--max-steps": ("0", "-1"),
        "--save-seconds": ("-1", "nan"),
        "--target-cache-gb": ("-1", "nan"),
        "--remote-cache-gb": ("-1", "nan"),
        "--seed": ("-1",),
    }
    yield from out_of_range(FINETUNE, EXPORTED, finetune, as_field)
    yield from out_of_range((*FINETUNE, "--adapter", "lora"), EXPORTED, {"--rank": ("0", "-1")}, as_field)
    probe = {
        "--seeds": ("-1", "18446744073709551616"),
        "--iterations": ("0", "-1"),
        "--max-depth": ("0", "-1", "nan", "inf", "1e30"),
        "--backbone.layer": ("99", "-99"),
        "--backbone.max-size": ("0", "-1", "3"),
    }
    yield from out_of_range(PROBE, PROBED, probe, as_field)
    lift = {
        "--feature-dim": ("0", "-1"),
        "--backbone.layer": ("99", "-99"),
        "--backbone.max-size": ("0", "-1"),
        "--solver.regularization": ("-1", "nan"),
        "--solver.tolerance": ("-1", "nan"),
        "--solver.max-iterations": ("-1",),
        "--solver.robust-scale": ("0", "-1", "nan"),
        "--solver.reweightings": ("-1",),
        "--solver.min-weight": ("-1", "nan"),
    }
    yield from out_of_range(LIFT, EXPORTED, lift, as_field)
    capture = ("fit3d-capture", "photos", "--output-dir", "made")
    small = ("0", "-1", "2")
    counts = {"--frames": small, "--max-photos": small, "--feature-size": small}
    yield from out_of_range(capture, ("photos",), counts)
    scenes = ("fit3d-scenes", "--scenes", "capture", "--output-dir", "made", "--work-dir", "work")
    shares = {"--jobs": ("0", "-1"), "--gpus-per-scene": ("-1", "nan"), "--cpus-per-scene": ("0",)}
    yield from out_of_range(scenes, ("capture",), shares)
    demo = {"--port": ("-1", "65536", "99999999"), "--max-size": ("0", "-1")}
    yield from out_of_range(("fit3d-demo", "--finetuned", "finetuned"), ("finetuned",), demo)
    export = ("fit3d-export", "--load-config", f"{RUN}/config.yml", "--output-dir", "made")
    yield from out_of_range(export, ("outputs",), {"--previews": ("-1",)})


def combinations() -> Iterator[Case]:
    yield Case("export: nothing", ("fit3d-export", "--output-dir", "made"), ("--load-config", "--all"))
    yield Case("export: both", ("fit3d-export", "--load-config", "a", "--all", "b"), ("--load-config", "--all"))
    yield Case("export: no run", ("fit3d-export", "--load-config", "none.yml"), (r"none\.yml",))
    yield Case("export: no runs", ("fit3d-export", "--all", "photos", "--output-dir", "made"), ("photos",), ("photos",))
    yield Case("lift: nothing", ("fit3d-lift", "--output-dir", "made"), ("--export", "--load-config", "--ply"))
    yield Case("lift: two sources", (*LIFT, "--load-config", "a.yml"), ("--export", "--load-config"), EXPORTED)
    yield Case("lift: ply alone", ("fit3d-lift", "--ply", "a.ply", "--output-dir", "made"), ("--ply", "--data"))
    yield Case("lift: onto itself", (*LIFT[:3], "--output-dir", "runs", "--name", "attic"), ("runs/attic",), EXPORTED)
    yield Case("probe: no training data", PROBE[:3], ("--train-data",), PROBED)
    yield Case("probe: no test data", ("fit3d-probe", "--test-data"), ("--test-data",))
    yield Case("probe: no seeds", (*PROBE, "--seeds"), ("--seeds",), PROBED)
    yield Case("probe: a seed twice", (*PROBE, "--seeds", "3", "3"), ("--seeds",), PROBED)
    yield Case("data: no such kind", ("fit3d-data", "check", "nokind", "nowhere"), ("nokind",))
    yield Case("probe: no tasks", (*PROBE, "--tasks"), ("--tasks",), PROBED)
    yield Case("probe: no such data", ("fit3d-probe", "--test-data", "nowhere", "--train-data", "x"), ("x|nowhere",))
    yield Case("probe: no such kind", ("fit3d-probe", "--test-data", "nokind:room"), ("nokind",), PROBED)
    yield Case("probe: no such arm", (*PROBE, "--arm", "mine"), ("--arm", "NAME=WEIGHTS"), PROBED)
    yield Case("probe: an arm of nothing", (*PROBE, "--arm", "mine="), ("mine|--arm",), PROBED)
    yield Case("probe: an arm twice", (*PROBE, "--arm", "a=random", "a=random"), ("--arm|a",), PROBED)
    yield Case(
        "probe: control without fine-tuned", (*PROBE, "--control", "control"), ("--finetuned",), (*PROBED, "control")
    )
    both = ("--finetuned", "finetuned", "--control", "control")
    words = (*PROBE[:7], *both)
    yield Case("probe: a control that is none", words, ("--control", "mirror"), (*PROBED, "finetuned", "control"))
    yield Case("finetune: no such validation scene", (*FINETUNE, "--val-scenes", "cellar"), ("cellar",), EXPORTED)
    yield Case("finetune: all held out", (*FINETUNE, "--val-scenes", "attic", "barn"), ("val-scenes",), EXPORTED)
    yield Case("finetune: adapter's weights without one", (*FINETUNE, "--save", "adapter"), ("--adapter",), EXPORTED)
    yield Case("finetune: weights of nowhere", (*FINETUNE, "--weights", "none.pth"), (r"none\.pth",), EXPORTED)
    yield Case("finetune: images of nowhere", (*FINETUNE, "--images-root", "none"), ("none",), EXPORTED)
    yield Case("finetune: no such store", ("fit3d-finetune", "--exports", "ftp://x/y"), ("ftp",))
    yield Case("capture: no source", ("fit3d-capture", "none", "--output-dir", "made"), ("none",))
    yield Case(
        "capture: into its source", ("fit3d-capture", "photos", "--output-dir", "photos/x"), ("photos",), ("photos",)
    )
    yield Case("scenes: none", ("fit3d-scenes", "--scenes"), ("--scenes",))
    yield Case("scenes: not there", ("fit3d-scenes", "--scenes", "none"), ("none",))
    yield Case("scenes: twice", ("fit3d-scenes", "--scenes", "capture", "x/../capture"), ("capture|x",), ("capture",))
    yield Case("data: none", ("fit3d-data", "check", "scene", "nowhere"), ("nowhere",))
    yield Case("doctor: no run", ("fit3d-doctor", "--load-config", "none.yml"), (r"none\.yml",))


def places() -> Iterator[Case]:
    commands = {
        "finetune": ((*FINETUNE, "--output-dir"), EXPORTED),
        "probe": ((*PROBE, "--output-dir"), PROBED),
        "lift": ((*LIFT, "--output-dir"), EXPORTED),
        "capture": (("fit3d-capture", "photos", "--output-dir"), ("photos",)),
        "export": (("fit3d-export", "--load-config", f"{RUN}/config.yml", "--output-dir"), ("outputs",)),
        "scenes": (("fit3d-scenes", "--scenes", "capture", "--output-dir"), ("capture",)),
    }
    for name, (words, needs) in commands.items():
        for kind, place in {
            "a file": "taken",
            "below a file": "taken/deep",
            "in proc": "/proc/fit3d",
            "too long": "x" * 300,
        }.items():
            says = place.split("/")[0] or "proc"
            yield Case(f"{name}: place {kind}", (*words, place), (says,), needs, written("taken", "a user's file"))
    for name, file in (("finetune", "README.md"), ("probe", "report.html")):
        words, needs = commands[name]
        theirs = written(f"mine/{file}", "a user's own")
        yield Case(f"{name}: a user's file in the way", (*words, "mine"), (file, "did not write"), needs, theirs)
    for name in ("lift",):
        words, needs = commands[name]
        theirs = written("mine/plane/notes.txt", "a user's own")
        yield Case(f"{name}: a user's folder in the way", (*words, "mine"), ("mine/plane",), needs, theirs)
    for name in ("", ".", "..", "../up", "/abs", ".git", "a/b", "x" * 300, "a\nb", "a|b", "<b>"):
        yield Case(f"lift: --name {name[:9]!r}", (*LIFT, "--name", name), ("--name",), EXPORTED)


ALL = [*numbers(), *combinations(), *places()]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_it_is_refused_in_one_sentence(case: Case, refused: Refused) -> None:
    refused(case)
