"""`WS /api/inference/stream`: many generations over one socket, told apart by their ids.

Every frame is one JSON object. What a socket sends is a generate body, or a stop; what it gets is, for each generation,
``start``, ``token`` …, and ``complete`` or ``error``. A frame that is no good gets an ``error`` and the socket lives.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Literal, TypeGuard

from fastapi import APIRouter
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.websockets import WebSocket, WebSocketDisconnect

from playground.api import failures
from playground.api.asker import caller_of
from playground.api.frames import Frames, Id, error_frame
from playground.api.schemas.common import Strict
from playground.api.schemas.inference import GenerateBody
from playground.errors import InvalidRequest, PlaygroundError, RateLimited
from playground.gate.bodies import MAX_BODY_BYTES
from playground.services.answers import Answers
from playground.services.assembly import Services

PATH = "/api/inference/stream"
MOST_AT_ONCE = 64
LONGEST_ID = 64
# As long as uvicorn's ping and the wait for its answer: whoever has read nothing for so long has left without a word.
STALLED_S = 40.0
GOING_AWAY = 1001
_LARGEST_NUMBER = 2**53  # up to which a browser's numbers are whole

Frame = Mapping[str, Any]


class StopFrame(Strict):
    """Stops the generation of that id, or all of this socket's."""

    type: Literal["stop"]
    id: Any = None


class Refused(Exception):
    """A frame that gets an ``error`` in return; ``about`` is the generation that it is about, where that is known."""

    def __init__(self, fault: failures.Fault, about: Id | None = None) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.about = about


class Sockets:
    """The WebSocket route."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def stream(self, websocket: WebSocket) -> None:
        """Serve one socket until its client has left, reads no more, or the server stops."""
        await websocket.accept()
        await Conversation(self._services, websocket).run()


class Conversation:
    """One socket with the generations that run over it. All of it happens on one event loop."""

    def __init__(self, services: Services, websocket: WebSocket) -> None:
        self._services = services
        self._websocket = websocket
        self._caller = caller_of(websocket)
        self._running: dict[Id, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # those of what runs, and of what sends its last frame
        self._writing = asyncio.Lock()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Read until there is nobody left; whatever still runs then is stopped at once."""
        loop = asyncio.get_running_loop()
        stay = self._services.generation.when_drained(lambda: asyncio.run_coroutine_threadsafe(self.leave(), loop))
        ends = [asyncio.create_task(self._read()), asyncio.create_task(self._until_over())]
        try:
            ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stay()
            left = (*ends, *self._tasks)
            for task in left:
                task.cancel()
            await asyncio.wait(left)
        for end in ended:
            end.result()  # a bug is the server's to tell

    async def leave(self) -> None:
        """The server is stopping: end what still runs as cancelled, then close."""
        for running in list(self._running.values()):
            running.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            async with self._writing:
                await self._websocket.close(GOING_AWAY, "The server is stopping.")
        except (RuntimeError, WebSocketDisconnect):
            self._over.set()  # it was closed from the other side

    async def send(self, frame: Frame) -> None:
        """Write one frame, whole and after those before it. Raises `WebSocketDisconnect` when nobody reads.

        Whoever writes waits here until there is room, so that a slow reader's news piles up nowhere: the engine merges it.
        """
        text = json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
        async with self._writing:
            if self._over.is_set():
                raise WebSocketDisconnect(1006)
            try:
                async with asyncio.timeout(STALLED_S):
                    await self._websocket.send_text(text)
            except TimeoutError:
                self._over.set()
                raise WebSocketDisconnect(1006) from None
            except RuntimeError as error:  # it is closed already
                raise WebSocketDisconnect(1006) from error

    def ended(self, running: Running) -> None:
        """Its last frame was sent; the id is free again."""
        if self._running.get(running.id) is running:
            del self._running[running.id]

    async def _read(self) -> None:
        """Frames, one after another, until the socket closes. Nothing here waits for a generation."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                self._take(message.get("text"))
            except Refused as refused:
                try:
                    await self.send(error_frame(refused.fault, refused.about))
                except WebSocketDisconnect:
                    return

    async def _until_over(self) -> None:
        """Return when the reader has stalled."""
        await self._over.wait()

    def _take(self, text: str | None) -> None:
        """Do what one frame asks for. Raises `Refused`."""
        frame = read(text)
        given = frame.get("id")
        about = given if is_id(given) and given not in self._running else None  # an error would end what runs
        kind = frame.get("type", "generate")
        try:
            if kind == "stop":
                self._stop(StopFrame.model_validate(frame))
            elif kind == "generate":
                rest = {name: value for name, value in frame.items() if name not in ("type", "id")}
                self._begin(self._new_id(frame), GenerateBody.model_validate(rest))
            else:
                raise InvalidRequest(f"Unknown frame type {str(kind)[:80]!r}.", "Send a generate body, or a stop.")
        except ValidationError as error:
            raise Refused(failures.invalid(error), about) from None
        except PlaygroundError as error:
            raise Refused(failures.fault_of(error), about) from None

    def _new_id(self, frame: Frame) -> Id:
        """The id of a new generation: the client's, or one of ours."""
        given = frame.get("id")
        if given is None:
            return uuid.uuid4().hex
        new = checked_id(given)
        if new in self._running:
            raise InvalidRequest(f"The id {new!r} is in use.", "Wait for its end, or send another one.")
        return new

    def _begin(self, new: Id, body: GenerateBody) -> None:
        if body.stream is False:
            raise InvalidRequest("stream is false, and this socket always streams.", "Leave it out.")
        unread = len(self._tasks) - len(self._running)  # last frames that wait for the reader
        if len(self._running) >= MOST_AT_ONCE or unread >= MOST_AT_ONCE:
            raise RateLimited(
                f"{MOST_AT_ONCE} generations are running over this socket already.", "Wait for one, or stop one."
            )
        self._services.limits.admit(self._caller)
        running = self._running[new] = Running(new, body, self)
        self._tasks.add(running.task)
        running.task.add_done_callback(self._tasks.discard)

    def _stop(self, frame: StopFrame) -> None:
        if frame.id is None:
            for running in list(self._running.values()):
                running.stop()
            return
        which = checked_id(frame.id)
        if which not in self._running:
            said = f"No generation {which!r} is running over this socket."
            raise InvalidRequest(said, "It may have ended already.")
        self._running[which].stop()

    async def answer(self, running: Running) -> None:
        """Send ``running``'s frames but for its last one. Raises `PlaygroundError`, and `WebSocketDisconnect`."""
        request = await asyncio.to_thread(running.body.as_request, self._services.entries, self._caller.id)
        async with aclosing(self._services.generation.astream(request)) as events:
            async for event in events:
                await running.open()
                running.answers.add(event)
                for frame in running.frames.progress(event):
                    await self.send(frame)


class Running:
    """One generation of a socket, in a task of its own."""

    def __init__(self, id: Id, body: GenerateBody, conversation: Conversation) -> None:
        self.id = id
        self.body = body
        self.answers = Answers(1)
        self.frames = Frames(body.model_id, id)
        self._conversation = conversation
        self._begun = self._opened = self._stopped = self._closing = False
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """End it as cancelled; one that is just ending ends by itself."""
        if not self._stopped and not self._closing:
            self._stopped = True
            if self._begun:  # a task that was cancelled before its first step would never say a word
                self.task.cancel()

    async def open(self) -> None:
        """Send ``start``, before anything else."""
        if not self._opened:
            await self._conversation.send(self.frames.start())
            self._opened = True

    async def _run(self) -> None:
        """The edge of the task: whatever happens, the last frame says how it ended, unless nobody reads."""
        try:
            last = await self._last_frame()
            self._closing = True
            self._conversation.ended(self)  # first, so that whoever reads the end may use the id again
            await self._conversation.send(last)
        except WebSocketDisconnect:
            return  # the socket's reader hears of it as well, and ends the others
        finally:
            self._conversation.ended(self)

    async def _last_frame(self) -> Frame:
        self._begun = True
        try:
            if not self._stopped:
                await self._conversation.answer(self)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if not self._stopped or current is None:  # the socket has gone
                raise
            current.uncancel()
        except WebSocketDisconnect:
            raise
        except Exception as error:  # the wire's edge
            return self.frames.error(error)
        if self._stopped:
            self.answers.all[0].finish_reason = "cancelled"
            await self.open()
        return self.frames.complete(self.answers)


def router(services: Services) -> APIRouter:
    """The WebSocket route."""
    routes = APIRouter()
    routes.add_api_websocket_route(PATH, Sockets(services).stream)
    return routes


def read(text: str | None) -> dict[str, Any]:
    """The JSON object in one frame. Raises `Refused`."""
    if text is None:
        raise Refused(failures.Fault(422, "invalid_json", "A binary frame was sent.", "Send JSON as text."))
    if len(text) > MAX_BODY_BYTES or len(text.encode()) > MAX_BODY_BYTES:
        said = f"The frame is larger than {MAX_BODY_BYTES} bytes."
        raise Refused(failures.Fault(413, "too_large", said, "Send less text."))
    try:
        found = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        said = f"The frame is not valid JSON: {error}."
        raise Refused(failures.Fault(422, "invalid_json", said, "Send one JSON object.")) from None
    if not isinstance(found, dict):
        raise Refused(failures.Fault(422, "invalid_value", "The frame is not a JSON object.", "Send one."))
    return found


def is_id(value: Any) -> TypeGuard[Id]:
    """Whether ``value`` may tell a generation from others."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) <= _LARGEST_NUMBER
    return isinstance(value, str) and 1 <= len(value) <= LONGEST_ID


def checked_id(value: Any) -> Id:
    """``value`` as an id. Raises `InvalidRequest` for what can be none."""
    if is_id(value):
        return value
    said = f"It must be a text of 1 to {LONGEST_ID} characters, or a whole number."
    raise InvalidRequest(f"id is {repr(value)[:80]}.", said)
