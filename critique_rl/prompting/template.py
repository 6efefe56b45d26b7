"""A prompt template: a TOML header between `+++` lines, then a Jinja body that is filled in one pass.

Owns: the header's fields, the check that placeholders equal declared inputs, filling, the content hash.
Must not know: which prompts exist, critics, models. Values are data: they are never rendered a second time.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from critique_rl.errors import PromptError
from critique_rl.types import Message

MAX_TEMPLATE_CHARS = 65_536
_FENCE = "+++"
_HASH_DIGITS = 12
_HEADER_FIELDS: Mapping[str, type] = {"name": str, "version": int, "description": str, "inputs": list, "system": str}
_OPTIONAL_FIELDS = frozenset({"system"})

_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """One prompt file, checked. `hash` is the first 12 hex digits of sha256 over the whole file (header and body)."""

    name: str
    version: int
    description: str
    inputs: tuple[str, ...]
    body: str
    system: str
    hash: str
    source: str
    _body: Template = field(repr=False, compare=False)
    _system: Template | None = field(repr=False, compare=False)

    def render(self, **inputs: str) -> str:
        """The filled body without its trailing newline. Raises PromptError if `inputs` are not exactly the declared."""
        self._check_names(inputs)
        return self._fill(self._body, inputs)

    def messages(self, **inputs: str) -> tuple[Message, ...]:
        """The filled system part, if the header has one, and the filled body as a user turn."""
        self._check_names(inputs)
        user = Message(role="user", content=self._fill(self._body, inputs))
        if self._system is None:
            return (user,)
        return Message(role="system", content=self._fill(self._system, inputs)), user

    def messages_from(self, available: Mapping[str, str]) -> tuple[Message, ...]:
        """Like `messages`, taking only the declared inputs out of a larger mapping."""
        self.check_available(available)
        return self.messages(**{name: available[name] for name in self.inputs})

    def check_available(self, available: Iterable[str]) -> None:
        """Raise PromptError if the template declares an input that its user cannot fill."""
        known = sorted(available)
        unknown = sorted(set(self.inputs) - set(known))
        if unknown:
            raise PromptError(
                f"{self.source}: the template wants {_names(unknown)}, but only {_names(known)} can be filled here: "
                "remove the placeholder and its entry in inputs"
            )

    def _check_names(self, inputs: Mapping[str, str]) -> None:
        missing = sorted(set(self.inputs) - set(inputs))
        extra = sorted(set(inputs) - set(self.inputs))
        if missing or extra:
            raise PromptError(
                f"{self.source}: prompt {self.name!r} declares inputs {_names(self.inputs)}; "
                f"missing: {_names(missing)}; not declared: {_names(extra)}: pass exactly the declared inputs"
            )

    def _fill(self, template: Template, inputs: Mapping[str, str]) -> str:
        try:
            return template.render(inputs).rstrip("\n")
        except (TemplateError, OverflowError, TypeError, ValueError) as error:
            raise PromptError(f"{self.source}: filling prompt {self.name!r} failed: {error}") from error


class _Header(NamedTuple):
    name: str
    version: int
    description: str
    inputs: tuple[str, ...]
    system: str


class _Parts(NamedTuple):
    header: str
    body: str


def read_template(path: Path) -> PromptTemplate:
    """Read and check one prompt file. Raises PromptError with the file, what is wrong and the way out."""
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: the prompt cannot be read as UTF-8 text: {error}") from error
    return parse_template(text, source=str(path))


def parse_template(text: str, *, source: str) -> PromptTemplate:
    """Check one template's text; `source` is what messages call it. Raises PromptError."""
    if len(text) > MAX_TEMPLATE_CHARS:
        raise PromptError(f"{source}: {len(text)} characters; a prompt may have at most {MAX_TEMPLATE_CHARS}")
    parts = _cut(text, source)
    header = _read_header(parts.header, source)
    used = _placeholders(parts.body, source) | _placeholders(header.system, source)
    undeclared = sorted(used - set(header.inputs))
    unused = sorted(set(header.inputs) - used)
    if undeclared or unused:
        raise PromptError(
            f"{source}: placeholders and declared inputs differ; used but not declared: {_names(undeclared)}; "
            f"declared but not used: {_names(unused)}: make the header's inputs list equal to the placeholders"
        )
    return PromptTemplate(
        name=header.name,
        version=header.version,
        description=header.description,
        inputs=header.inputs,
        body=parts.body,
        system=header.system,
        hash=hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS],
        source=source,
        _body=_compile(parts.body, source),
        _system=_compile(header.system, source) if header.system else None,
    )


def _cut(text: str, source: str) -> _Parts:
    lines = text.split("\n")
    if lines[0].strip() != _FENCE:
        raise PromptError(
            f"{source}: line 1 is {lines[0][:40]!r}; a prompt begins with a TOML header between +++ lines"
        )
    for number, line in enumerate(lines[1:], start=1):
        if line.strip() == _FENCE:
            return _Parts(header="\n".join(lines[1:number]), body="\n".join(lines[number + 1 :]).strip("\n"))
    raise PromptError(f"{source}: the header is never closed: end it with a line of +++")


def _read_header(text: str, source: str) -> _Header:
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PromptError(f"{source}: the header is not TOML: {error}") from error
    wanted = ", ".join(_HEADER_FIELDS)
    for name in fields.keys() - _HEADER_FIELDS.keys():
        raise PromptError(f"{source}: header field {name!r} is unknown; the fields are {wanted}")
    for name in _HEADER_FIELDS.keys() - fields.keys() - _OPTIONAL_FIELDS:
        raise PromptError(f"{source}: header field {name!r} is missing; the fields are {wanted}")
    for name, value in fields.items():
        wanted_type = _HEADER_FIELDS[name]
        if not isinstance(value, wanted_type) or isinstance(value, bool):
            raise PromptError(f"{source}: header field {name} = {value!r} is not of type {wanted_type.__name__}")
    inputs = tuple(str(name) for name in fields["inputs"])
    if len(set(inputs)) != len(inputs) or not all(name.isidentifier() for name in inputs):
        raise PromptError(f"{source}: header field inputs = {list(inputs)} must be distinct identifiers")
    return _Header(
        name=str(fields["name"]),
        version=int(fields["version"]),
        description=str(fields["description"]),
        inputs=inputs,
        system=str(fields.get("system", "")).strip(),
    )


def _placeholders(text: str, source: str) -> set[str]:
    try:
        return meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
    except TemplateError as error:
        raise PromptError(f"{source}: the template does not parse: {error}") from error


def _compile(text: str, source: str) -> Template:
    try:
        return _ENVIRONMENT.from_string(text)
    except TemplateError as error:
        raise PromptError(f"{source}: the template does not compile: {error}") from error


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
