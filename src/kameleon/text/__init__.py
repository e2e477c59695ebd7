"""Text to tokens and back: the base's tokenizer and chat template. It knows files of weights, but no model."""

from kameleon.text.go_template import go_template
from kameleon.text.template import ChatTemplate, today, with_system
from kameleon.text.thinking import Effort, thinking_arguments
from kameleon.text.token_bytes import TokenBytes

__all__ = [
    "ChatTemplate",
    "Effort",
    "TokenBytes",
    "go_template",
    "thinking_arguments",
    "today",
    "with_system",
]
