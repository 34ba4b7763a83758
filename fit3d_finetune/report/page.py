"""The whole page: its sections in order, its style and its script, in one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from fit3d_finetune.probing.other_angles import MIN_ANGLE
from fit3d_finetune.probing.results import Example, ProbeResults
from fit3d_finetune.report.charts import arm_legend, class_bars, class_ious, consistency_curves
from fit3d_finetune.report.data import write_figures
from fit3d_finetune.report.features import FeatureViews, feature_rows, heat_table, similarity_rows, view_features
from fit3d_finetune.report.headline import headline, headline_arm, is_control
from fit3d_finetune.report.images import photo_style
from fit3d_finetune.report.markup import Content, Markup, join, tag
from fit3d_finetune.report.predictions import depth_rows, normal_rows, segmentation_rows
from fit3d_finetune.report.tables import comparison_list, finding_tiles, how_compared, provenance, table_of_arms
from fit3d_ns.common.atomic import atomic_file

# The browser itself then refuses to load anything from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_ONE_PROJECTION = (
    "The colour projection and the clusters are fitted once, to all pictures and backbones together: "
    "equal colours mean equal features."
)

_OTHER_ANGLES = (
    " Other angles: every patch takes the labels of the most similar patches of other views of its scene that are "
    f"seen at least {MIN_ANGLE:g} degrees aside from its own ray, so that it has to know a thing from another side."
)

FIGURES_FOLDER = "figures"


def write_report(results: ProbeResults, examples: Sequence[Example], path: Path) -> None:
    """Write the report as one HTML file that needs nothing else, and its figures' data beside it.

    Parts that there is nothing for (no labels, no depth, no examples, ...) are left out.

    Args:
        results: all figures.
        examples: test images with what the probes made of them, for the pictures; may be empty.
        path: the HTML file; `figures/` beside it gets the data as CSV and JSON (see `write_figures`).
    """
    views = view_features(examples)
    write_figures(results, examples, views, path.parent / FIGURES_FOLDER)
    with atomic_file(path) as temporary:
        temporary.write_text(_page(results, examples, views), encoding="utf-8")


def _page(results: ProbeResults, examples: Sequence[Example], views: FeatureViews | None) -> str:
    style = _resource("report.css") + "\n".join(
        photo_style(index, example.image) for index, example in enumerate(examples)
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", "fit3d-probe report"),
        tag("style", Markup(style)),
    )
    script = tag("script", Markup(_resource("report.js")))
    body = tag("body", _header(results), tag("main", _sections(results, examples, views)), script)
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _header(results: ProbeResults) -> Markup:
    scenes = f"{len(results.scenes)} test scene{'s' if len(results.scenes) != 1 else ''} · "
    tested = f"{len(results.test_images)} test images of {scenes}" if results.test_images else ""
    seeds = f"{len(results.seeds)} probe seed{'s' if len(results.seeds) != 1 else ''}"
    return tag(
        "header",
        tag("p", f"fit3d-probe report · {results.protocol} protocol · {tested}{seeds}", class_="eyebrow"),
        tag("h1", _unbroken(headline(results))),
        finding_tiles(results),
    )


def _sections(results: ProbeResults, examples: Sequence[Example], views: FeatureViews | None) -> list[Markup | None]:
    arm = headline_arm(results)
    first = results.arms[0].name if results.arms else ""
    left_out = ""
    if views and views.left_out:
        left_out = f" Not shown, having another number of channels: {', '.join(views.left_out)}."
    controls = ""
    if any(map(is_control, results.arms)):
        controls = " Controls (grey) show what does not come from 3D: a tuning without it, or a backbone beside itself."
    order = f" Classes that “{arm.name}” gained most in come first." if arm else ""
    has_classes = bool(class_ious(results))
    return [
        _section(
            "Arms",
            "Means over test scenes, ± standard deviation over probe seeds; bold is the best of a column."
            f"{controls}{_OTHER_ANGLES if results.nearest_neighbours_across else ''}",
            table_of_arms(results),
        ),
        _section(f"Compared with “{first}”", how_compared(results), comparison_list(results)),
        _section(
            "IoU by class",
            f"Per cent.{order} Pale classes are too rare in the test data to count in mIoU.",
            join(arm_legend(results), class_bars(results)) if has_classes else None,
        ),
        _section(
            "Multi-view consistency",
            "Pixels of one view looked up in another view of the same scene. "
            "Recall: the most similar feature lies at the right place.",
            join(arm_legend(results), consistency_curves(results)) if results.consistency else None,
        ),
        _section("Features", _ONE_PROJECTION + left_out, feature_rows(examples, views) if views else None),
        _section(
            "Similarity",
            "Cosine with the patch under the mark. Click, drag or use the arrow keys in any picture to move it.",
            similarity_rows(examples, views) if views else None,
            data_heat=heat_table(),
        ),
        _section(
            "Segmentation",
            "Predictions of the first probe seed; below them the wrong pixels in red. Dark: not labelled.",
            segmentation_rows(results, examples),
        ),
        _section(
            "Depth",
            "Predictions of the first probe seed; below them the absolute error. Dark: depth unknown.",
            depth_rows(results, examples),
        ),
        _section(
            "Surface normals",
            "Predictions of the first probe seed; below them the angle between. Red: to the right, green: upwards, "
            "blue: towards the camera; grey: unknown.",
            normal_rows(results, examples),
        ),
        _section("Provenance", None, provenance(results)),
    ]


def _unbroken(sentence: str) -> str:
    """The sentence with its figures and their units kept on one line."""
    return re.sub(r"(?<=[\d→×]) (?=[→%m\d])", "\N{NO-BREAK SPACE}", sentence)


def _section(title: str, introduction: str | None, content: Content, **attributes: str) -> Markup | None:
    """A part of the page; None if it has no content."""
    if not content:
        return None
    words = tag("p", introduction, class_="introduction") if introduction else None
    return tag("section", tag("h2", title), words, content, **attributes)


def _resource(name: str) -> str:
    return resources.files("fit3d_finetune.report").joinpath(name).read_text(encoding="utf-8")
