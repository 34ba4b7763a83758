"""fit3d-demo: a page in the browser that shows the features of any photo, before and after fine-tuning."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from fit3d_ns.common.choices import DeviceChoice
from fit3d_ns.common.command_line import read_arguments
from fit3d_ns.common.console import logger
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.third_parties import quiet_third_parties

SMALLEST_SIZE = 112


@dataclass
class DemoArguments:
    """Show in a browser what the original and the fine-tuned backbone make of any photo: colours of their features,
    clusters, similarity to a click, and depth and normals where the folder keeps heads of them."""

    finetuned: Path
    """A folder of fit3d-finetune."""
    examples: Path | None = None
    """A folder of photos to offer on the page."""
    max_size: int = 560
    """Longest side in pixels to which photos are shrunk; larger shows more detail and takes longer."""
    original_weights: str | None = None
    """Where the original's weights are now, if they were a file that moved."""
    device: DeviceChoice = "auto"
    """auto: CUDA where there is a GPU."""
    host: str = "127.0.0.1"
    """Where to listen. Default: this machine alone. 0.0.0.0: all of the network, without a password."""
    port: int = 7860
    """0: any that is free."""


def run(arguments: DemoArguments) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    from fit3d_finetune.backbone.hub import read_finetuned
    from fit3d_finetune.page.features import load_backbones
    from fit3d_finetune.page.layout import CSS, Page, PageOptions
    from fit3d_finetune.page.photos import find_examples
    from fit3d_finetune.page.server import is_local, require_gradio, require_place, served
    from fit3d_ns.common.device import choose_device

    if arguments.max_size < SMALLEST_SIZE:
        raise InputError(f"--max-size must be at least {SMALLEST_SIZE} pixels, not {arguments.max_size}.")
    read_finetuned(arguments.finetuned)
    # All that may be wrong is found before the backbones are loaded.
    require_gradio()
    port = require_place(arguments.host, arguments.port)
    examples = [] if arguments.examples is None else find_examples(arguments.examples)
    backbones = load_backbones(arguments.finetuned, choose_device(arguments.device), arguments.original_weights)
    if backbones.no_geometry:
        logger.info("The page has no depth and normals: %s", backbones.no_geometry)
    options = PageOptions(arguments.finetuned.resolve().name, arguments.max_size, examples)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with served(lambda gradio: Page(gradio, backbones, options).blocks, arguments.host, port, CSS) as address:
            logger.info("Open %s in a browser; Ctrl-C ends it", address)
            if not is_local(arguments.host):
                logger.warning("Everyone who reaches this machine can use the page: it asks for no password")
            Event().wait()
    except KeyboardInterrupt:
        logger.info("The page is closed; photos and pictures are deleted")


def parse(words: Sequence[str] | None = None) -> DemoArguments:
    """The arguments of the command line."""
    return read_arguments(DemoArguments, "fit3d-demo", words)


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-demo`."""
    arguments = parse()
    quiet_third_parties()
    run(arguments)


if __name__ == "__main__":
    main()
