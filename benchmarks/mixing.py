"""Another share of a fine-tuned backbone's weights, without training again.

    python -m benchmarks.mixing --full finetuned/full --share 0.5 --output-dir finetuned/half

`fit3d-finetune --weight-mix` mixes at the end of a training, so that one training with all of the weights
(`--weight-mix 1`) gives every other share: the same interpolation of the same weights, bit for bit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fit3d_finetune.backbone.card import model_card
from fit3d_finetune.backbone.hub import INFO_FILE, read_finetuned, save_finetuned
from fit3d_finetune.training.optimizer import tuned_parameters
from fit3d_finetune.training.train import mix_weights
from fit3d_ns.features.backbone import load_backbone
from fit3d_ns.scene.description import BackboneInfo


def mix(full: Path, share: float, output: Path, backbone: BackboneInfo) -> None:
    """Write the folder that training with `--weight-mix share` would have left.

    Args:
        full: a folder of fit3d-finetune --weight-mix 1.
        share: of the fine-tuned weights, in 0..1.
        output: the folder to write.
        backbone: how an export describes the original (for the model card).
    """
    described = read_finetuned(full)
    recipe = described.summary["run"]["recipe"]
    if recipe["weight_mix"] != 1:
        raise SystemExit(f"{full} was mixed already (weight_mix {recipe['weight_mix']}): give one of --weight-mix 1.")
    tuned, original = load_backbone(described.finetuned), load_backbone(described.original)
    mix_weights(tuned_parameters(tuned), original, share)
    run = {**described.summary["run"], "recipe": {**recipe, "weight_mix": share}}
    summary = {**described.summary, "run": run, "mixed_from": full.name}
    # The folder names the backbone that the training started from, not the one that was loaded here.
    tuned.identity, tuned.config = original.identity, original.config
    save_finetuned(tuned, output, summary, model_card(backbone, summary))


def mixed(full: Path, share: float, output: Path, backbone: BackboneInfo) -> Path:
    """The folder with that share of the weights: made by `mix` unless it is there, or `full` itself for all of them."""
    if share == 1:
        return full
    if not (output / INFO_FILE).exists():
        mix(full, share, output, backbone)
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path, required=True, help="folder of fit3d-finetune --weight-mix 1")
    parser.add_argument("--export", type=Path, required=True, help="any export that it was trained on")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True)
    arguments = parser.parse_args()
    from fit3d_ns.scene.gaussians import FeatureGaussians

    mix(arguments.full, arguments.share, arguments.output_dir, FeatureGaussians.load(arguments.export).scene.backbone)


if __name__ == "__main__":
    main()
