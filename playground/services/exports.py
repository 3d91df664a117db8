"""Taking an adapter along: alone at a strength, or merged into its base; and how far merging changes what it answers.

Whatever merges runs in a process of its own, so that no model in memory is touched, and dies with whoever asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from playground.config import ROOT, AppConfig
from playground.errors import (
    AdapterInvalid,
    EngineFailure,
    InvalidRequest,
    ModelBusy,
    OutOfMemory,
    PlaygroundError,
)
from playground.local_inference.adapters import check_adapter
from playground.local_inference.pickles import as_safetensors
from playground.local_inference.portable import copy_adapter
from playground.services.models import Models
from playground.services.threads import in_own_thread
from playground.types import ModelSpec, Status

MergedDtype = Literal["bfloat16", "float16"]

_TICK_S = 0.25
_COMMAND = (sys.executable, "-m", "playground.local_inference.merging")
# Beyond these a merged model is another one than what was tested: nats, and the share of likeliest tokens.
_DIVERGENCE, _AGREEMENT = 0.02, 0.95
_NOT_HERE = (
    "Adapters and merged models are exported only where the server is reached from this machine alone.",
    "Run python -m playground export on the machine itself.",
)


@dataclass(frozen=True)
class MergeComparison:
    """How far the merged model is from the adapter beside its base, over ``tokens`` positions of built-in prompts.

    ``max_logit_change`` is the largest difference of a logit, ``divergence`` the mean KL(merged ‖ unmerged) in nats,
    ``agreement`` the share (0–1) of positions with the same likeliest token, ``dtype`` what the merged weights were rounded
    to. ``exact`` is the same before rounding: what is wrong there is the merge itself.
    """

    max_logit_change: float
    divergence: float
    agreement: float
    tokens: int
    dtype: str
    exact: MergeComparison | None = None

    @property
    def differs(self) -> bool:
        """True when the merged model should not be taken for what was tested."""
        return self.divergence > _DIVERGENCE or self.agreement < _AGREEMENT

    @property
    def sentence(self) -> str:
        """The figures for a person."""
        verdict = (
            "The merged model answers differently; use the adapter beside its base, or export it as another type."
            if self.differs
            else "The merged model answers as the adapter does."
        )
        return (
            f"{verdict} Merged in {self.dtype}, over {self.tokens} tokens: the likeliest is the same at "
            f"{self.agreement:.1%}, mean KL {self.divergence:.2g} nats, "
            f"largest change of a logit {self.max_logit_change:.2g}."
        )


class Exports:
    """Exports what ``models`` offers below ``config``'s data folder."""

    def __init__(self, models: Models, config: AppConfig) -> None:
        self._models = models
        self._folder = config.data_dir.expanduser() / "exports"
        self._allowed = config.free_paths
        self._pickles = config.converted
        self._merging = threading.Lock()
        self._naming = threading.Lock()
        self._taken: set[Path] = set()

    @property
    def allowed(self) -> bool:
        """True where only this machine reaches the server; elsewhere every method raises."""
        return self._allowed

    async def adapter(
        self, base: str, adapter: str, strength: float = 1.0, *, out: Path | None = None
    ) -> AsyncGenerator[Status | Path, None]:
        """Write ``adapter`` with its weights at ``strength`` to a new folder, which comes last.

        What is written has that strength when it is loaded at strength 1, here or elsewhere. ``out`` names the folder; else
        it is made below the data folder. Raises what `Models.spec` raises, `AdapterInvalid` where the strength has no exact
        form, and `InvalidRequest` where ``out`` is taken.
        """
        spec = self._spec(base, adapter, strength)
        source = Path(spec.adapters[0][0])
        target = self._target(out, f"{source.name}-x{strength:g}")
        left = threading.Event()
        task = asyncio.create_task(
            in_own_thread(lambda: _write_adapter(source, target, strength, left, self._pickles), "export")
        )
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # never "exception not retrieved"
        try:
            yield Status("loading", f"writing adapter {source.name} at strength {strength:g}")
            while not (await asyncio.wait({task}, timeout=_TICK_S))[0]:
                yield Status("loading", f"writing adapter {source.name} at strength {strength:g}")
        finally:
            left.set()
            self._taken.discard(target)
        yield Status("done", f"written to {target}", 1.0)
        yield await task

    async def merged(
        self,
        base: str,
        adapter: str,
        strength: float = 1.0,
        *,
        dtype: MergedDtype = "bfloat16",
        out: Path | None = None,
    ) -> AsyncGenerator[Status | Path, None]:
        """Write ``base`` with ``adapter`` merged in at ``strength`` as a whole 16-bit model; the new folder comes last.

        The `Status` before it says how far the written model, read back, is from the unmerged; merge.json in the folder
        holds the figures. Closing the iterator ends the work and leaves nothing behind. Raises what `Models.spec` raises,
        `AdapterInvalid` for kinds without a merge, `OutOfMemory` with figures, `ModelBusy` while another merge runs.
        """
        spec = self._spec(base, adapter, strength)
        target = self._target(out, f"{_base_name(spec.base)}-{Path(spec.adapters[0][0]).name}-merged")
        partial = _partial(target)
        try:
            async with contextlib.aclosing(self._merge(spec, dtype, str(partial))) as news:
                async for item in news:
                    if isinstance(item, Status):
                        yield item
                    else:
                        os.rename(partial, target)
                        yield Status("done", item.sentence, 1.0)
                        yield target
        finally:
            self._taken.discard(target)
            shutil.rmtree(partial, ignore_errors=True)

    async def compare_merged(
        self, base: str, adapter: str, strength: float = 1.0, *, dtype: MergedDtype = "bfloat16"
    ) -> AsyncGenerator[Status | MergeComparison, None]:
        """How far ``base`` with ``adapter`` merged in would be from the two side by side; the comparison comes last.

        Raises what `merged` raises.
        """
        spec = self._spec(base, adapter, strength)
        async with contextlib.aclosing(self._merge(spec, dtype, "")) as news:
            async for item in news:
                yield item

    def _spec(self, base: str, adapter: str, strength: float) -> ModelSpec:
        """Names as a spec with exactly one sound adapter. Raises `InvalidRequest`, `AdapterInvalid`, `ModelNotFound`."""
        if not self._allowed:
            raise InvalidRequest(*_NOT_HERE)
        spec = self._models.spec(base, adapter, strength)
        if not spec.adapters:
            raise InvalidRequest("No adapter was named.", "Choose the one to export.")
        if strength == 0:
            raise InvalidRequest("At strength 0 nothing of the adapter is left.", "Choose another strength.")
        info = check_adapter(Path(spec.adapters[0][0]), pickles=self._pickles is not None).info
        if info.problems:
            raise AdapterInvalid(f"Adapter {info.name!r} cannot be used.", " ".join(info.problems))
        return spec

    def _target(self, out: Path | None, name: str) -> Path:
        """The folder to write: ``out`` itself, or a free one named ``name``, taken until it is written. Makes its parent."""
        folder = out.expanduser().absolute() if out else self._folder / _plain(name)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or str(error)
            raise InvalidRequest(f"No folder can be made in {str(folder.parent)!r}: {why}.", "Name another.") from error
        first, number = folder, 1
        with self._naming:
            while folder in self._taken or os.path.lexists(folder) or os.path.lexists(_partial(folder)):
                if out:
                    there = f"{str(folder)!r} is there already."
                    raise InvalidRequest(there, "Name a new folder; nothing is overwritten.")
                number += 1
                folder = first.with_name(f"{first.name}-{number}")
            self._taken.add(folder)
        return folder

    async def _merge(
        self, spec: ModelSpec, dtype: MergedDtype, target: str
    ) -> AsyncGenerator[Status | MergeComparison, None]:
        """One merge in its own process, one at a time, because each needs the room of a whole model."""
        if not self._merging.acquire(blocking=False):
            raise ModelBusy("Another model is being merged.", "Wait until that is done, or stop it.")
        ((adapter, strength),) = spec.adapters
        job = {"base": spec.base, "adapter": adapter, "strength": strength, "dtype": dtype, "target": target}
        job["pickles"] = str(self._pickles or "")
        try:
            with tempfile.TemporaryFile() as log:
                async with contextlib.aclosing(_working(job, log)) as news:
                    async for item in news:
                        yield item
        finally:
            self._merging.release()


def _write_adapter(source: Path, target: Path, strength: float, left: threading.Event, pickles: Path | None) -> Path:
    """Write beside ``target``, look at what was written, and only then give it its name; nothing when ``left`` is set."""
    partial = _partial(target)
    try:
        copy_adapter(as_safetensors(source, pickles), partial, strength)
        problems = check_adapter(partial).info.problems
        if problems:
            raise EngineFailure("The written adapter is not sound.", " ".join(problems))
        if not left.is_set():
            os.rename(partial, target)
    except OSError as error:
        raise EngineFailure(f"{target} could not be written: {error.strerror or error}.", "Check the disk.") from error
    except ValueError as error:  # a damaged file, changed since it was checked
        raise AdapterInvalid(f"Adapter {source.name!r} cannot be read: {error}", "Copy it again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


async def _working(job: dict[str, Any], log: IO[bytes]) -> AsyncGenerator[Status | MergeComparison, None]:
    """The news of the process that does ``job``, at least every 250 ms, the comparison last; what it prints goes to ``log``.

    Raises what it reports, and `OutOfMemory` or `EngineFailure` where it ended without a word.
    """
    process = await asyncio.create_subprocess_exec(
        *_COMMAND,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        latest = Status("loading", "starting a process of its own")
        async for line in _lines(process.stdout):
            news = json.loads(line) if line else {}
            if "error" in news:
                raise _raised(news["error"])
            if "result" in news:
                yield _comparison(news["result"])
                return
            latest = Status(**news["status"]) if news else latest
            yield latest
        raise _ended(await process.wait(), log)
    finally:
        await _kill(process)


async def _lines(stream: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    """Each line as it comes; b"" for every 250 ms without one."""
    reading = asyncio.ensure_future(stream.readline())
    try:
        while True:
            await asyncio.wait({reading}, timeout=_TICK_S)
            if not reading.done():
                yield b""
                continue
            line = reading.result()
            if not line:
                return
            reading = asyncio.ensure_future(stream.readline())
            yield line
    finally:
        reading.cancel()


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End ``process`` and whatever it started, and wait until it is gone."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()


def _ended(code: int, log: IO[bytes]) -> PlaygroundError:
    """What to say of a process that ended without an answer."""
    if code == -signal.SIGKILL:
        return OutOfMemory(
            "The system ended the process that was merging; most often its memory ran out.",
            "Unload other models, or export the adapter alone.",
        )
    log.seek(0)
    said = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return EngineFailure(
        f"Merging failed: {said[-1][:300] if said else f'the process ended with {code}'}.",
        "Try again; if it fails again, export the adapter alone.",
    )


def _raised(error: dict[str, str]) -> PlaygroundError:
    """The error of the same kind as was reported."""
    kinds, found = [PlaygroundError], PlaygroundError
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found = kind if kind.code == error["code"] else found
    return found(error["message"], error["remedy"])


def _comparison(found: dict[str, Any]) -> MergeComparison:
    exact = MergeComparison(**found["exact"], dtype=found["computed"])
    return MergeComparison(**found["rounded"], dtype=found["dtype"], exact=exact)


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _base_name(base: str) -> str:
    """The last part of a folder or hub id, without its revision."""
    return base.rstrip("/").rpartition("/")[2].partition("@")[0]


def _plain(name: str) -> str:
    """``name`` with nothing in it that means something to a file system."""
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-")[:100] or "export"
