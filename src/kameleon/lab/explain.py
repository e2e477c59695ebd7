"""The lab told in words, from its own numbers."""

from __future__ import annotations

import textwrap

from kameleon.lab.report import LabReport

_WIDTH = 79
_SHOWN_RANKS = (1, 2, 4, 8, 16, 50, 90, 100)


def explain(r: LabReport) -> str:
    """Each part's numbers and what follows from them: plain text of about two screens, at most 79 columns wide."""
    return "\n\n".join((_counts(r), _learning(r), _memory(r), _ranks(r)))


def _counts(r: LabReport) -> str:
    return _paragraphs(
        """A frozen layer W gets a side path, y = x Wᵀ + (alpha / r) · (x Aᵀ) Bᵀ, with A [r, in] random and B [out, r]
        zero at first. Only A and B are trained.""",
        f"""(a) Few numbers are trained. In a 1000 × 1000 layer rank 4 trains {r.trained_1000:,} instead of
        {r.full_1000:,}: {r.share_1000:.1%} fewer. In a 100 × 100 layer {r.frozen_100:,} are frozen and
        {r.trained_100:,} trained: {r.share_100:.2%} of all numbers stay frozen.""",
        f"""(b) A fresh side path changes nothing, because B is zero. Largest change of any output:
        {r.fresh_change:g}.""",
    )


def _learning(r: LabReport) -> str:
    return _paragraphs(
        f"""(c) It learns "+5". A frozen 100 → 100 layer without bias, 10 random inputs, target = its own output + 5;
        rank {r.rank}, scaling alpha / r = {r.alpha:g} / {r.rank} = {r.scaling:g}, Adam at 0.1,
        {len(r.losses) - 1} epochs. The loss falls from {r.loss_first:.2f} to {r.loss_last:.5f}; on the ten inputs the
        output rose by {r.train_mean:.2f}. The frozen weights are
        {"CHANGED" if r.base_changed else "the same to the bit"}, and the change beside them is large:
        ‖scaling · B·A‖ = {r.change_norm:.1f}, ‖W‖ = {r.weight_norm:.1f}."""
    )


def _memory(r: LabReport) -> str:
    why = _paragraphs(
        f"""(d) But that is not what it learned. On 1,000 new inputs the output moves by {r.heldout_mean:.2f} on
        average, with a spread of {r.heldout_spread:.2f}. The side path is linear and has no bias: it gives 0 for 0, and
        −5 for −x where it gives 5 for x, so it cannot add a constant. In 100 dimensions there is always a direction
        in which ten points look alike: it memorised them."""
    )
    table = f"""\
    mean change on new inputs (5 was asked for)    10 inputs   1,000 inputs
      LoRA                                         {r.heldout_mean:9.2f}   {r.heldout_mean_lora_1000:12.2f}
      LoRA and a bias                              {r.heldout_mean_bias_10:9.2f}   {r.heldout_mean_bias_1000:12.2f}
      a bias alone                                 {r.heldout_mean_bias_only_10:9.2f}
      LoRA, with an input that is always 1                     {r.heldout_mean_feature_1000:12.2f}"""
    lesson = _paragraphs(
        f"""More data alone does not help, but it shows: the training loss stays at {r.loss_lora_1000:.0f}. A bias makes
        the constant possible, yet on ten points LoRA explains them sooner than the bias can grow; a bias alone has no
        other way. With the means and the data it is found. A training loss near zero says nothing of what was learned:
        look at held-out rows."""
    )
    return "\n\n".join((why, table, lesson))


def _ranks(r: LabReport) -> str:
    points = {point.rank: point for point in r.rank_curve}
    shown = [points[rank] for rank in _SHOWN_RANKS]
    worst = max(max(p.identity_error - p.identity_best, p.rank4_error - p.rank4_best) for p in r.rank_curve)
    rows = [("rank", [str(p.rank) for p in shown])]
    for change, name in (("rank4", "ΔW of rank 4"), ("identity", "ΔW = identity")):
        for kind, label in (("error", f"{name}: trained"), ("best", "  best possible (SVD)")):
            rows.append((label, [f"{getattr(p, f'{change}_{kind}'):.3f}" for p in shown]))
    table = "\n".join(f"  {label:<23}" + "".join(f"{cell:>6}" for cell in cells) for label, cells in rows)
    head = _paragraphs(
        """(e) The rank must fit the change. Side paths of a 100 × 100 layer, trained towards a known ΔW; the error is
        ‖scaling · B·A − ΔW‖ / ‖ΔW‖."""
    )
    lesson = _paragraphs(
        f"""At each of the {len(r.rank_curve)} ranks training comes within {worst:.1g} of the best that any matrix of
        that rank can do. A change of rank 4 needs rank 4 and gains nothing above; the identity has no direction to
        spare, so every missing rank costs."""
    )
    return "\n\n".join((head, table, lesson))


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(textwrap.fill(" ".join(text.split()), _WIDTH, break_on_hyphens=False) for text in texts)
