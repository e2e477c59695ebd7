"""Chat templates that render as published bases' do, shortened; and a tokenizer of bytes and control tokens for each.

`test_published_templates.py` compares them with the originals where llama.cpp's source is at hand.
"""

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kameleon.text import ChatTemplate

SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3_2 = (
    "{{- bos_token }}{% set date = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}"
    "{% if messages[0]['role'] == 'system' %}{% set system, messages = messages[0]['content'] | trim, messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}{{- 'Environment: ipython\n' if tools else '' }}"
    "{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + date + '\n\n' + system + '<|eot_id|>' }}"
    "{% if tools %}{% set first, messages = messages[0]['content'] | trim, messages[1:] %}"
    "{{- '<|start_header_id|>user<|end_header_id|>\n\nFunctions:\n\n' }}"
    "{% for t in tools %}{{- t | tojson(indent=4) + '\n\n' }}{% endfor %}{{- first + '<|eot_id|>' }}{% endif %}"
    "{% for m in messages %}"
    "{% if 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{- raise_exception('This model only supports single tool-calls at once!') }}"
    "{% endif %}{% set call = m.tool_calls[0].function %}"
    '{{- \'<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "\' + call.name + \'", "parameters": \' }}'
    "{{- call.arguments | tojson }}{{- '}<|eot_id|>' }}"
    "{% elif m.role in ('tool', 'ipython') %}{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}"
    "{{- m.content | tojson if m.content is iterable else m.content }}{{- '<|eot_id|>' }}"
    "{% else %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_HERMES_TOOLS = (
    "# Tools\n\nFunctions within <tools></tools> XML tags:\n<tools>{% for t in tools %}{{ '\n' + t | tojson }}"
    "{% endfor %}\n</tools>\n\nCalls within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
)
_HERMES_RESULT = (
    "{% elif m.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}"
    "{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}"
)
QWEN_2_5 = (
    "{% set system = messages[0].content if messages[0].role == 'system'"
    " else 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}"
    "{{- '<|im_start|>system\n' + system }}{% if tools %}{{- '\n\n' }}" + _HERMES_TOOLS + "{% else %}<|im_end|>\n"
    "{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' or m.role == 'system' and not loop.first or m.role == 'assistant' and not m.tool_calls %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{- '<|im_start|>assistant' }}{% if m.content %}{{- '\n' + m.content }}{% endif %}"
    "{% for c in m.tool_calls %}{% set c = c.function if c.function is defined else c %}"
    '{{- \'\n<tool_call>\n{"name": "\' + c.name + \'", "arguments": \' }}{{- c.arguments | tojson }}'
    "{{- '}\n</tool_call>' }}{% endfor %}{{- '<|im_end|>\n' }}" + _HERMES_RESULT + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_3 = (
    "{% if tools %}{{- '<|im_start|>system\n' }}"
    "{{- messages[0].content + '\n\n' if messages[0].role == 'system' else '' }}" + _HERMES_TOOLS + "{% else %}"
    "{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' if messages[0].role == 'system' else '' }}"
    "{% endif %}"
    "{% set ns = namespace(query=messages | length - 1, seen=false) %}"
    "{% for m in messages[::-1] %}"
    "{% if not ns.seen and m.role == 'user' and not (m.content.startswith('<tool_response>')"
    " and m.content.endswith('</tool_response>')) %}"
    "{% set ns.seen, ns.query = true, messages | length - 1 - loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' or m.role == 'system' and not loop.first %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{% set content, thought = m.content, '' %}"
    "{% if m.reasoning_content is defined and m.reasoning_content is not none %}{% set thought = m.reasoning_content %}"
    "{% elif '</think>' in m.content %}{% set content = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}{% endif %}"
    "{{- '<|im_start|>assistant\n' }}{% if loop.index0 > ns.query and (loop.last or thought) %}"
    "{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{% else %}{{- '' + content }}{% endif %}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{- '\n' if loop.first and content or not loop.first else '' }}{% set c = c.function if c.function else c %}"
    '{{- \'<tool_call>\n{"name": "\' + c.name + \'", "arguments": \' }}'
    "{{- c.arguments if c.arguments is string else c.arguments | tojson }}{{- '}\n</tool_call>' }}{% endfor %}"
    "{% endif %}"
    "{{- '<|im_end|>\n' }}" + _HERMES_RESULT + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{{- '<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false else '' }}{% endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set prefix = (messages[0]['content'] if messages[0]['content'] is string"
    " else messages[0]['content'][0]['text']) + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set prefix = '' %}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ prefix if loop.first else '' }}"
    "{% if m['content'] is string %}{{ m['content'] | trim }}"
    "{% elif m['content'] is iterable %}{% for part in m['content'] %}{{ part['text'] | trim }}{% endfor %}"
    "{% else %}{{ raise_exception('Invalid content type') }}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{% set ns = namespace(turn=0) %}{% set tools = tools if tools is defined else none %}"
    "{% if messages[0]['role'] == 'system' %}{% set system, rest = messages[0]['content'], messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}"
    "{% set asked = rest | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in rest %}{% if not (m.role == 'tool' or m.tool_calls) %}"
    "{% if (m['role'] == 'user') != (ns.turn % 2 == 0) %}"
    "{{- raise_exception('After the optional system message, conversation roles must alternate') }}{% endif %}"
    "{% set ns.turn = ns.turn + 1 %}{% endif %}{% endfor %}{{- bos_token }}"
    "{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' if tools and m == asked[-1] else '' }}"
    "{{- '[INST]' }}{{- system + '\n\n' if loop.last and system is defined else '' }}{{- m['content'] + '[/INST]' }}"
    "{% elif m.tool_calls %}{{- '[TOOL_CALLS][' }}{% for c in m.tool_calls %}"
    "{% if c.id is not defined or c.id | length != 9 %}"
    "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{% set out = c.function | tojson %}{{- out[:-1] + ', \"id\": \"' + c.id + '\"}' }}"
    "{{- ', ' if not loop.last else ']' + eos_token }}{% endfor %}"
    "{% elif m['role'] == 'assistant' %}{{- m['content'] + eos_token }}"
    "{% elif m['role'] == 'tool' %}{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
    "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{{- '[TOOL_RESULTS]{\"content\": ' + m.content + ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    "{% else %}{{- raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
R1_DISTILL = (
    "{% set ns = namespace(system='', result=false, called=false, first=true) %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{% set ns.system = m['content'] %}{% endif %}{% endfor %}"
    "{{- bos_token + ns.system }}"
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% set ns.result = false %}{{- '<｜User｜>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' and m['content'] is none %}{% set ns.result = false %}"
    "{% for c in m['tool_calls'] %}"
    "{{- '\n' if ns.called else '<｜Assistant｜><｜tool▁calls▁begin｜>' }}"
    "{{- '<｜tool▁call▁begin｜>' + c['type'] + '<｜tool▁sep｜>' + c['function']['name'] + '\n```json\n' }}"
    "{{- c['function']['arguments'] + '\n```<｜tool▁call▁end｜>' }}"
    "{{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' if ns.called else '' }}{% set ns.called = true %}{% endfor %}"
    "{% elif m['role'] == 'assistant' %}"
    "{% if ns.result %}{{- '<｜tool▁outputs▁end｜>' + m['content'] + '<｜end▁of▁sentence｜>' }}"
    "{% set ns.result = false %}"
    "{% else %}{{- '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}"
    "{% endif %}"
    "{% if m['role'] == 'tool' %}{% set ns.result = true %}"
    "{{- '<｜tool▁outputs▁begin｜>' if ns.first else '\n' }}{% set ns.first = false %}"
    "{{- '<｜tool▁output▁begin｜>' + m['content'] + '<｜tool▁output▁end｜>' }}{% endif %}"
    "{% endfor %}{{- '<｜tool▁outputs▁end｜>' if ns.result else '' }}"
    "{% if add_generation_prompt and not ns.result %}{{- '<｜Assistant｜><think>\n' }}{% endif %}"
)
LLAMA_GUARD_3 = (
    "{{ bos_token }}{{ '<|start_header_id|>user<|end_header_id|>\n\nTask: check the conversation.\n\n' }}"
    "{% for m in messages %}{{ ('User' if m.role == 'user' else 'Agent') + ': ' }}"
    "{% for part in m['content'] %}{{ part.text | trim if part.type == 'text' else '' }}{% endfor %}{{ '\n\n' }}"
    "{% endfor %}{{ '<|eot_id|>' }}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Made up: reads content only as parts, its name for thoughts is `thinking`, and a call's arguments must be JSON text.
PARTS = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '|' }}"
    "{{ '<think>' + m.thinking + '</think>' if m.thinking else '' }}"
    "{% for p in m.content or [] %}{{ p.text }}{% endfor %}"
    "{% for c in m.tool_calls or [] %}{{ '[' + c.function.name + '(' + c.function.arguments + ')]' }}{% endfor %}"
    "{{ '<|end|>' }}{% endfor %}{{ '<|start|>assistant|' if add_generation_prompt else '' }}"
)
# Made up: a first message and a preamble that only some conversations have, and no line breaks at all.
PLAIN = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}{{ '<u>' + m.content + '</u>' }}"
    "{% elif m.role == 'assistant' %}{{ '<a>' + m.content + '</s>' }}{% else %}{{ '<y>' + m.content + '</y>' }}"
    "{% endif %}{% endfor %}{{ '<a>' if add_generation_prompt else '' }}"
)
_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_R1 = ("begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant", "tool▁calls▁begin", "tool▁calls▁end",
       "tool▁call▁begin", "tool▁call▁end", "tool▁sep", "tool▁outputs▁begin", "tool▁outputs▁end", "tool▁output▁begin",
       "tool▁output▁end")  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A template, its control tokens, and the tokens that begin and end a text."""

    source: str
    control: tuple[str, ...]
    begin: str | None
    end: str
    normal: tuple[str, ...] = ()
    """Tokens of their own that are no control tokens."""
    space_first: bool = False
    """Whether the tokenizer puts a space before a text, as SentencePiece does."""
    original: str | None = None
    """The original's file in llama.cpp's `models/templates`."""

    def make(self) -> ChatTemplate:
        """The template with a tokenizer that has a token for each byte and each control token."""
        pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
        if self.space_first:
            bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
            letters = [chr(one) for one in range(33, 127)]
            vocab = {piece: i for i, piece in enumerate(["<unk>", *bytes_, "▁", *letters])}
            tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            tokenizer.decoder = decoders.Sequence(steps)
        else:
            tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(list(self.control))
        tokenizer.add_tokens(list(self.normal))
        roles = {"bos_token": self.begin, "eos_token": self.end}
        return ChatTemplate(
            PreTrainedTokenizerFast(
                tokenizer_object=tokenizer,
                chat_template=self.source,
                extra_special_tokens=[one for one in self.control if one not in roles.values()],
                clean_up_tokenization_spaces=False,
                **{role: token for role, token in roles.items() if token},
            )
        )


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CALLS = ("<tool_call>", "</tool_call>")
_THOUGHTS = ("<think>", "</think>")
PUBLISHED = {
    "SmolLM2": Published(SMOLLM2, _CHATML, "<|im_start|>", "<|im_end|>"),
    "Llama 3.2": Published(
        LLAMA_3_2, _HEADERS, "<|begin_of_text|>", "<|eot_id|>", original="meta-llama-Llama-3.2-3B-Instruct"
    ),
    "Qwen2.5": Published(QWEN_2_5, _CHATML, None, "<|im_end|>", _CALLS, original="Qwen-Qwen2.5-7B-Instruct"),
    "Qwen3": Published(QWEN_3, _CHATML, None, "<|im_end|>", (*_CALLS, *_THOUGHTS), original="Qwen-Qwen3-0.6B"),
    "Gemma 3": Published(GEMMA_3, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>"),
    "Mistral": Published(
        MISTRAL,
        (
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
        "<s>",
        "</s>",
        space_first=True,
        original="mistralai-Mistral-Nemo-Instruct-2407",
    ),
    "R1-Distill": Published(
        R1_DISTILL,
        tuple(f"<｜{name}｜>" for name in _R1),
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        _THOUGHTS,
        original="deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    ),
    "Llama Guard 3": Published(LLAMA_GUARD_3, _HEADERS, "<|begin_of_text|>", "<|eot_id|>"),
    "parts": Published(PARTS, ("<|start|>", "<|end|>"), None, "<|end|>"),
    "plain": Published(PLAIN, ("<s>", "</s>", "<u>", "</u>", "<a>", "<y>", "</y>"), "<s>", "</s>", space_first=True),
}
