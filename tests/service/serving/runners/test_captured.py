"""Captured models: sizes, padding and what happens where a capture fails; with a GPU, also that the answers stay as they are."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from threading import Thread

import pytest
import torch
from torch import Tensor, nn

import models
from common.float32 import float32_as
from evaluation import Catalog
from service.serving.deployments import ServingSettings
from service.serving.devices import STREAMS, Device, Gpu, device_of
from service.serving.loading import load_served
from service.serving.predictions import rank
from service.serving.runners import captured as subject
from service.serving.runners.captured import Captured, Recorder, Run, Scores, padded, score, sizes
from service.serving.runners.on_stream import OnStream
from service.serving.runners.plain import Plain
from tests.service.serving.predictions import Find
from tests.waiting import Waiting

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures on a GPU")


class Repeated:
    """Computes into the tensors that the first run made, as a graph does; fails at given sizes."""

    def __init__(self, failures: dict[int, Exception] | None = None) -> None:
        self.sizes: list[int] = []
        self.failures = failures or {}

    def __call__(self, run: Run) -> Run:
        kept = run()
        self.sizes.append(len(kept.logits))
        if failure := self.failures.get(self.sizes[-1]):
            raise failure

        def replay() -> Scores:
            for own, fresh in zip(kept, run(), strict=True):
                own.copy_(fresh)
            return kept

        return replay


@pytest.fixture
def tiny(catalog: Catalog, find: Find) -> models.Classifier:
    return load_served(catalog, find("tiny"), "cpu")


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def capture(
    classifier: nn.Module,
    most: int,
    recorder: Callable[[], Recorder],
    taken: Callable[[], int] = lambda: 0,
) -> Captured:
    with torch.inference_mode():
        return Captured(
            partial(score, classifier),
            torch.empty(most, 3, 32, 32, dtype=torch.uint8),
            recorder=recorder,
            taken=taken,
            replays={},
        )


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (48, [1, 2, 4, 8, 16, 32, 48]), (64, [1, 2, 4, 8, 16, 32, 64])]
)
def test_sizes_are_powers_of_two_and_the_largest(most: int, expected: list[int]) -> None:
    assert sizes(most) == expected
    for count in range(1, most + 1):
        assert padded(count, most) == min(size for size in expected if size >= count)


def test_a_padded_batch_has_the_scores_of_the_model(tiny: models.Classifier) -> None:
    recorder = Repeated()
    found = capture(tiny, 6, lambda: recorder)
    assert recorder.sizes == [6, 4, 2, 1], "the largest first, into whose memory the others fit"
    assert found.sizes == [1, 2, 4, 6]
    with torch.inference_mode():
        for seed, count in enumerate((6, 5, 3, 1, 2, 5)):
            given = images(count, seed)
            for ours, theirs in zip(found(given), score(tiny, given), strict=True):
                torch.testing.assert_close(ours[:count], theirs)
    assert recorder.sizes == [6, 4, 2, 1], "nothing is captured later"


def test_sizes_without_memory_run_as_they_are(tiny: models.Classifier) -> None:
    used: list[Repeated] = []

    def recorder() -> Repeated:
        used.append(Repeated({8: torch.OutOfMemoryError("no memory")}))
        return used[-1]

    found = capture(tiny, 8, recorder, taken=lambda: 2**40 if used[-1].sizes[-1] == 4 else 2**20)
    assert found.sizes == [1, 2]
    assert [each.sizes for each in used] == [[8], [4], [2, 1]], "what failed shares no memory with what follows"
    with torch.inference_mode():
        given = images(7)
        torch.testing.assert_close(found(given).logits, score(tiny, given).logits)


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({4: RuntimeError("operation not permitted")}, "RuntimeError: operation not permitted"),
        ({2: torch.OutOfMemoryError("no memory")}, "OutOfMemoryError: no memory"),
        (dict.fromkeys((1, 2, 4), torch.OutOfMemoryError("no memory")), "a single image takes more than 2048 MiB"),
    ],
)
def test_a_model_that_cannot_be_captured_says_why(
    tiny: models.Classifier, failures: dict[int, Exception], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        capture(tiny, 4, lambda: Repeated(failures))


def test_a_replay_must_follow_its_images(tiny: models.Classifier) -> None:
    def stale(run: Run) -> Run:
        kept = run()
        return lambda: kept

    with pytest.raises(RuntimeError, match="a replay of 4 images differs from an ordinary pass"):
        capture(tiny, 4, lambda: stale)


def test_a_model_with_dropout_is_not_captured(tiny: models.Classifier) -> None:
    random = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 20)).train()
    with pytest.raises(RuntimeError, match="differs from an ordinary pass"):
        capture(random, 4, Repeated)


def test_a_cpu_runs_models_as_they_are(tiny: models.Classifier, find: Find) -> None:
    device = device_of("cpu")
    assert type(device) is Device
    assert type(device.runner(find("tiny"), tiny, 8)) is Plain


def test_a_gpu_that_is_not_there_is_one_warning(
    tiny: models.Classifier, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    gpu = device_of("cuda:0")
    assert type(gpu) is Gpu
    runner = gpu.runner(find("tiny"), tiny, 8)
    assert type(runner) is Plain
    logits, ranked = runner([*images(3)], 2)
    assert ranked == rank(logits, 2)
    (record,) = caplog.records
    assert record.getMessage().startswith("tiny runs without CUDA graphs on cuda:0: ")


def test_who_wants_no_graphs_has_none(tiny: models.Classifier, find: Find, caplog: pytest.LogCaptureFixture) -> None:
    plain = replace(find("tiny"), settings=ServingSettings(cuda_graphs=False))
    assert type(Gpu("cuda").runner(plain, tiny, 8)) is Plain
    assert plain.key != find("tiny").key, "a loaded copy does not serve both"
    opaque = tiny.card.model_copy(update={"architecture": models.OPAQUE[0]})
    assert type(Gpu("cuda").runner(replace(find("tiny"), card=opaque), tiny, 8)) is Plain
    assert not caplog.records


@pytest.fixture
def on_gpu(catalog: Catalog, find: Find) -> models.Classifier:
    return load_served(catalog, find("tiny"), "cuda")


@needs_gpu
@pytest.mark.parametrize("name", sorted(Catalog().checkpoints()))
@float32_as("ieee")
def test_graphs_give_the_answers_of_the_model(find: Find, name: str) -> None:
    """The same kernels run, so that only what libraries choose anew in a capture may differ."""
    classifier = models.fold(Catalog().load_model(name, "cuda"))
    runner = Gpu("cuda:0").runner(find("tiny"), classifier, 8)
    assert isinstance(runner, OnStream)
    assert runner.sizes == [1, 2, 4, 8]
    for count in (8, 5, 2, 1, 7, 3):
        given = [*images(count, count)]
        expected, _ = Plain(classifier)([*given, *[given[0]] * (padded(count, 8) - count)], 3)
        logits, ranked = runner(given, 3)
        assert (logits - expected[:count]).abs().max() <= 1e-4 * expected.abs().max()
        for ours, theirs in zip(ranked, rank(logits, 3), strict=True):
            assert [probability for _, probability in ours] == pytest.approx([each for _, each in theirs], abs=1e-5)


@needs_gpu
def test_many_threads_get_their_own_answers(on_gpu: models.Classifier, find: Find) -> None:
    runner = Gpu("cuda:0").runner(find("tiny"), on_gpu, 16)
    assert isinstance(runner, OnStream)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for turn in range(50):
            given = [*images(1 + (seed + turn) % 16, 100 * seed + turn)]
            if not torch.allclose(runner(given, 1)[0], Plain(on_gpu)(given, 1)[0], atol=1e-3):
                wrong.append(seed)

    threads = [Thread(target=ask, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    another = Gpu("cuda:0").runner(find("twin"), on_gpu, 8)  # captured beside the others
    for each in threads:
        each.join()
    assert not wrong
    assert isinstance(another, OnStream)


@needs_gpu
def test_what_does_not_fit_the_graphs_runs_without(on_gpu: models.Classifier, find: Find) -> None:
    runner = Gpu("cuda:0").runner(find("tiny"), on_gpu, 4)
    mixed = [*images(2), models.scaled(images(1)[0])]
    for given in ([*images(5)], mixed):
        torch.testing.assert_close(runner(given, 20)[0], Plain(on_gpu)(given, 20)[0])


@needs_gpu
def test_streams_are_given_back(on_gpu: models.Classifier, find: Find, caplog: pytest.LogCaptureFixture) -> None:
    gpu = Gpu("cuda:0")
    runners = [gpu.runner(find("tiny"), on_gpu, 1) for _ in range(STREAMS + 1)]
    assert [type(each) for each in runners] == [OnStream] * STREAMS + [Plain]
    assert f"{STREAMS} models are captured already" in caplog.text
    runners.clear()
    gc.collect()
    assert type(gpu.runner(find("tiny"), on_gpu, 1)) is OnStream


@needs_gpu
def test_a_model_that_waits_for_the_gpu_is_not_captured(
    on_gpu: models.Classifier, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = models.Classifier(Waiting(on_gpu.network), on_gpu.card).cuda().eval()
    runner = Gpu("cuda:0").runner(find("tiny"), waiting, 4)
    assert type(runner) is Plain
    assert "tiny runs without CUDA graphs on cuda:0" in caplog.text
    torch.testing.assert_close(runner([*images(3)], 1)[0], Plain(on_gpu)([*images(3)], 1)[0])


@needs_gpu
def test_too_little_memory_leaves_the_small_sizes(
    on_gpu: models.Classifier, find: Find, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subject, "MOST_BYTES", 0)
    assert type(Gpu("cuda:0").runner(find("tiny"), on_gpu, 4)) is Plain
    assert "a single image takes more than 0 MiB" in caplog.text


@needs_gpu
def test_a_stream_is_given_back_where_a_capture_fails(on_gpu: models.Classifier) -> None:
    streams: SimpleQueue[torch.cuda.Stream] = SimpleQueue()
    streams.put(torch.cuda.Stream("cuda:0", priority=-1))
    random = models.Classifier(nn.Sequential(on_gpu.network, nn.Dropout(0.5)), on_gpu.card).cuda().train()
    with pytest.raises(RuntimeError, match="differs from an ordinary pass"):
        OnStream(Plain(random), random, 2, streams)
    gc.collect()
    assert streams.qsize() == 1
    OnStream(Plain(on_gpu), on_gpu, 2, streams)
