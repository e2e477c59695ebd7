"""transformers + PEFT answer batches, as a contender in the comparison of serving, in a process of its own.

python peft_worker.py '{"folder": …, "adapters": […], "threads": 2}' < requests.jsonl
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Load the model that the first argument describes, then answer one line of requests after the other."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries' prints must not get between the answers
    what = json.loads(sys.argv[1])
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(what["threads"])
    base = AutoModelForCausalLM.from_pretrained(what["folder"], dtype=torch.bfloat16).eval()
    first, *rest = what["adapters"]
    model = PeftModel.from_pretrained(base, first, adapter_name="a0", autocast_adapter_dtype=False)
    for at, path in enumerate(rest, 1):
        model.load_adapter(path, adapter_name=f"a{at}", autocast_adapter_dtype=False)
    model.eval()

    def answer(wish: dict[str, Any]) -> dict[str, float]:
        tokens = torch.tensor(wish["prompts"])
        length = {"max_new_tokens": wish["tokens"], "min_new_tokens": wish["tokens"]}
        names = [f"a{adapter}" for adapter in wish["adapters"] if adapter is not None]
        how: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, **length}
        start = time.perf_counter()
        with torch.inference_mode():
            if not names:
                with model.disable_adapter():
                    model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **how)
            else:
                if len(set(names)) > 1:
                    how["adapter_names"] = names
                else:  # the faster way for one
                    model.set_adapter(names[0])
                model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **how)
        return {"seconds": time.perf_counter() - start, "tokens": tokens.shape[0] * wish["tokens"]}

    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
