"""fit3d-capture: photos or a video to a capture that nerfstudio trains on: cameras, and points to start from."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from fit3d_ns.commands.needs import require_nerfstudio
from fit3d_ns.common.choices import CameraModel, Mapper
from fit3d_ns.common.command_line import read_arguments, resumable
from fit3d_ns.common.console import logger
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.errors import InputError, exits_on_input_error
from fit3d_ns.common.output_place import require_writable
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.reconstruction.workplace import SUMMARY_FILE, Workplace, check_workplace, key_of, open_workplace

if TYPE_CHECKING:
    from fit3d_ns.reconstruction.pairs import Pair

Matching = Literal["sequential", "exhaustive", "alike"]
MatchingChoice = Literal["auto", "sequential", "exhaustive", "alike"]

MOST_EXHAUSTIVE = 150
"""Photos up to which every two are compared."""
GLOBAL_FROM = 300
"""Photos from which poses are found for all at once."""
_LEAST_SIZE = 200


@dataclass
class CaptureArguments:
    """Make a capture in nerfstudio's format from a folder of photos or a video; a CPU will do.

    Stopped and given again, the same command goes on. capture.json beside transforms.json says what came of it.
    """

    source: tyro.conf.Positional[Path]
    """A video, or a folder of photos."""
    output_dir: Path
    """New or empty folder: transforms.json, images/, sparse_pc.ply, colmap/ and capture.json go there."""
    frames: int = 150
    """Of a video: how many frames at most. The sharpest are taken, and none where the camera stands."""
    max_photos: int | None = None
    """Of a folder: take at most so many, evenly. None: all."""
    matching: MatchingChoice = "auto"
    """Which photos are compared. sequential: each with the next ones (auto for a video); exhaustive: every two (auto up
    to 150 photos); alike: each with the 30 whose features are most alike as a whole (auto above)."""
    mapper: Literal["auto", "incremental", "global"] = "auto"
    """How poses are found. incremental: photo after photo; global: for all at once (auto from 300 photos)."""
    camera_model: CameraModel = "OPENCV"
    """Lens, shared by all photos of one size, device and focal length. SIMPLE_RADIAL has fewer parameters, for few
    photos; OPENCV_FISHEYE is for fisheye lenses."""
    feature_size: int = 1600
    """Longest side in pixels of the image that features are sought in; the images themselves stay as they are."""
    overwrite: bool = False
    """Replace a capture that fit3d-capture made there before, once the new one is complete."""
    dry_run: bool = False
    """Read all photos, find and compare the features of a few, of which nothing is kept, and print what all of it will
    take in time, memory and disk; write nothing."""


@exits_on_input_error
def run(arguments: CaptureArguments) -> Path:
    """Make the capture that the arguments ask for; returns its folder (or where it would be, with --dry-run)."""
    from fit3d_ns.reconstruction.engine import load_pycolmap
    from fit3d_ns.reconstruction.summary import say_summary

    source, output = arguments.source, arguments.output_dir
    _check_numbers(arguments)
    require_nerfstudio("fit3d-capture needs")
    load_pycolmap()
    photos = _source_files(source, arguments.max_photos)
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--output-dir {output} lies in the folder of the photos: give a place outside of it.")
    require_writable(output, needed_bytes=sum(path.stat().st_size for path in photos) if source.is_dir() else 0)
    key = key_of(
        str(source.resolve()),
        [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in photos],
        [arguments.frames, arguments.matching, arguments.camera_model, arguments.feature_size],
    )
    if arguments.dry_run:
        _preview(arguments, photos, check_workplace(output, key, arguments.overwrite))
        return output
    with open_workplace(output, key, arguments.overwrite) as place:
        if not place.finished:
            _make(arguments, photos, place)
    say_summary(json.loads((output / SUMMARY_FILE).read_text()))
    logger.info("Capture: %s; train on it with ns-train fit3d-features --data %s", output, output)
    return output


def _preview(arguments: CaptureArguments, photos: list[Path], left: str) -> None:
    from fit3d_ns.reconstruction.preview import preview_capture

    source = arguments.source
    count = len(photos) if source.is_dir() else arguments.frames
    estimate = preview_capture(
        source, arguments.output_dir, photos, arguments.frames,
        chosen_matching(arguments.matching, count, not source.is_dir()), chosen_mapper(arguments.mapper, count),
        arguments.camera_model, arguments.feature_size,
    )  # fmt: skip
    if left:
        print(f"An earlier run: {left}")
    estimate.show()


def _check_numbers(arguments: CaptureArguments) -> None:
    from fit3d_ns.reconstruction.photos import MIN_PHOTOS

    for option, value, least in (
        ("--frames", arguments.frames, MIN_PHOTOS),
        ("--max-photos", arguments.max_photos, MIN_PHOTOS),
        ("--feature-size", arguments.feature_size, _LEAST_SIZE),
    ):
        if value is not None and value < least:
            raise InputError(f"{option} is {value}; give at least {least}.")


def _source_files(source: Path, most: int | None) -> list[Path]:
    from fit3d_ns.reconstruction.photos import list_photos

    if source.is_dir():
        return list_photos(source, most)
    if not source.is_file():
        raise InputError(f"{source} is not there: give a video or a folder of photos.")
    return [source]


def _make(arguments: CaptureArguments, photos: list[Path], place: Workplace) -> None:
    from fit3d_ns.common.estimate import peak_memory
    from fit3d_ns.common.kept_rates import keep_rate
    from fit3d_ns.reconstruction.engine import extract_features, find_poses, load_pycolmap, match_features
    from fit3d_ns.reconstruction.model import measure_photos, read_model
    from fit3d_ns.reconstruction.photos import MIN_PHOTOS, camera_groups, prepare_photos, write_smaller_copies
    from fit3d_ns.reconstruction.preview import RATES
    from fit3d_ns.reconstruction.quality import find_faults
    from fit3d_ns.reconstruction.summary import make_summary
    from fit3d_ns.reconstruction.video import frames_of_video

    source, is_video = arguments.source, not arguments.source.is_dir()
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(step: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds[step] = time.monotonic() - start

    with timed("photos"):
        if "names" not in place.state:
            folder = place.fresh_folder("images")
            found = (
                frames_of_video(source, folder, arguments.frames)
                if is_video
                else prepare_photos(photos, source, folder)
            )
            place.save(names=found)
        given: dict[str, str] = place.state["names"]
        names = list(given)
    with timed("features"):
        groups = camera_groups(place.images, names)
        if len(groups) > 1:
            logger.info("The photos are of %d sizes, devices or focal lengths: as many cameras", len(groups))
        extract_features(place.database, place.images, groups, arguments.camera_model, arguments.feature_size)
    with timed("matching"):
        matching, pairs = choose_pairs(arguments.matching, names, is_video, place)
        match_features(place.database, pairs, place.folder / "pairs.txt")
    with timed("poses"):
        mapper = chosen_mapper(arguments.mapper, len(names))
        models = find_poses(place.database, place.images, place.fresh_folder("models"), mapper, len(names))
    sizes = [model.num_reg_images() for model in models]
    if not sizes or sizes[0] < MIN_PHOTOS:
        raise InputError(
            f"{source}: the places of only {sizes[0] if sizes else 0} of {len(names)} photos could be found, and "
            f"{MIN_PHOTOS} are needed: take photos from many places, each sharing two thirds of its view with the "
            "next, of things with texture."
        )
    with timed("checks"):
        model = read_model(models[0])
        findings = find_faults(model, len(names), sizes, *measure_photos(model, place.images))
    with timed("writing"):
        result = place.fresh_folder("result")
        sparse = result / "colmap" / "sparse" / "0"
        sparse.mkdir(parents=True)
        models[0].write(sparse)
        write_transforms(sparse, result)
        smaller = write_smaller_copies(place.images, result)
    made_with: dict[str, Any] = {
        "source": str(source),
        "kind": "video" if is_video else "photos",
        "matching": matching,
        "pairs": len(pairs),
        "mapper": mapper,
        "feature_size": arguments.feature_size,
        "pycolmap": load_pycolmap().__version__,
    }
    keep_rate(
        RATES, mapper=mapper, photos=len(names), poses_seconds=seconds["poses"], memory=peak_memory("cpu")
    )  # fmt: skip
    summary = make_summary(model, given, sizes, findings, made_with, seconds)
    files = ["images", *smaller, "colmap", "sparse_pc.ply", SUMMARY_FILE, "transforms.json"]
    (result / SUMMARY_FILE).write_text(json.dumps({**summary, "files": files}, indent=1))
    place.publish([(name if name == "images" else f"result/{name}", name) for name in files])


def chosen_matching(choice: MatchingChoice, count: int, is_video: bool) -> Matching:
    """By which rule so many photos are compared."""
    if choice != "auto":
        return choice
    return "sequential" if is_video else "alike" if count > MOST_EXHAUSTIVE else "exhaustive"


def chosen_mapper(choice: Literal["auto", "incremental", "global"], count: int) -> Mapper:
    """How the poses of so many photos are found."""
    return choice if choice != "auto" else "global" if count >= GLOBAL_FROM else "incremental"


def choose_pairs(
    choice: MatchingChoice, names: list[str], is_video: bool, place: Workplace
) -> tuple[Matching, list[Pair]]:
    """Which pairs of photos are compared, and by which rule; said in the log."""
    from fit3d_ns.reconstruction.engine import read_descriptors
    from fit3d_ns.reconstruction.pairs import alike_pairs, all_pairs, sequential_pairs

    matching = chosen_matching(choice, len(names), is_video)
    if matching == "alike":
        pairs = alike_pairs(names, read_descriptors(place.database))
    else:
        pairs = (sequential_pairs if matching == "sequential" else all_pairs)(names)
    logger.info("%d photos, %d pairs of them are compared (%s)", len(names), len(pairs), matching)
    return matching, pairs


def write_transforms(model: Path, folder: Path) -> None:
    """Write transforms.json and sparse_pc.ply from a COLMAP model, as ns-process-data does."""
    from nerfstudio.process_data.colmap_utils import colmap_to_json

    with contextlib.redirect_stdout(io.StringIO()):  # it prints every camera where there are several
        colmap_to_json(recon_dir=model, output_dir=folder)
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    # Of several cameras it writes the kind of lens beside each frame alone, where nobody looks for it.
    meta.setdefault("camera_model", meta["frames"][0].get("camera_model"))
    path.write_text(json.dumps(meta, indent=4))


def parse(words: Sequence[str] | None = None) -> CaptureArguments:
    """The arguments of the command line."""
    return read_arguments(CaptureArguments, "fit3d-capture", words)


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-capture`."""
    arguments = parse()
    quiet_third_parties()
    with resumable():
        run(arguments)


if __name__ == "__main__":
    main()
