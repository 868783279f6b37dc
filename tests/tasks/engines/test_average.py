"""The mean of checkpoints, against one in float64: whatever their precision is and however each is sharded."""

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.engines.average import average
from tests.harness.processes import REPOSITORY
from tests.students import make_checkpoint, make_tiny_students

Tensors = dict[str, torch.Tensor]

SHAPES = {"embed": (7, 3), "layer.weight": (4, 5), "layer.bias": (5,), "scale": ()}
EPSILON = {torch.float32: 2**-23, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Distance of neighbours of 1."""


def draw(rng: torch.Generator, dtype: torch.dtype) -> Tensors:
    floats = {name: torch.randn(shape, generator=rng).to(dtype) for name, shape in SHAPES.items()}
    return floats | {"position_ids": torch.randint(99, (6,), generator=rng)}


def write(folder: Path, tensors: Tensors, shards: int, rng: random.Random) -> Path:
    """A checkpoint whose tensors are dealt out to so many files."""
    make_checkpoint(folder, model__safetensors=None, training__json="{}", config__json=json.dumps({"of": folder.name}))
    files = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    names = rng.sample(sorted(tensors), len(tensors))
    dealt = {file: names[place::shards] for place, file in enumerate(files if shards > 1 else ["model.safetensors"])}
    for file, of_file in dealt.items():
        save_file({name: tensors[name] for name in of_file}, folder / file, {"format": "pt"})
    if shards > 1:
        index = {"weight_map": {name: file for file, of_file in dealt.items() for name in of_file}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read(folder: Path) -> Mapping[str, Tensors]:
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_mean_in_precision_and_layout_of_the_last(tmp_path: Path, dtype: torch.dtype, seed: int) -> None:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    drawn = [draw(generator, dtype) for _ in range(rng.randint(2, 6))]
    shards = [rng.randint(1, 3) for _ in drawn]
    checkpoints = [
        write(tmp_path / f"S_{place}", each, of, rng)
        for place, (each, of) in enumerate(zip(drawn, shards, strict=True), start=1)
    ]
    average(tmp_path / "average", *checkpoints)
    made, last = read(tmp_path / "average"), read(checkpoints[-1])
    assert {file: [*of] for file, of in made.items()} == {file: [*of] for file, of in last.items()}
    for name, tensor in (item for of in made.values() for item in of.items()):
        assert tensor.dtype == drawn[-1][name].dtype
        if name == "position_ids":
            assert torch.equal(tensor, drawn[-1][name])
            continue
        mean = torch.stack([each[name].double() for each in drawn]).mean(0)
        largest = torch.stack([each[name].double().abs() for each in drawn]).amax(0)
        # Half a step of its precision where the mean lies, and what sums in fp32 lose.
        allowed = EPSILON[dtype] * mean.abs() + 2**-21 * largest
        assert (tensor.double() - mean).abs().le(allowed).all()


def test_a_small_step_that_bf16_loses_in_a_sum_is_kept(tmp_path: Path) -> None:
    """256 + 1 is 256 in bf16, so that a mean in bf16 would be none."""
    values = [256.0, 2.0, 2.0, 4.0]
    checkpoints = [
        write(tmp_path / f"S_{place}", {"w": torch.full((3,), each, dtype=torch.bfloat16)}, 1, random.Random(1))
        for place, each in enumerate(values)
    ]
    average(tmp_path / "average", *checkpoints)
    [made] = read(tmp_path / "average").values()
    assert made["w"].tolist() == [66.0] * 3


def test_files_beside_the_weights_are_those_of_the_last_without_its_training(tmp_path: Path) -> None:
    rng, tensors = random.Random(1), draw(torch.Generator().manual_seed(1), torch.float32)
    checkpoints = [write(tmp_path / name, tensors, 2, rng) for name in ("S_1", "S_2")]
    average(tmp_path / "average", *checkpoints)
    there = {file.name for file in checkpoints[-1].iterdir()}
    assert {file.name for file in (tmp_path / "average").iterdir()} == there - {"training.json"}
    for name in ("config.json", "model.safetensors.index.json", "chat_template.jinja"):
        assert (tmp_path / "average" / name).read_bytes() == (checkpoints[-1] / name).read_bytes()


def test_checkpoints_of_different_models_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    rng = random.Random(1)
    one = write(tmp_path / "S_1", {"w": torch.zeros(2), "head": torch.zeros(2)}, 1, rng)
    other = write(tmp_path / "S_2", {"w": torch.zeros(2)}, 1, rng)
    with pytest.raises(ValueError, match="not all of them have head"):
        average(tmp_path / "average", one, other)
    assert not (tmp_path / "average").exists()


def test_the_mean_of_two_models_loads_as_one_of_them(tmp_path: Path) -> None:
    """Run as the product runs it, in a process of its own."""
    from transformers import AutoModelForCausalLM  # seconds, which processes that only collect need not spend

    students = make_tiny_students(tmp_path, 2)
    made = [sys.executable, "-m", "tasks.engines.average", *map(str, (tmp_path / "average", *students))]
    subprocess.run(made, check=True, cwd=REPOSITORY, capture_output=True)
    one, other, mean = (
        AutoModelForCausalLM.from_pretrained(folder, dtype="float32").state_dict()
        for folder in (*students, tmp_path / "average")
    )
    assert not all(torch.equal(one[name], other[name]) for name in one)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (one[name] + other[name]) / 2, rtol=2**-8, atol=1e-6)
