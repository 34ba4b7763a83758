"""Pages that come, vanish and come again, and pictures that fail: nerfstudio's viewer is to outlive them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from viser import ClientHandle, ViserServer

from fit3d_ns.common.console import logger

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

TRAIN_SHARE = 0.9
"""Of the time, training's beside all pages together: nerfstudio's own, which it reckons with for one page."""


class Gone:
    """Stands for the renderer of a page that is gone: whatever it is asked, it does nothing."""

    running = False

    def action(self, action: RenderAction) -> None:
        """Nobody looks."""


class Renderers(dict[int, Any]):
    """nerfstudio's renderers (`RenderStateMachine`) by client, of which none ends by an error.

    nerfstudio lists the clients and then asks for their renderers. A page that vanishes in between was a KeyError,
    which ended the training, or, where it was thrown inside of viser's `atomic`, left that lock taken for ever.
    """

    def __init__(self, renderers: Mapping[int, RenderStateMachine]) -> None:
        super().__init__()
        for client, renderer in renderers.items():
            self[client] = renderer

    def __missing__(self, client: int) -> Gone:
        return Gone()

    def __setitem__(self, client: int, renderer: RenderStateMachine) -> None:
        guard(renderer)
        super().__setitem__(client, renderer)


def guard(renderer: RenderStateMachine) -> None:
    """Have a renderer go on after an error, which ends nerfstudio's thread and with it a page's pictures.

    Pages share one list of outputs: where one of them makes another list while a picture of the other is on its way,
    the output that is chosen is not in it.
    """
    render, send = renderer._render_img, renderer._send_output_to_viewer
    failures: set[str] = set()

    @functools.wraps(render)
    def guarded_render(*args: Any, **kwargs: Any) -> Any:
        share_time(renderer.viewer)
        try:
            return render(*args, **kwargs)
        except IOChangeException:
            raise
        except Exception as error:
            if repr(error) not in failures:
                failures.add(repr(error))
                logger.exception("Viewer: a picture failed; others go on")
                renderer.state = "low_static"  # what fails for the first time is tried again
            raise IOChangeException from None  # nerfstudio's renderer then waits for what comes next

    @functools.wraps(send)
    def guarded_send(*args: Any, **kwargs: Any) -> None:
        try:
            send(*args, **kwargs)
        except Exception as error:
            logger.debug("Viewer: a picture was not sent (%r)", error)
            renderer.output_keys = {}  # have the list made anew
            again = threading.Timer(0.1, _rerender, (renderer,))
            again.daemon = True
            again.start()

    renderer._render_img = guarded_render  # type: ignore[method-assign]
    renderer._send_output_to_viewer = guarded_send  # type: ignore[method-assign]


def _rerender(renderer: RenderStateMachine) -> None:
    if renderer.running:
        camera = renderer.viewer.get_camera_state(renderer.client)
        renderer.action(RenderAction("rerender", camera))


def look_after(viewer: Viewer, connected: Callable[[ClientHandle], None]) -> None:
    """Guard the viewer's clients, those that are there and those to come.

    Args:
        viewer: that is being built.
        connected: called for every page that is there to stay.
    """
    server: ViserServer = viewer.viser_server
    viewer.render_statemachines = Renderers(viewer.render_statemachines)

    def connect(client: ClientHandle) -> None:
        if not forgotten(viewer, client):
            connected(client)

    server.on_client_connect(connect)


def forgotten(viewer: Viewer, client: ClientHandle) -> bool:
    """Whether a page was gone before it was known; what was begun for it is ended.

    viser tells of a page when its first message is worked on, which may be later than its end. Nobody would take it off
    the list again, and it would be rendered for as long as the training goes on.
    """
    if not client._websock_connection._state.message_buffer.done:
        return False
    # viser holds its lock of clients; the end of this page either waits for that, or is over.
    viewer.viser_server._connected_clients.pop(client.client_id, None)
    viewer.render_statemachines[client.client_id].running = False
    viewer.render_statemachines.pop(client.client_id, None)
    return True


def share_time(viewer: Viewer) -> None:
    """Tell nerfstudio what share of the time is training's, so that it is the same however many pages are open.

    nerfstudio renders for all pages whenever it renders, and reckons with the time of one.
    """
    count = max(1, len(viewer.render_statemachines))
    viewer.train_util = count * TRAIN_SHARE / (count * TRAIN_SHARE + 1 - TRAIN_SHARE)
