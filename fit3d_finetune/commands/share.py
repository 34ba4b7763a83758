"""fit3d-share: a fine-tuned backbone for others.

`fit3d-share onnx finetuned/ --output model.onnx`, `program`, `merge`, and `publish`, which asks for `--yes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fit3d_ns.common.choices import FeatureChoice
from fit3d_ns.common.command_line import description, reading
from fit3d_ns.common.console import CONSOLE, logger
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.third_parties import quiet_third_parties

if TYPE_CHECKING:
    from fit3d_finetune.sharing.publishing import Plan


@dataclass
class _NewFile:
    finetuned: Annotated[Path, tyro.conf.Positional]
    """Folder that fit3d-finetune wrote."""
    output: Path
    """A file that is not there yet."""
    features: FeatureChoice = "both"
    """original, finetuned, or both concatenated, the original's channels first."""
    original_weights: str | None = None
    """Where the original's weights are, if they moved (as backbone.weights of ns-train)."""


@dataclass
class Onnx(_NewFile):
    """Write the backbone as one ONNX file, for any number and size of images, and check it with onnxruntime."""

    output: Path = Path("model.onnx")


@dataclass
class Program(_NewFile):
    """Write the backbone as a program of torch.export, which torch runs without timm or fit3d; no pickle is in it."""

    output: Path = Path("model.pt2")


@dataclass
class Merge:
    """Turn a folder of fit3d-finetune --adapter lora into one that timm loads: the adapter merged, bit for bit."""

    finetuned: Annotated[Path, tyro.conf.Positional]
    """Folder that holds the adapter."""
    output_dir: Path
    """A folder that is not there yet."""
    original_weights: str | None = None
    """Where the original's weights are, if elsewhere than where the adapter was made (as backbone.weights of
    ns-train)."""


@dataclass
class Publish:
    """Upload the folder's own files to the Hugging Face hub. Without --yes it only says what it would upload."""

    finetuned: Annotated[Path, tyro.conf.Positional]
    """Folder that fit3d-finetune wrote."""
    repo_id: str
    """user/name; made if it is not there."""
    private: bool = False
    """Of a new repository: only you see it."""
    yes: bool = False
    """Do it."""
    token: str | None = None
    """That may write; other users of the machine can see it on the command line. Default: $HF_TOKEN, or what “hf auth
    login” keeps."""
    endpoint: str | None = None
    """Address of another hub. Default: $HF_ENDPOINT, or huggingface.co."""


Arguments = Onnx | Program | Merge | Publish


def run(arguments: Arguments) -> None:
    """Do what the arguments say.

    Raises:
        InputError: whatever is wrong, and what to do; nothing is left half-written.
    """
    if isinstance(arguments, Onnx | Program):
        from fit3d_finetune.sharing.onnx_file import write_onnx
        from fit3d_finetune.sharing.program_file import write_program

        write = write_onnx if isinstance(arguments, Onnx) else write_program
        written = write(arguments.finetuned, arguments.output, arguments.features, arguments.original_weights)
        logger.info("%s", written)
    elif isinstance(arguments, Merge):
        from fit3d_finetune.backbone.adapter import merge_adapter

        folder = merge_adapter(arguments.finetuned, arguments.output_dir, arguments.original_weights)
        logger.info("Merged: timm.create_model('local-dir:%s', pretrained=True, num_classes=0)", folder)
    else:
        from fit3d_finetune.sharing.publishing import plan, publish, require_repo_id

        require_repo_id(arguments.repo_id)
        planned = plan(arguments.finetuned)
        _show(planned, arguments.repo_id)
        if not arguments.yes:
            logger.info("Nothing was uploaded: give --yes to do it.")
            return
        address = publish(planned, arguments.repo_id, arguments.private, arguments.token, arguments.endpoint)
        logger.info("Published: %s", address)


def _show(planned: Plan, repo_id: str) -> None:
    from rich.table import Table

    shown = Table("file", "MB", title=f"{planned.folder} as {repo_id}")
    for name, size in planned.files.items():
        shown.add_row(name, f"{size / 1e6:.2f}")
    CONSOLE.print(shown)
    if planned.left:
        more = f" and {len(planned.left) - 5} more" if len(planned.left) > 5 else ""
        logger.info("Stays here: %s%s", ", ".join(planned.left[:5]), more)
    for note in planned.notes:
        logger.info("%s", note)


def parse(words: Sequence[str] | None = None) -> Arguments:
    """The arguments of the command line."""
    commands: dict[str, Callable[..., Any]] = {"onnx": Onnx, "program": Program, "merge": Merge, "publish": Publish}
    described = description(
        "A fine-tuned backbone for others: as ONNX, as a program of torch.export, merged, or on a hub."
    )
    with reading(words):
        arguments: Arguments = tyro.extras.subcommand_cli_from_dict(
            commands, prog="fit3d-share", description=described, args=words
        )
    return arguments


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-share`."""
    arguments = parse()
    quiet_third_parties()
    run(arguments)


if __name__ == "__main__":
    main()
