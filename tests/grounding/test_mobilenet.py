"""MobileNetV2 under both conventions: golden numbers, transformers, torchvision's structure, sizes, every layout."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util
from safetensors.numpy import load_file
from torch import nn
from transformers import MobileNetV2ForImageClassification, MobileNetV2Model

from grounding_jax.models import mobilenet
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import mobilenet as mobilenet_weights
from grounding_jax.weights.tensors import LazyTensor, from_array
from tests.torch_reference import STD, randomize

FEATURES = dict(atol=1e-4, rtol=1e-4)
QUICK = {"xla_backend_optimization_level": 0}  # these models take longer to compile than to run
CONVENTIONS = {"tf": MobileNetConfig.tensorflow(), "torch": MobileNetConfig.torchvision(eps=1e-3)}
TAPS = (1, 4, 11, 15)  # blocks behind the first that end at strides 4, 8, 16, 32


def both_forms(config: MobileNetConfig, params: dict, images: np.ndarray):
    """``(maps, last map, its mean)``."""
    return mobilenet.pyramid(config, params, images), *mobilenet.encode(config, params, images)


run = jax.jit(both_forms, static_argnums=0, compiler_options=QUICK)


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def pictures(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


def for_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2))


def randomize_all(module: nn.Module, seed: int) -> nn.Module:
    """Parameters and running statistics; kernels keep the size of what goes through, or 53 layers blow up rounding."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2, generator=generator)
    randomize(module, seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 4:
                parameter /= STD * math.sqrt(parameter[0].numel())
    return module


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_agrees_with_golden(golden, convention):
    """An even and an odd size."""
    path = golden / "gella" / "mobilenet_v2"
    leaves = mobilenet_weights.transformers(detection=False).to_ours(open_weights(path), str(path))
    config = mobilenet_weights.config(leaves, CONVENTIONS[convention])
    assert (config.stem, config.widths, config.head) == (8, (8, 8, 8, 16, 24, 40, 80), 320)
    params = folder.to_params(leaves, np.dtype(np.float32))
    inputs, outputs = load_file(path / "inputs.safetensors"), load_file(path / "outputs.safetensors")
    for case in ("case0", "case1"):
        maps, last, _ = run(config, params, inputs[f"{case}.pixel_values"].astype(np.float32).transpose(0, 2, 3, 1))
        for name, found in zip(("stride4", "stride8", "stride16", "stride32"), maps, strict=True):
            expected = outputs[f"{case}.{convention}_pad.{name}"].transpose(0, 2, 3, 1)
            np.testing.assert_allclose(found, expected, **FEATURES, err_msg=f"{case} {name}")
        expected = outputs[f"{case}.{convention}_pad.last_hidden_state"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(last, expected, **FEATURES)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_agrees_with_transformers(convention, tmp_path):
    public = transformers.MobileNetV2Config(depth_multiplier=0.5, tf_padding=convention == "tf")
    theirs = randomize_all(MobileNetV2Model(public), seed=1)
    theirs.save_pretrained(tmp_path)
    leaves = mobilenet_weights.transformers(detection=False).to_ours(open_weights(tmp_path), "random weights")
    config = mobilenet_weights.config(leaves, CONVENTIONS[convention])
    images = pictures(2, 2, 37, 70)
    with torch.no_grad():
        expected = theirs(for_torch(images), output_hidden_states=True)
    maps, last, pooled = run(config, folder.to_params(leaves), images)
    for found, block in zip(maps, TAPS, strict=True):
        np.testing.assert_allclose(found, channels_last(expected.hidden_states[block]), **FEATURES)
    np.testing.assert_allclose(last, channels_last(expected.last_hidden_state), **FEATURES)
    np.testing.assert_allclose(pooled, expected.pooler_output, **FEATURES)


def unit(C: int, features: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(C, features, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(features), nn.ReLU6())


class Residual(nn.Module):
    """A block whose modules nest as in torchvision, so that its tensors have the same names."""

    def __init__(self, C: int, features: int, stride: int, expansion: int):
        super().__init__()
        hidden = C * expansion
        units = [unit(C, hidden, 1)] if expansion > 1 else []
        units.append(unit(hidden, hidden, 3, stride, groups=hidden))
        self.conv = nn.Sequential(*units, nn.Conv2d(hidden, features, 1, bias=False), nn.BatchNorm2d(features))
        self.residual = (stride, C) == (1, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class TorchvisionMobileNet(nn.Module):
    """The structure of torchvision's MobileNetV2 at some width."""

    def __init__(self, stem: int, groups: list[tuple[int, int, int]], head: int):
        super().__init__()
        layers, C = [unit(3, stem, 3, 2)], stem
        for features, repeats, stride in groups:
            for j in range(repeats):
                expansion = 1 if len(layers) == 1 else 6
                layers.append(Residual(C, features, stride if j == 0 else 1, expansion))
                C = features
        self.features = nn.Sequential(*layers, unit(C, head, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, 5))


def torchvision_like(seed: int) -> TorchvisionMobileNet:
    groups = [(3, 1, 1), (4, 2, 2), (5, 3, 2), (6, 4, 2), (7, 3, 1), (8, 3, 2), (9, 1, 1)]
    return randomize_all(TorchvisionMobileNet(stem=5, groups=groups, head=11), seed)


def tensors_of(module: nn.Module) -> dict[str, LazyTensor]:
    return {key: from_array(tensor.detach().numpy()) for key, tensor in module.state_dict().items()}


def test_agrees_with_the_structure_of_torchvision():
    theirs = torchvision_like(seed=3)
    leaves = mobilenet_weights.torchvision(detection=False).to_ours(tensors_of(theirs), "random weights")
    config = mobilenet_weights.config(leaves, MobileNetConfig.torchvision())
    assert config == MobileNetConfig.torchvision(stem=5, widths=(3, 4, 5, 6, 7, 8, 9), head=11)
    images, expected = pictures(4, 2, 50, 33), []
    with torch.no_grad():
        x = for_torch(images)
        for layer in theirs.features:
            x = layer(x)
            expected.append(x)
    maps, last, pooled = run(config, folder.to_params(leaves), images)
    for found, block in zip(maps, TAPS, strict=True):
        np.testing.assert_allclose(found, channels_last(expected[block + 2]), **FEATURES)
    np.testing.assert_allclose(last, channels_last(expected[-1]), **FEATURES)
    np.testing.assert_allclose(pooled, expected[-1].mean((2, 3)), **FEATURES)


@pytest.mark.parametrize("detection", [False, True], ids=["alone", "detection"])
@pytest.mark.parametrize("source", ["golden", "classifier", "torchvision"])
def test_every_layout_goes_out_as_it_came_in(golden, source, detection, tmp_path):
    if source == "golden":
        table = mobilenet_weights.transformers(detection=detection)
        tensors = open_weights(golden / "gella" / "mobilenet_v2")
    elif source == "classifier":
        table = mobilenet_weights.transformers("mobilenet_v2.", detection=detection)
        config = transformers.MobileNetV2Config(depth_multiplier=0.25, num_labels=3)
        MobileNetV2ForImageClassification(config).save_pretrained(tmp_path)
        tensors = open_weights(tmp_path)
    else:
        table, tensors = mobilenet_weights.torchvision(detection=detection), tensors_of(torchvision_like(seed=5))
    leaves = table.to_ours(tensors, source)
    back = table.to_torch(leaves, source)
    assert back.keys() == {key for key in tensors if not table.is_ignored(key)}
    assert len(back) == len(leaves) == 260 - 5 * detection
    for key, tensor in back.items():
        np.testing.assert_array_equal(tensor.read(), tensors[key].read(), err_msg=key, strict=True)


def test_published_size():
    """The names and sizes of transformers', the number of parameters of torchvision's without its classifier."""
    with torch.device("meta"):
        theirs = MobileNetV2Model(transformers.MobileNetV2Config()).state_dict()
    config = MobileNetConfig.tensorflow()
    shapes = jax.eval_shape(lambda: mobilenet.init(config, jax.random.key(0), detection=False))
    flat = traverse_util.flatten_dict(shapes, sep="/")
    leaves = {
        path: LazyTensor(leaf.shape, np.dtype(np.float32), lambda shape=leaf.shape: np.broadcast_to(0.0, shape))
        for path, leaf in flat.items()
    }
    assert mobilenet_weights.config(leaves, config) == config
    found = mobilenet_weights.transformers(detection=False).to_torch(leaves, "ours")
    expected = {key: tuple(x.shape) for key, x in theirs.items() if not key.endswith("num_batches_tracked")}
    assert {key: tensor.shape for key, tensor in found.items()} == expected
    learned = sum(math.prod(x.shape) for path, x in flat.items() if not path.endswith(("mean", "var")))
    assert learned == 3_504_872 - 1000 * 1281
    images = jax.ShapeDtypeStruct((2, 800, 700, 3), jnp.bfloat16)
    maps = jax.eval_shape(lambda p, x: mobilenet.pyramid(config, p, x), shapes, images)
    assert [x.shape for x in maps] == [(2, 200, 175, 24), (2, 100, 88, 32), (2, 50, 44, 96), (2, 25, 22, 320)]
    assert {x.dtype for x in maps} == {images.dtype}


def test_running_statistics_get_no_gradient():
    norm = mobilenet.FrozenBatchNorm(1e-5)
    params = {"scale": np.ones(2), "bias": np.zeros(2), "mean": np.full(2, 0.5), "var": np.full(2, 2.0)}
    x = pictures(6, 4)[:, :2]
    gradient = jax.grad(lambda p: (norm.apply({"params": p}, x) ** 2).sum())(params)
    assert not gradient["mean"].any() and not gradient["var"].any()
    assert gradient["scale"].all() and gradient["bias"].all()
