"""Messages -> prompt ids, ids -> text. A sampled completion is never encoded here: its ids come from the sampler.

Legend: ids are plain ints. Must not know: templates, critics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from critique_rl.errors import ModelError
from critique_rl.types import Message, TokenIds

_TURN = "[[the policy's turn]]"


class PromptCodec:
    """Encodes prompts with the tokenizer's chat template if it has one, else as the turns' plain text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        self._special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]

    def encode(self, messages: Sequence[Message]) -> TokenIds:
        """Prompt ids up to and including the generation prompt."""
        if self.has_template:
            turns = [{"role": m.role, "content": m.content} for m in messages]
            text = cast(str, self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        else:
            text = "\n".join(m.content for m in messages)
        return tuple(self.tokenizer.encode(text, add_special_tokens=not self.has_template))

    def encode_completion(self, text: str) -> TokenIds:
        """Ids of a text that was not sampled here (another model's, a person's), ended by the tokenizer's end token."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        end = cast("int | None", self.tokenizer.eos_token_id)
        return (*ids, *([] if end is None else [end]))

    def encode_observation(self, text: str, *, after: int) -> TokenIds:
        """Ids of what a tool says behind a turn of the policy, up to and including the next generation prompt.

        Through the chat template as a user turn (every template has one), from where the policy's own turn ended: the
        ids before it stay as they were sampled. `after` is the last of them; where the template closes a turn with that
        very id, it is not said twice. Without a template: the text on lines of its own. The text loses what would be
        read as a special token: a document that holds an end token must not end the tool's turn and begin another's.
        Errors: ModelError.
        """
        text = self._without_special_tokens(text)
        if not self.has_template:
            return tuple(self.tokenizer.encode(f"\n{text}\n", add_special_tokens=False))
        turns = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": _TURN},
            {"role": "user", "content": text},
        ]
        whole = cast(str, self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        _, mark, rest = whole.partition(_TURN)
        if not mark:
            raise ModelError(
                "the tokenizer's chat template leaves out what the assistant said, so no episode can go on"
            )
        ids = tuple(self.tokenizer.encode(rest, add_special_tokens=False))
        return ids[1:] if ids[:1] == (after,) else ids

    def _without_special_tokens(self, text: str) -> str:
        # Again and again: what is left around one that was taken out can be another.
        while found := [token for token in self._special if token in text]:
            for token in found:
                text = text.replace(token, "")
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Readable text of some ids, special tokens left out."""
        return cast(str, self.tokenizer.decode(list(ids), skip_special_tokens=True))
