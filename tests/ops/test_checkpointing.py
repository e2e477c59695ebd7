"""A recomputed layer gives the gradients of the plain one, and only its input is kept."""

import gc
import weakref

import torch

from kameleon.ops import recompute


def layer(calls, *weights):
    def run(x, *, skip_output=False):
        calls.append(skip_output)
        for weight in weights:
            x = torch.tanh(x @ weight)
        return x

    return run


def test_gradients_equal_those_of_the_plain_layer_and_the_second_run_skips_its_output():
    torch.manual_seed(0)
    x = torch.randn(3, 4, requires_grad=True)
    weights = [torch.randn(4, 4, requires_grad=True) for _ in range(2)]
    calls = []
    run = layer(calls, *weights)
    wanted = torch.autograd.grad(run(x).square().sum(), [x, *weights])
    calls.clear()
    recompute(run, x, weights).square().sum().backward()
    assert calls == [False, True]
    for tensor, gradient in zip((x, *weights), wanted, strict=True):
        assert torch.equal(tensor.grad, gradient)


def test_an_input_without_gradient_still_trains_the_layer_and_nothing_trained_runs_once():
    weight = torch.randn(4, 4, requires_grad=True)
    calls = []
    recompute(layer(calls, weight), torch.randn(3, 4), [weight]).sum().backward()
    assert weight.grad is not None and calls == [False, True]
    calls.clear()
    assert not recompute(layer(calls, weight.detach()), torch.randn(3, 4), [weight.detach()]).requires_grad
    assert calls == [False]


def test_what_was_kept_is_free_as_soon_as_the_gradient_is_there():
    weight = torch.randn(4, 4, requires_grad=True)
    gc.disable()
    try:
        x = torch.randn(3, 4)
        entered = weakref.ref(x)
        y = recompute(layer([], weight), x, [weight])
        y.sum().backward()
        del x, y
        assert entered() is None
    finally:
        gc.enable()
