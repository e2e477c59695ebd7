"""OpenVINO GenAI answers batches, as a contender in the comparison of serving. It runs in an environment of its own.

The environment needs openvino-genai, openvino-tokenizers and optimum-intel. The model is exported at the first use.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Load the model that the first argument describes, then answer one line of requests after the other."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries' prints must not get between the answers
    what = json.loads(sys.argv[1])
    genai: Any = importlib.import_module("openvino_genai")
    exported = Path(what["work"]) / "openvino"
    if not exported.exists():
        export: Any = importlib.import_module("optimum.exporters.openvino")
        export.main_export(what["folder"], exported, task="text-generation-with-past", convert_tokenizer=True)
    adapters = [genai.Adapter(f"{path}/adapter_model.safetensors") for path in what["adapters"]]
    hints = {"INFERENCE_NUM_THREADS": what["threads"]}
    plain = genai.LLMPipeline(exported, "CPU", **hints)
    adapted = genai.LLMPipeline(exported, "CPU", adapters=genai.AdapterConfig(adapters), **hints)
    config = genai.GenerationConfig()
    config.ignore_eos, config.do_sample, config.apply_chat_template = True, False, False
    tokenizer = plain.get_tokenizer()

    def answer(wish: dict[str, Any]) -> dict[str, float]:
        config.max_new_tokens = wish["tokens"]
        prompts = [tokenizer.decode(tokens) for tokens in wish["prompts"]]
        adapter = wish["adapters"][0]
        start = time.perf_counter()
        if adapter is None:
            plain.generate(prompts, config)
        else:
            adapted.generate(prompts, config, adapters=genai.AdapterConfig(adapters[adapter]))
        return {"seconds": time.perf_counter() - start, "tokens": len(prompts) * wish["tokens"]}

    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
