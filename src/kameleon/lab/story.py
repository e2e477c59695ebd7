"""The lab told in words, from its own numbers."""

from __future__ import annotations

from kameleon.lab.toy import LabReport


def tell(r: LabReport) -> str:
    """The explanation as Markdown."""
    return f"""
# LoRA in two minutes

A frozen layer `W` gets a side path: `y = x Wᵀ + (alpha/r) · (x Aᵀ) Bᵀ`. Only `A` and `B` are trained.

**(a) How much is trained.** A 1000 × 1000 layer has 1,000,000 numbers; its side path of rank 4 has
{r.trained_1000:,}: {r.share_1000:.1%} fewer. A 100 × 100 layer has 10,000 frozen numbers and {r.trained_100} trained
ones: {r.share_100:.2%} stay frozen.

**(b) A fresh side path changes nothing.** `B` starts at zero; largest change of the output: {r.fresh_change}.

**(c) It learns.** A frozen 100 → 100 layer without bias, 10 random inputs, target = its own output + 5; Adam, learning
rate 0.1, 100 epochs, rank 4, scaling 1. The loss falls from {r.loss_first:.1f} to {r.loss_last:.4f}. Did the frozen
weights change? {"Yes" if r.base_changed else "No, not a bit"}. The largest number in `B·A` is {r.largest_change:.2f}.

**(d) … but what?** On 1,000 new inputs the difference from the frozen layer should be 5. It is {r.heldout_mean:.2f} on
average, with a spread of {r.heldout_spread:.2f}. A linear map without a bias sends 0 to 0 and −x to minus what it sends
x to: it *cannot* add a constant. It memorised ten points.

| what is trained | on | adds to new inputs |
|---|---|---|
| LoRA | 10 points | {r.heldout_mean:.2f} |
| LoRA and a bias | 10 points | {r.heldout_mean_bias_10:.2f} (both explain ten points, and share the work) |
| the bias alone | 10 points | {r.heldout_mean_bias_only_10:.2f} |
| LoRA and a bias | 1,000 points | {r.heldout_mean_bias_1000:.2f} |
| LoRA, with an input that is always 1 | 1,000 points | {r.heldout_mean_one_1000:.2f} |

The lesson: a loss near zero on few rows proves nothing. Look at held-out rows, and give the model what can express the
answer.

**(e) Rank.** A change of rank 4 is learned whole at rank 4 (error {r.low_rank.trained[3]:.3f}). The identity has full
rank: rank 16 leaves {r.full_rank.trained[7]:.1%} of it, and no training can do better than the SVD, which leaves
{r.full_rank.best[7]:.1%}. LoRA works because the changes that fine-tuning makes are close to low rank.
""".strip()
