"""Captured passes: everything but the two lines that need a GPU is run here, with a recorder that keeps its tensors in place."""

import copy
import logging
from collections.abc import Callable
from itertools import cycle
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import AttackRun, Captured, Draws, Norm, run_attack
from attacks.gradient import Passes, Seen, fastest_batch, look
from attacks.methods.apgd import _Losses
from attacks.methods.pgd import Goal
from common.cuda_graphs import RecorderOnGpu
from tests.attacks.digits import BUDGETS, Digits
from tests.waiting import Waiting

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures on a GPU")

CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("pgd", {"steps": 6}, False),
    ("pgd", {"steps": 6}, True),
    ("pgd", {"steps": 4, "counts": "last_step"}, False),
    ("fgsm", {}, False),
    ("apgd", {"steps": 8}, False),
    ("apgd", {"steps": 8, "loss": "dlr"}, False),
    ("apgd", {"steps": 5, "loss": "targeted_dlr", "targets_tried": 3}, False),
]


class Recorder:
    """Repeats a computation into the tensors that the first run made, as a graph does; counts what it recorded."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Passes]) -> Callable[[], Passes]:
        self.recorded += 1
        kept = run()

        def replay() -> Seen:
            self.replayed += 1
            for own, fresh in zip(kept, run(), strict=True):
                own.copy_(fresh)
            return kept

        return replay


def loss(digits: Digits, count: int) -> Goal:
    return Goal(digits.labels[:count], towards=False)


def assert_alike(found: Seen, expected: Seen) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.fixture
def precise(network: nn.Module, digits: Digits) -> tuple[nn.Module, Digits]:
    """In float64, where the images that share a batch do not matter to the sign of a gradient."""
    return copy.deepcopy(network).double(), Digits(digits.images[:150].double(), digits.labels[:150])


def attacked(name: str, parameters: dict[str, Any], norm: Norm, targeted: bool, on: Digits, **models: Any) -> AttackRun:
    return run_attack(
        attacks.create(name, **parameters),
        images=on.images,
        labels=on.labels,
        threat=BUDGETS[norm],
        draws=Draws.of(0, range(len(on.labels))),
        targets=(on.labels + 1) % 10 if targeted else None,
        **models,
    )


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize(("name", "parameters", "targeted"), CASES)
def test_captured_attacks_find_and_count_what_others_do(
    precise: tuple[nn.Module, Digits], norm: Norm, name: str, parameters: dict[str, Any], targeted: bool
) -> None:
    model, some = precise
    plain = copy.deepcopy(model)
    captured = Captured(copy.deepcopy(model), recorder := Recorder(), batch=64)
    expected = attacked(name, parameters, norm, targeted, some, model=model, searched=plain)
    attacked(name, parameters, norm, targeted, some, model=model, searched=captured)
    recorded = recorder.recorded
    found = attacked(name, parameters, norm, targeted, some, model=model, searched=captured)
    assert recorder.recorded == recorded > 0, "captured once, used in the next attack too"
    assert recorder.replayed > recorded
    assert torch.allclose(found.adversarial, expected.adversarial, atol=1e-9)
    assert torch.equal(found.flipped, expected.flipped)
    assert found.images_forwarded == expected.images_forwarded, "neither padding nor captures count"
    assert found.steps is not None
    assert expected.steps is not None
    assert torch.equal(found.steps, expected.steps)


def test_batches_are_padded_to_powers_of_two_or_the_whole_batch(network: nn.Module, digits: Digits) -> None:
    captured = Captured(network, recorder := Recorder(), batch=13)
    recorded: list[int] = []
    for count in (13, 12, 9, 8, 5, 3, 1, 2, 13, 26, 30, 1):
        found = look(captured, digits.images[:count], loss(digits, count))
        assert_alike(found, look(network, digits.images[:count], loss(digits, count)))
        recorded.append(recorder.recorded)
    assert recorded == [1, 1, 1, 2, 2, 3, 4, 5, 5, 5, 5, 5]


def test_logits_alone_are_captured_too_and_pass_in_batches(network: nn.Module, digits: Digits) -> None:
    captured = Captured(network, recorder := Recorder(), batch=16)
    for count in (40, 16, 5):
        with torch.no_grad():
            assert torch.allclose(captured(digits.images[:count]), network(digits.images[:count]), atol=1e-5)
    assert (recorder.recorded, recorder.replayed) == (2, 5)
    leaf = digits.images[:40].clone().requires_grad_()
    captured(leaf).sum().backward()
    assert recorder.recorded == 2, "a gradient that is taken elsewhere runs the model as it is"
    assert leaf.grad is not None
    assert leaf.grad.any()


@pytest.mark.parametrize(
    ("per_batch", "per_image", "memory", "found"),
    [(0.0, 1.0, 999, 8), (64.0, 1.0, 9999, 1024), (8.0, 1.0, 9999, 128), (1e9, 0.0, 9999, 4096), (64.0, 1.0, 100, 64)],
)
def test_a_batch_is_doubled_while_that_is_faster(per_batch: float, per_image: float, memory: int, found: int) -> None:
    asked: list[int] = []

    def seconds(size: int) -> float:
        asked.append(size)
        if size > memory:
            raise torch.OutOfMemoryError
        return per_batch + per_image * size

    assert fastest_batch(seconds, 4096) == found
    assert asked == [8 * 2**power for power in range(len(asked))]
    assert fastest_batch(seconds, 3) == 3, "no more than there may be"


def compiled(model: nn.Module) -> nn.Module:
    """As PyTorch traces it, without generated code, whose compilation takes minutes."""
    return cast(nn.Module, torch.compile(model, backend="eager", dynamic=False))


def turned_round(model: nn.Module) -> nn.Module:
    return nn.Sequential(copy.deepcopy(model), _Opposite())


class _Opposite(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return 2 * logits.detach() - logits


def refused(model: nn.Module) -> nn.Module:
    raise ValueError("no compiler\nmore")


@pytest.mark.parametrize(
    ("compiler", "speed", "said"),
    [
        (compiled, 2, "Sequential, compiled, is used: gradients differ by 0, 2.00 times as fast"),
        (compiled, 0.5, "Sequential, compiled, is not used: gradients differ by 0, 0.50 times as fast"),
        (turned_round, 2, "Sequential, compiled, is not used: gradients differ by 2, 2.00 times as fast"),
        (refused, 2, "Sequential, compiled, is not used: ValueError: no compiler"),
    ],
)
def test_a_compiled_model_is_used_where_its_gradients_hold_and_it_is_faster(
    network: nn.Module,
    digits: Digits,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    compiler: Callable[[nn.Module], nn.Module],
    speed: float,
    said: str,
) -> None:
    times = cycle([1.0, 1 / speed])
    monkeypatch.setattr(attacks.gradient, "seconds_on", lambda _, run: next(times))
    made: list[nn.Module] = []

    def counted(model: nn.Module) -> nn.Module:
        made.append(compiler(model))
        return made[-1]

    captured = Captured(network, Recorder(), batch=16, compiler=counted)
    with caplog.at_level(logging.INFO):
        for count in (16, 5, 40):
            found = look(captured, digits.images[:count], loss(digits, count))
            assert_alike(found, look(network, digits.images[:count], loss(digits, count)))
        with torch.no_grad():
            captured(digits.images[:16])
    assert [each.getMessage() for each in caplog.records] == [said]
    assert len(made) <= 1, "full batches alone are compiled, once"


def test_the_batch_is_measured_once_for_a_kind_of_pass(
    network: nn.Module, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def timed(_: torch.device, run: Callable[[], Passes]) -> float:
        (logits, *_) = run()
        measured.append(len(logits))
        return 1 + max(0, len(logits) - 32)

    monkeypatch.setattr(attacks.gradient, "seconds_on", timed)
    captured = Captured(network, recorder := Recorder())
    some = Digits(digits.images[:100], digits.labels[:100])
    for _ in range(2):
        assert_alike(look(captured, some.images, loss(some, 100)), look(network, some.images, loss(some, 100)))
    assert measured == [8, 16, 32, 64]
    assert recorder.recorded == 2, "32 at a time, and 4 left"
    with torch.no_grad():
        captured(some.images[:1])
    assert measured == [8, 16, 32, 64] * 2, "logits alone may take another"


def test_what_a_capture_held_before_does_not_matter(network: nn.Module, digits: Digits) -> None:
    captured = Captured(network, Recorder(), batch=16)
    for start, count in ((0, 16), (0, 16), (16, 13), (40, 9), (60, 16)):
        part = Digits(digits.images[start : start + count], digits.labels[start : start + count])
        assert_alike(look(captured, part.images, loss(part, count)), look(network, part.images, loss(part, count)))


def test_what_was_returned_stays_when_the_capture_is_replayed(network: nn.Module, digits: Digits) -> None:
    captured = Captured(network, Recorder(), batch=16)
    look(captured, digits.images[:8], loss(digits, 8))
    first = look(captured, digits.images[:8], loss(digits, 8))
    kept = Seen(*(each.clone() for each in first))
    look(captured, digits.images[8:16], Goal(digits.labels[8:16], towards=False))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, kept, strict=True))


def test_every_loss_and_type_has_its_own_capture(network: nn.Module, digits: Digits) -> None:
    images, labels, aim = digits.images[:8], digits.labels[:8], (digits.labels[:8] + 1) % 10
    captured = Captured(network, recorder := Recorder(), batch=16)
    losses = [
        Goal(labels, towards=False),
        Goal(aim, towards=True),
        _Losses("ce", labels, None),
        _Losses("dlr", labels, None),
        _Losses("targeted_dlr", labels, aim),
    ]
    for _ in range(2):
        for each in losses:
            assert_alike(look(captured, images, each), look(network, images, each))
    assert recorder.recorded == len(losses)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(8), network).eval()
    captured = Captured(pooled, recorder := Recorder(), batch=16)
    for shape in ((8, 8), (9, 10)):
        resized = nn.functional.interpolate(images, shape)
        assert_alike(look(captured, resized, losses[0]), look(pooled, resized, losses[0]))
    assert recorder.recorded == 2


def refuse(run: Callable[[], Passes]) -> Callable[[], Passes]:
    try:
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


def forget(run: Callable[[], Passes]) -> Callable[[], Passes]:
    """A replay that does nothing: what the recording made is all there ever is."""
    kept = run()
    return lambda: kept


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (refuse, "RuntimeError: operation not permitted when stream is capturing"),
        (forget, "its replay differs from an ordinary pass"),
    ],
)
def test_a_model_that_cannot_be_captured_goes_on_as_it_is(
    network: nn.Module, digits: Digits, caplog: pytest.LogCaptureFixture, record: Any, reason: str
) -> None:
    calls: list[int] = []

    def counted(run: Callable[[], Passes]) -> Callable[[], Passes]:
        calls.append(1)
        return record(run)

    captured = Captured(network, counted, batch=16)
    with caplog.at_level(logging.WARNING):
        for count in (8, 8, 3):
            found = look(captured, digits.images[:count], loss(digits, count))
            assert_alike(found, look(network, digits.images[:count], loss(digits, count)))
    assert [each.getMessage() for each in caplog.records] == [
        f"Sequential cannot be captured and runs without CUDA graphs: {reason}"
    ]
    assert len(calls) == 1, "not tried again"


def test_a_captured_model_is_the_model_without_a_loss(network: nn.Module, digits: Digits) -> None:
    captured = Captured(network, Recorder(), batch=16)
    assert torch.equal(captured(digits.images[:5]), network(digits.images[:5]))
    assert not captured.training
    assert Captured(copy.deepcopy(network).train()).training
    attack = attacks.create("torchattacks:PGD", alpha=0.1, steps=4)
    run = run_attack(
        attack,
        network,
        digits.images[:100],
        digits.labels[:100],
        threat=BUDGETS[Norm.LINF],
        draws=attacks.Draws.of(0, range(len(digits.images[:100]))),
        searched=captured,
    )
    assert run.flipped.any()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_goes_on(
    network: nn.Module, digits: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    found = look(Captured(network, batch=8), digits.images[:4], loss(digits, 4))
    assert_alike(found, look(network, digits.images[:4], loss(digits, 4)))
    assert "cannot be captured and runs without CUDA graphs" in caplog.text


@needs_gpu
@pytest.mark.parametrize(("name", "parameters", "targeted"), CASES)
def test_graphs_find_what_the_model_finds(
    network: nn.Module,
    digits: Digits,
    caplog: pytest.LogCaptureFixture,
    name: str,
    parameters: dict[str, Any],
    targeted: bool,
) -> None:
    model = copy.deepcopy(network).cuda()
    some = Digits(digits.images[:300].cuda(), digits.labels[:300].cuda())
    captured = Captured(copy.deepcopy(model))
    expected = attacked(name, parameters, Norm.LINF, targeted, some, model=model, searched=copy.deepcopy(model))
    for _ in range(2):
        found = attacked(name, parameters, Norm.LINF, targeted, some, model=model, searched=captured)
        assert (found.flipped != expected.flipped).float().mean() <= 0.02
    assert not caplog.records


@needs_gpu
def test_graphs_give_the_logits_losses_and_gradients(network: nn.Module, digits: Digits) -> None:
    model = copy.deepcopy(network).cuda()
    captured = Captured(model, recorder := counted_on_gpu(), batch=16)
    for count in (13, 13, 12, 5, 1, 8, 13):
        images, goal = digits.images[:count].cuda(), Goal(digits.labels[:count].cuda(), towards=False)
        for ours, theirs in zip(look(captured, images, goal), look(model, images, goal), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-3)
    assert recorder.recorded == 3


def counted_on_gpu() -> Recorder:
    class Counted(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.on_gpu = RecorderOnGpu()

        def __call__(self, run: Callable[[], Passes]) -> Callable[[], Passes]:
            self.recorded += 1
            return self.on_gpu(run)

    return Counted()


@needs_gpu
def test_a_model_that_waits_for_the_gpu_is_run_as_it_is(
    network: nn.Module, digits: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    model = Waiting(copy.deepcopy(network)).cuda().eval()
    captured = Captured(model)
    images, goal = digits.images[:8].cuda(), Goal(digits.labels[:8].cuda(), towards=False)
    for _ in range(2):
        for ours, theirs in zip(look(captured, images, goal), look(model, images, goal), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-3)
    assert "cannot be captured" in caplog.text
