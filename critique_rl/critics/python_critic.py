"""A function of the user's own as a critic.

Owns: loading it from a file, calling it in threads, and passing what it returns through every critic's filters.
Must not know: what the function does. A fault in it is an outcome with its line, never the end of a run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast

from pydantic import ValidationError

from critique_rl.config.critic import PythonCriticConfig
from critique_rl.critics.base import ReplyContext, failed, failed_as, read_reply
from critique_rl.critics.redaction import Redactor
from critique_rl.errors import CriticError, CriticMalformedError, CriticSetupError
from critique_rl.feedback.schema import CriticReply, ReplyDirective
from critique_rl.feedback.split import DirectiveFilter, split
from critique_rl.net import LoopThread
from critique_rl.types import CriticOutcome, CriticRequest, Critique

ReviewFunction = Callable[[CriticRequest], object]
_WANTED = "text, a dict in the reply's schema, a Critique or None"
_REDACT = Redactor(())


def python_critic(config: PythonCriticConfig) -> CallableCritic:
    """The critic that a `python` section describes; runs its file. Raises CriticSetupError."""
    bounds = DirectiveFilter(
        min_chars=config.min_directive_chars,
        max_chars=config.max_directive_chars,
        max_directives=config.max_directives,
    )
    path = Path(config.path).expanduser()
    function: object = getattr(_load(path), config.function, None)
    if function is None:
        raise CriticSetupError(
            f"critic.function = {config.function!r}: {path} has no such function: define it or name another one"
        )
    if not callable(function):
        raise CriticSetupError(
            f"critic.function = {config.function!r}: in {path} that is {type(function).__name__}, not a function"
        )
    name = config.name or f"python:{config.function}"
    return CallableCritic(cast(ReviewFunction, function), name=name, bounds=bounds, max_in_flight=config.max_in_flight)


class CallableCritic:
    """`protocols.StreamingCritic` over a sync or async function of one CriticRequest, in `max_in_flight` threads.

    It may return raw text (parsed as a model's reply), a dict in the reply's schema, a Critique, or None (abstained);
    directives pass the same filters whichever it is. Async calls share one event loop.
    """

    def __init__(
        self,
        function: ReviewFunction,
        *,
        name: str = "",
        bounds: DirectiveFilter | None = None,
        max_in_flight: int = 1,
    ) -> None:
        """Raises CriticSetupError if `function` does not take exactly one argument."""
        known: object = getattr(function, "__name__", type(function).__name__)
        _check_arity(function, str(known))
        self.name = name or f"python:{known}"
        self._function = function
        self._bounds = bounds or DirectiveFilter()
        self._file = _file_of(function)
        self._threads = ThreadPoolExecutor(max_in_flight, thread_name_prefix="critique-rl-python")
        self._loop: LoopThread | None = None
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            self._loop = LoopThread()

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request, in order."""
        futures = [self.submit(request) for request in requests]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def submit(self, request: CriticRequest) -> Future[Critique]:
        """Call the function in a thread; cancelling gives up a call that has not begun."""
        return self._threads.submit(self._review_one, request)

    def close(self) -> None:
        """Give up what has not begun and async calls that have, wait for the rest; a second call does nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None:
            self._loop.close()
        self._threads.shutdown(wait=True)

    def _review_one(self, request: CriticRequest) -> Critique:
        began_s = time.perf_counter()
        try:
            returned = self._call(request)
        except (Exception, SystemExit) as error:
            context = self._context(time.perf_counter() - began_s)
            said = _REDACT.line(f"{type(error).__name__} at {_where(error, self._file)}: {error}")
            if isinstance(error, CriticError):
                return replace(failed(request, error, context), reason=said)
            return failed_as(request, CriticOutcome.FAILED, said, context)
        return self._read(returned, request, self._context(time.perf_counter() - began_s))

    def _call(self, request: CriticRequest) -> object:
        if self._loop is None:
            return self._function(request)
        return self._loop.run(
            _without_exit(cast("Callable[[CriticRequest], Awaitable[object]]", self._function), request)
        )

    def _context(self, latency_s: float) -> ReplyContext:
        return ReplyContext(critic=self.name, latency_s=latency_s, bounds=self._bounds)

    def _read(self, returned: object, request: CriticRequest, context: ReplyContext) -> Critique:
        if returned is None:
            return failed_as(request, CriticOutcome.ABSTAINED, "the critic had nothing to say", context)
        if isinstance(returned, Critique):
            return self._checked(returned, request, context)
        if isinstance(returned, Mapping):
            try:
                returned = json.dumps(dict(cast(Mapping[object, object], returned)), allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                malformed = CriticMalformedError(_REDACT.line(f"the returned dict is not JSON: {error}"))
                return failed(request, malformed, context)
        if isinstance(returned, str):
            return read_reply(_REDACT.text(returned), request, context)
        if inspect.iscoroutine(returned):
            returned.close()
        wrong = CriticMalformedError(f"the function returned {type(returned).__name__}; wanted {_WANTED}")
        return failed(request, wrong, context)

    def _checked(self, critique: Critique, request: CriticRequest, context: ReplyContext) -> Critique:
        """A critique made by hand: its directives are filtered again, and its scores must be scores."""
        if critique.rollout_id != request.rollout_id:
            reason = f"the returned Critique is of rollout {critique.rollout_id!r}; {request.rollout_id!r} was asked"
            return failed(request, CriticMalformedError(reason), context)
        own = replace(critique, critic=self.name, latency_s=critique.latency_s or context.latency_s)
        if critique.outcome is not CriticOutcome.OK:
            return replace(own, evaluative=(), directives=(), verdict=None)
        try:
            reply = CriticReply(
                directives=tuple(
                    ReplyDirective.model_validate(
                        {"quote": one.quote, "kind": one.kind, "turn": one.turn, "text": one.text}
                    )
                    for one in critique.directives
                ),
                scores={score.criterion: score.value for score in critique.evaluative},
                verdict=critique.verdict,
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = _REDACT.line(f"the returned Critique cannot be used: {where}: {first['msg']}")
            return failed(request, CriticMalformedError(reason), context)
        parts = split(reply, request, bounds=self._bounds, critic=self.name)
        return replace(own, directives=parts.directives, dropped=(*critique.dropped, *parts.dropped))


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise CriticSetupError(f"critic.path = {str(path)!r} does not exist: give a Python file")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"critique_rl_python_critic_{digest}", path)
    if spec is None or spec.loader is None:
        raise CriticSetupError(f"critic.path = {str(path)!r} is not a Python file: give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a module up by its name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        said = _REDACT.line(f"{type(error).__name__}: {error}")
        raise CriticSetupError(
            f"critic.path = {str(path)!r} cannot be run: {_where(error, str(path))}: {said}"
        ) from error
    return module


def _check_arity(function: ReviewFunction, known: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Some built-in callables have no signature to look at.
        return
    try:
        signature.bind(object())
    except TypeError:
        raise CriticSetupError(
            f"the critic function {known}{signature} cannot be called with one CriticRequest: "
            f"write it as {known}(request)"
        ) from None


def _file_of(function: ReviewFunction) -> str:
    unwrapped = cast(object, inspect.unwrap(function))
    code: object = getattr(unwrapped, "__code__", None) or getattr(type(unwrapped).__call__, "__code__", None)
    return str(getattr(code, "co_filename", ""))


def _where(error: BaseException, file: str) -> str:
    """The innermost line of the user's own file, else the innermost line of all."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    frame = (own or list(frames))[-1]
    return f"line {frame.lineno}" if own else f"{Path(frame.filename).name} line {frame.lineno}"


async def _without_exit(function: Callable[[CriticRequest], Awaitable[object]], request: CriticRequest) -> object:
    """SystemExit in a task would end the event loop, and everybody who waits on it would wait for ever."""
    try:
        return await function(request)
    except SystemExit as error:
        exited = CriticError(f"the function called sys.exit({error.code!r})")
        raise exited.with_traceback(error.__traceback__) from error
