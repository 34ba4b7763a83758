"""What a capture would take, found by the first steps on a few of its photos, of which nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from fit3d_ns.capture.images import read_header
from fit3d_ns.common.choices import CameraModel, Mapper
from fit3d_ns.common.console import clock
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.estimate import Estimate, Room, Step, peak_memory, rehearsal
from fit3d_ns.common.kept_rates import Entry, kept_rates
from fit3d_ns.reconstruction.engine import extract_features, match_features
from fit3d_ns.reconstruction.pairs import ALIKE, all_pairs, sequential_pairs
from fit3d_ns.reconstruction.photos import FULL_SIDE, camera_groups, prepare_photos, save_jpeg
from fit3d_ns.reconstruction.video import decoded_frames, look_at_video

RATES = "fit3d-capture"
FEW = 6
"""Photos in which features are sought, and of which every two are compared."""
_FAR = 3.0
"""Poses of so many times more, or fewer, photos say nothing: their time does not grow in proportion."""


def preview_capture(
    source: Path,
    output: Path,
    photos: Sequence[Path],
    most_frames: int,
    matching: str,
    mapper: Mapper,
    camera_model: CameraModel,
    feature_size: int,
) -> Estimate:
    """Look at photos or a video as a start would, and find and compare the features of a few.

    Args:
        photos: all, or the video alone.
        most_frames: of the video.
        matching, mapper: as chosen for the number of photos.

    Raises:
        InputError: as the making of the capture, but for what only all features and poses show.
    """
    is_video = not source.is_dir()
    with rehearsal() as folder:
        images = folder / "images"
        images.mkdir()
        if is_video:
            reading, names, count = _frames(source, images, most_frames)
        else:
            reading, names, count = _photos(photos, source, images)
        sizes = [path.stat().st_size for path in images.iterdir()]
        header = read_header(images / names[0])
        groups = camera_groups(images, names)
        features = _timed(
            lambda: extract_features(folder / "database.db", images, groups, camera_model, feature_size)
        ) / len(names)
        compared = all_pairs(names)
        pair = _timed(lambda: match_features(folder / "database.db", compared, folder / "pairs.txt")) / len(compared)
        database = (folder / "database.db").stat().st_size / len(names)
        memory = peak_memory("cpu")
    pairs, bound = count_pairs(matching, count)
    images_bytes = count * sum(sizes) / len(sizes) if is_video else float(sum(path.stat().st_size for path in photos))
    smaller = sum(
        0.25**power for power in range(1, 6) if max(header.width, header.height) > FULL_SIDE * 2 ** (power - 1)
    )
    poses = _poses(count, mapper)
    up_to = "up to " if is_video else ""
    return Estimate(
        plan=(
            ("Source", f"{source}, {up_to}{count} {'frames' if is_video else 'photos'}"),
            ("Pairs", f"{bound}{pairs} to compare ({matching})"),
            ("Poses", mapper),
            ("Output", f"{output}"),
        ),
        steps=(
            reading,
            Step(
                f"features of {up_to}{count} photos",
                count * features,
                f"{features:.2f} s each, measured now on {len(names)}",
            ),
            Step(
                f"comparing {bound}{pairs} pairs", pairs * pair, f"{pair:.3f} s each, measured now on {len(compared)}"
            ),
            poses,
        ),
        memory=None
        if poses.seconds is None
        else max([float(memory), *(float(entry["memory"]) for entry in _near(count, mapper))]),
        memory_rate="finding poses takes most, of which no rate is known yet"
        if poses.seconds is None
        else "measured now, and when poses were found before",
        rooms=(
            Room("images and smaller copies", output, images_bytes * (1 + smaller), "by those that are given"),
            Room("features and matches, while it works", output, count * database, f"measured now on {len(names)}"),
        ),
    )


def count_pairs(matching: str, count: int) -> tuple[int, str]:
    """How many pairs are compared, and "" or "up to " where that is a bound."""
    names = [f"{index:06d}" for index in range(count)]
    if matching == "sequential":
        return len(sequential_pairs(names)), ""
    every = count * (count - 1) // 2
    return (every, "") if matching == "exhaustive" else (min(every, (ALIKE + 2) * count), "up to ")


def _photos(photos: Sequence[Path], source: Path, images: Path) -> tuple[Step, list[str], int]:
    """All photos are read, so that none is found broken later; a few stay."""
    scratch = images.parent / "all"
    scratch.mkdir()
    start = time.perf_counter()
    prepared = list[str]()
    for photo in photos:
        (name,) = prepare_photos([photo], source, scratch)
        target = f"frame_{len(prepared) + 1:05d}{Path(name).suffix}"
        if len(prepared) < FEW:
            (scratch / name).rename(images / target)
        else:
            (scratch / name).unlink()
        prepared.append(target)
    seconds = time.perf_counter() - start
    step = Step(f"reading {len(photos)} photos", seconds, "measured now on all of them")
    return step, prepared[:FEW], len(photos)


def _frames(video: Path, images: Path, most: int) -> tuple[Step, list[str], int]:
    announced, seconds = look_at_video(video)
    names = list[str]()
    for _, frame in islice(decoded_frames(video), 0, None, 5):
        names.append(f"frame_{len(names) + 1:05d}.jpg")
        save_jpeg(images / names[-1], frame[..., ::-1].copy())
        if len(names) == FEW:
            break
    if announced <= 0:
        step = Step("frames", None, "the video does not say how many frames it has")
    else:
        # Decoded twice: to measure, and to write what was picked.
        step = Step(
            f"looking at {announced} frames", announced * seconds, f"{1000 * seconds:.0f} ms each, measured now on some"
        )
    if len(names) < 2:
        raise InputError(f"{video} has too few frames: give a longer video, or a folder of photos.")
    return step, names, min(most, announced) if announced > 0 else most


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _poses(count: int, mapper: Mapper) -> Step:
    what = f"poses of {count} photos"
    near = _near(count, mapper)
    if not near:
        why = f"it does not grow in proportion, and no capture of {count / _FAR:.0f} to {count * _FAR:.0f} photos"
        return Step(what, None, f"{why} was made on this machine yet")
    each = [float(entry["poses_seconds"]) / float(entry["photos"]) for entry in near]
    mean = sum(each) / len(each)
    spread = f", {clock(min(each) * count)} to {clock(max(each) * count)}" if len(each) > 1 else ""
    return Step(what, count * mean, f"{mean:.2f} s each{spread}, measured on {len(near)} captures of like size before")


def _near(count: int, mapper: Mapper) -> list[Entry]:
    """Captures that were made on this machine of about so many photos."""
    known = kept_rates(RATES, mapper=mapper)
    return [entry for entry in known if 1 / _FAR <= count / float(entry["photos"]) <= _FAR]
