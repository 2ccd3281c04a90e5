import pytest
import torch

from ragdist.config import TrainConfig
from ragdist.lm import zero


@pytest.mark.parametrize(
    ("train", "workers", "dtype", "stage"),
    [
        ({"zero_stage": 2}, 2, torch.float32, 2),
        ({"zero_stage": 2}, 1, torch.float32, 0),
        ({"zero_stage": 3}, 1, torch.bfloat16, 1),  # 0 has no fp32 master weights
        ({"zero_stage": 1}, 1, torch.bfloat16, 1),
        ({"zero_stage": 0}, 1, torch.float32, 0),
        ({"zero_stage": 3, "offload": "all"}, 1, torch.float32, 3),
    ],
)
def test_one_worker_has_the_lowest_stage_that_computes_the_same(train, workers, dtype, stage):
    assert TrainConfig(**train).stage(workers, dtype.itemsize) == stage
    assert zero.zero_config(TrainConfig(**train), workers, dtype)["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize(("largest", "moved"), [(0.0, [-3.0, -4.0]), (1.0, [-0.6, -0.8]), (6.0, [-3.0, -4.0])])
def test_clip_before_steps_clips_and_leaves_the_norm_before(largest, moved):
    parts = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = torch.optim.SGD(parts, lr=1.0)
    zero.clip_before_steps(optimizer, largest)
    (3 * parts[0] + 4 * parts[1]).sum().backward()  # the third has no gradient
    optimizer.step()
    assert optimizer._global_grad_norm == pytest.approx(5.0)
    assert [part.item() for part in parts] == pytest.approx([*moved, 0.0], abs=1e-5)
