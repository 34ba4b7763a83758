"""Pages that vanish at the worst moment, and pictures that fail, harm neither the training nor other pages."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.utils.writer import GLOBAL_BUFFER
from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine
from nerfstudio.viewer.utils import CameraState
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from viser.infra._infra import WebsockServer

from fit3d_ns.method.viewer.clients import Renderers, forgotten, guard, share_time


class _Client:
    """As much of a viser client as is asked for here."""

    def __init__(self, client_id: int, gone: bool = False) -> None:
        self.client_id = client_id
        self._websock_connection = SimpleNamespace(_state=SimpleNamespace(message_buffer=SimpleNamespace(done=gone)))


def _viewer(*clients: _Client) -> Any:
    """nerfstudio's viewer without its panel: these clients are connected, none has a renderer."""
    viewer = object.__new__(Viewer)
    connected = {client.client_id: client for client in clients}
    viewer.viser_server = SimpleNamespace(  # type: ignore[assignment]
        get_clients=connected.copy, _connected_clients=connected, atomic=WebsockServer("", 0).atomic
    )
    viewer.render_statemachines = Renderers({})
    viewer.ready, viewer.step, viewer.last_step, viewer.last_move_time, viewer.train_util = True, 0, 0, 0, 0.9
    viewer.get_camera_state = lambda client: _camera()  # type: ignore[method-assign]
    return viewer


def _camera() -> CameraState:
    return CameraState(fov=1.0, aspect=1.0, c2w=torch.eye(4)[:3], camera_type=None)  # type: ignore[arg-type]


def _renderer(viewer: Any, client: _Client) -> Any:
    return RenderStateMachine(viewer, 10.0, client)  # type: ignore[arg-type]


def test_a_page_that_vanishes_between_two_lines_does_not_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    # nerfstudio lists the clients, then asks for the renderer of each: here the second is gone by then.
    here, gone = _Client(1), _Client(2)
    viewer = _viewer(here, gone)
    viewer.render_statemachines[1] = _renderer(viewer, here)
    viewer.trainer = SimpleNamespace(training_state="training")
    monkeypatch.setitem(GLOBAL_BUFFER, "events", {})
    viewer.update_camera_poses = viewer.update_step = lambda *_: None
    viewer.update_scene(100, 1000)
    viewer._trigger_rerender()
    assert viewer.render_statemachines[1].next_action is not None


def test_a_page_that_vanishes_while_moving_does_not_keep_visers_lock() -> None:
    viewer = _viewer()
    with viewer.viser_server.atomic():  # as nerfstudio does for every move; viser never frees it after an error
        viewer.render_statemachines[7].action(RenderAction("move", _camera()))
    taken = threading.Event()

    def take() -> None:
        with viewer.viser_server.atomic():
            taken.set()

    threading.Thread(target=take, daemon=True).start()
    assert taken.wait(10)


def test_a_page_that_is_gone_before_it_is_known_is_forgotten() -> None:
    gone, here = _Client(3, gone=True), _Client(4)
    viewer = _viewer(gone, here)
    renderers = {client.client_id: _renderer(viewer, client) for client in (gone, here)}
    viewer.render_statemachines = Renderers(renderers)
    assert forgotten(viewer, gone) is True  # type: ignore[arg-type]
    assert forgotten(viewer, here) is False  # type: ignore[arg-type]
    assert list(viewer.viser_server.get_clients()) == list(viewer.render_statemachines) == [4]
    assert (renderers[3].running, renderers[4].running) == (False, True)


def _run(renderer: Any, until: Any) -> None:
    """The renderer's own loop, until something is true."""
    renderer.start()
    deadline = time.monotonic() + 20
    while not until() and time.monotonic() < deadline:
        time.sleep(0.02)
    renderer.running = False
    renderer.join(10)
    assert until()


def test_a_page_goes_on_after_a_picture_that_could_not_be_rendered(caplog: pytest.LogCaptureFixture) -> None:
    viewer = _viewer(_Client(1))
    renderer = _renderer(viewer, _Client(1))
    rendered: list[int] = []
    sent: list[object] = []

    def render(camera: object) -> dict[str, object]:
        rendered.append(len(rendered))
        if len(rendered) == 2:  # the one of full size, after which nerfstudio would wait for a move
            raise RuntimeError("out of memory")
        return {}

    renderer._render_img, renderer._send_output_to_viewer = render, lambda *a, **k: sent.append(a)
    guard(renderer)
    _run(renderer, lambda: bool(sent))
    assert caplog.text.count("a picture failed") <= 1, "the same failure is said once"


def test_a_page_goes_on_after_a_picture_that_lacks_the_chosen_output() -> None:
    viewer = _viewer(_Client(1))
    renderer = _renderer(viewer, _Client(1))
    sent: list[object] = []

    def send(outputs: object, **options: object) -> None:
        sent.append(outputs)
        renderer.output_keys = {"rgb"}
        if len(sent) == 1:
            raise KeyError("similarity")

    renderer._render_img, renderer._send_output_to_viewer = lambda camera: {}, send
    guard(renderer)
    # The picture is made anew although nothing moves: nerfstudio by itself renders a still page twice.
    _run(renderer, lambda: len(sent) >= 3)


def test_interruptions_are_left_to_nerfstudio() -> None:
    renderer = _renderer(_viewer(), _Client(1))

    def render(camera: object) -> None:
        raise IOChangeException

    renderer._render_img = render
    guard(renderer)
    with pytest.raises(IOChangeException):
        renderer._render_img(None)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_training_has_the_same_share_of_the_time_however_many_look(count: int) -> None:
    viewer = _viewer()
    for client in range(count):
        viewer.render_statemachines[client] = _renderer(viewer, _Client(client))
    share_time(viewer)
    # nerfstudio renders once in so many steps, as if for one page; the time of a step and of a picture are 1 here.
    steps = viewer.train_util / (1 - viewer.train_util)
    assert steps / (steps + count) == pytest.approx(0.9)
