"""Every error that critique_rl raises for a user.

    CritiqueRLError
    ├── ConfigError (ValueError)            a key, value or combination in a run file or an override
    ├── DataError (ValueError)              a row of a data set, with its file and line
    ├── PromptError (ValueError)            a template, its header, or its inputs
    ├── ModelError (OSError)                a policy that cannot be found or loaded
    ├── EngineError (OSError)               a server that stays away, refuses, or holds other weights than it should
    ├── CheckpointError (OSError)           a checkpoint that cannot be written or read
    ├── MissingExtraError (ImportError)     an optional dependency, with the exact install command
    └── CriticError (RuntimeError)          a critic call that ended without a usable reply
        ├── CriticSetupError                a critic that can never answer (no key, unknown model): stops the run
        ├── CriticTimeoutError (TimeoutError)
        ├── CriticRateLimitError            `retry_after_s` is the server's wish, or None
        ├── CriticRefusedError              content filter or policy refusal
        ├── CriticMalformedError            a reply from which nothing could be parsed
        └── CriticBudgetError               the run's critic budget is spent

A message says which field or record, what came, what was wanted, and the way out.
"""

from __future__ import annotations


class CritiqueRLError(Exception):
    """Base of every error above; the CLI prints it as one line and exits with code 2."""


class ConfigError(CritiqueRLError, ValueError):
    """A run file or override that cannot be used as it stands."""


class DataError(CritiqueRLError, ValueError):
    """A data set row that cannot be used."""


class PromptError(CritiqueRLError, ValueError):
    """A prompt template that does not fit its declaration or its inputs."""


class ModelError(CritiqueRLError, OSError):
    """A policy or tokenizer that cannot be loaded."""


class EngineError(CritiqueRLError, OSError):
    """A server that samples or scores for the run cannot be used; the step was not counted, and the run resumes."""


class CheckpointError(CritiqueRLError, OSError):
    """A checkpoint that cannot be written or read; everything written before it is intact."""


class MissingExtraError(CritiqueRLError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs {package}, which is not installed: pip install 'critique-rl[{extra}]'")


class CriticError(CritiqueRLError, RuntimeError):
    """A critic call that ended without a usable reply; it never becomes a score."""


class CriticSetupError(CriticError):
    """The critic cannot answer any call: missing key, unknown model, wrong address."""


class CriticTimeoutError(CriticError, TimeoutError):
    """No reply before the deadline; the clock starts when the request is sent."""


class CriticRateLimitError(CriticError):
    """The server asked for fewer requests."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CriticRefusedError(CriticError):
    """The critic declined to answer."""


class CriticMalformedError(CriticError):
    """The reply holds nothing that parses."""


class CriticBudgetError(CriticError):
    """The next call could exceed the critic budget."""
