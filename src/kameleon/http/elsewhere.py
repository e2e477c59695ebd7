"""Fields and paths of other servers, and of OpenAI's parts that are not here: what a client that uses them is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain

from kameleon.words import did_you_mean

# Fields with another name here, or whose place another field takes.
_INSTEAD = {
    "functions": "tools",
    "function_call": "tool_choice",
    **dict.fromkeys(("max_output_tokens", "max_new_tokens", "max_completion_tokens"), "max_tokens"),
    **dict.fromkeys(("num_predict", "n_predict", "max_tokens_to_sample"), "max_tokens"),
    **dict.fromkeys(("repeat_penalty", "penalty_repeat"), "repetition_penalty"),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), "response_format"),
    **dict.fromkeys(("structured_outputs", "json_schema", "format", "grammar"), "response_format"),
    **dict.fromkeys(("chat_template_kwargs", "enable_thinking", "think", "thinking", "reasoning"), "reasoning_effort"),
    "stop_sequences": "stop",
    **dict.fromkeys(("system", "instructions"), "messages"),
}
_OPENAI = (
    "access_programs audio background background_options best_of context_management conversation file image image_url "
    "include input input_audio instructions max_tool_calls moderation prediction previous_response_id "
    "prompt_cache_options text truncation verbosity web_search_options"
)
_VLLM = (
    "add_generation_prompt add_special_tokens allowed_token_ids bad_words chat_template continue_final_message "
    "documents early_stopping include_reasoning include_stop_str_in_output kv_transfer_params length_penalty "
    "logits_processors min_tokens mm_processor_kwargs priority prompt_logprobs request_id "
    "return_tokens_as_token_ids skip_special_tokens spaces_between_special_tokens stop_token_ids "
    "truncate_prompt_tokens use_beam_search"
)
_OTHERS = (  # llama.cpp's, Ollama's, OpenRouter's, Anthropic's
    "cache_control cache_prompt id_slot ignore_eos keep_alive min_keep mirostat mirostat_eta mirostat_tau models "
    "n_keep n_probs num_ctx options plugins provider route samplers tfs_z top_a transforms typical_p"
)
KNOWN_ELSEWHERE = frozenset(chain(_INSTEAD, *(text.split() for text in (_OPENAI, _VLLM, _OTHERS))))

_OPENAIS_PATHS = (
    "assistants audio batches containers conversations evals files fine_tuning images moderations realtime responses "
    "threads uploads vector_stores videos"
)
_INTERFACES = {
    **{f"/v1/{name}": f"OpenAI's {name.replace('_', ' ')} API" for name in _OPENAIS_PATHS.split()},
    "/api": "Ollama's interface",
    "/v1/messages": "Anthropic's interface",
    **dict.fromkeys(("/completion", "/infill", "/props", "/slots", "/tokenize"), "llama.cpp's interface"),
    **dict.fromkeys(("/generate", "/generate_stream"), "the interface of text-generation-inference"),
    **dict.fromkeys(("/v1/rerank", "/rerank", "/v1/score", "/score"), "reranking"),
}


def unknown_field(name: str, known: Collection[str], routes: Mapping[str, Collection[str]]) -> str:
    """What is said of a field that a body does not have.

    `known`: the fields that it has. `routes`: the paths of requests, each with its fields.
    """
    if _INSTEAD.get(name) in known:
        return f"not supported by this server; use {_INSTEAD[name]}"
    if others := [path for path, fields in routes.items() if name in fields]:
        return f"no field of this request; {' and '.join(others)} has it"
    if name in KNOWN_ELSEWHERE:
        return "not supported by this server"
    hint = did_you_mean(name[:100], known)
    return f"no such field{hint and '; ' + hint}"


def unknown_path(path: str, routes: Collection[str], *, address: str) -> str:
    """What is said of a path that is not here: the one that was probably meant, and all that exist.

    `address`: the server's own, for the base URL that clients want.
    """
    for route in sorted(routes, key=len, reverse=True):
        if path.endswith(route.removeprefix("/v1")) and route.startswith("/v1/"):
            told = f"; did you mean {route}?"
            break
    else:
        other = [it for start, it in _INTERFACES.items() if f"{path}/".startswith(f"{start}/")]
        told = f"; {other[0]} is not supported by this server." if other else "."
    return f"no path {path[:80]!r}{told} A client's base URL is {address}/v1. Paths here: {', '.join(routes)}"
