"""A client of nerfstudio's viewer without a browser: it speaks viser's protocol over its websocket, as a page does."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """A rendering as it arrived."""

    when: float
    """Of `time.perf_counter`."""
    data: bytes
    """JPEG or PNG."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        import io

        return Image.open(io.BytesIO(self.data)).size


@dataclass
class Camera:
    """Of the page, in viser's units and axes."""

    wxyz: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    position: tuple[float, ...] = (0.0, 0.0, 0.0)
    fov: float = 1.0
    aspect: float = 4 / 3

    def turned(self, angle: float) -> Camera:
        """Turned about the vertical (of its own picture), in radians."""
        import viser.transforms as vtf

        rotation = vtf.SO3(np.array(self.wxyz)) @ vtf.SO3.from_y_radians(angle)
        return Camera(tuple(map(float, rotation.wxyz)), self.position, self.fov, self.aspect)

    def message(self) -> dict[str, Any]:
        import viser.transforms as vtf

        axes = vtf.SO3(np.array(self.wxyz)).as_matrix()
        ahead = np.array(self.position) + axes[:, 2]
        return {
            "type": "ViewerCameraMessage",
            "wxyz": self.wxyz,
            "position": self.position,
            "fov": self.fov,
            "aspect": self.aspect,
            "look_at": tuple(map(float, ahead)),
            "up_direction": tuple(map(float, -axes[:, 1])),
        }

    def ahead(self) -> tuple[float, ...]:
        """The direction of its axis."""
        import viser.transforms as vtf

        return tuple(map(float, vtf.SO3(np.array(self.wxyz)).as_matrix()[:, 2]))


@dataclass
class _Heard:
    """What the server has said so far."""

    elements: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id: the message that added it, with later updates."""
    pictures: list[Picture] = field(default_factory=list)
    """The last few."""
    count: int = 0
    """Of pictures."""
    hears_clicks: bool = False


class ViewerClient:
    """A page without a screen.

    Args:
        port: of the viewer's server, on this machine.
        aspect: width / height of the scene.
    """

    def __init__(self, port: int, aspect: float = 4 / 3) -> None:
        self._socket = connect(f"ws://127.0.0.1:{port}", max_size=None, compression=None, open_timeout=60)
        self._heard = _Heard()
        self._news = threading.Condition()
        self.camera = Camera(aspect=aspect)
        self.closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._send(self.camera.message())

    # ---- what a user does

    def move(self, camera: Camera) -> None:
        """Look from elsewhere."""
        self.camera = camera
        self._send(camera.message())

    def press(self, label: str) -> None:
        """Press a button."""
        self._update(label, True)

    def set(self, label: str, value: object) -> None:
        """Move a slider, choose from a drop-down, write into a field, tick a box."""
        self._element(label)["value"] = value
        self._update(label, value)

    def click(self, x: float = 0.0, y: float = 0.0, timeout: float = 60) -> None:
        """Click in the scene, at tangents right of and below the middle of the picture; as soon as clicks are heard."""
        import viser.transforms as vtf

        self.wait_until(lambda: self._heard.hears_clicks, "the server to hear clicks", timeout)
        axes = vtf.SO3(np.array(self.camera.wxyz)).as_matrix()
        direction = axes @ np.array([x, y, 1.0])
        self._send(
            {
                "type": "ScenePointerMessage",
                "event_type": "click",
                "ray_origin": self.camera.position,
                "ray_direction": tuple(map(float, direction / np.linalg.norm(direction))),
                "screen_pos": ((0.5 + x, 0.5 + y),),
            }
        )

    def vanish(self) -> None:
        """Go without a word, as when a cable is pulled: the socket is reset."""
        raw = self._socket.socket
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.shutdown(socket.SHUT_RD)
        with suppress(OSError):
            raw.close()
        self.closed = True

    def close(self) -> None:
        """Close the page."""
        self.closed = True
        with suppress(Exception):
            self._socket.close()

    # ---- what a user sees

    @property
    def pictures(self) -> int:
        """How many came so far."""
        return self._heard.count

    def value(self, label: str) -> Any:
        """What a control is set to."""
        return self._element(label)["value"]

    def options(self, label: str = "Output type") -> tuple[str, ...]:
        """The entries of a drop-down."""
        return tuple(self._element(label)["options"])

    def labels(self) -> list[str]:
        """Of all controls."""
        with self._news:
            return [element["label"] for element in self._heard.elements.values() if "label" in element]

    def says(self, words: str) -> bool:
        """Whether some text on the page has these words."""
        with self._news:
            return any(words in str(element.get("markdown", "")) for element in self._heard.elements.values())

    def next_picture(self, after: int, timeout: float = 60, enough: Callable[[Picture], bool] | None = None) -> Picture:
        """The first picture beyond the first `after`; of those that are enough."""

        def find() -> Picture | None:
            fresh = self._heard.count - after
            seen: Iterable[Picture] = self._heard.pictures[-fresh:] if fresh > 0 else ()
            return next((picture for picture in seen if enough is None or enough(picture)), None)

        return self.wait_until(find, "a picture", timeout)

    def wait_until(self, look: Callable[[], T], what: str, timeout: float = 60) -> T:
        """Wait for something to be true.

        Raises:
            TimeoutError: it did not come.
        """
        deadline = time.monotonic() + timeout
        with self._news:
            while not (seen := look()):
                left = deadline - time.monotonic()
                if left <= 0 or self.closed:
                    raise TimeoutError(f"{what} did not come in {timeout:.0f} s")
                self._news.wait(min(left, 0.5))
        return seen

    # ----

    def _element(self, label: str) -> dict[str, Any]:
        elements = self._heard.elements

        def find() -> dict[str, Any] | None:
            # A folder may be called like a control in it.
            named = (each for each in elements.values() if each.get("label") == label and "value" in each)
            return next(named, None)

        found = self.wait_until(find, f"the control {label!r}")
        assert found is not None
        return found

    def _update(self, label: str, value: object) -> None:
        message = {"type": "GuiUpdateMessage", "id": self._element(label)["id"], "updates": {"value": value}}
        self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

    def _read(self) -> None:
        with suppress(ConnectionClosed, OSError):
            for data in self._socket:
                for message in msgspec.msgpack.decode(data):
                    self._hear(message)
        with self._news:
            self.closed = True
            self._news.notify_all()

    def _hear(self, message: dict[str, Any]) -> None:
        kind, heard, moved = message["type"], self._heard, False
        with self._news:
            if kind.startswith("GuiAdd"):
                heard.elements[message["id"]] = message
            elif kind == "GuiUpdateMessage":
                heard.elements.setdefault(message["id"], {}).update(message["updates"])
            elif kind == "BackgroundImageMessage":
                heard.pictures = [*heard.pictures[-20:], Picture(time.perf_counter(), message["rgb_bytes"])]
                heard.count += 1
            elif kind == "ScenePointerEnableMessage":
                heard.hears_clicks = message["enable"]
            elif kind == "SetCameraPositionMessage":
                self.camera.position, moved = tuple(message["position"]), True
            elif kind == "SetCameraOrientationMessage":
                self.camera.wxyz, moved = tuple(message["wxyz"]), True
            elif kind == "SetCameraFovMessage":
                self.camera.fov, moved = message["fov"], True
            self._news.notify_all()
        if moved:
            with suppress(ConnectionClosed, OSError):
                self._send(self.camera.message())
