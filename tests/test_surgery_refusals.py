"""Networks that move, mix or count their channels: what `surgery` makes of them is right, or refused with the reason."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from course_lib import surgery
from course_lib.data import Split
from course_lib.papers import channel_pruning, filter_pruning, network_trimming, thinet
from course_lib.surgery import dead_neurons, readers
from course_lib.surgery.inputs import kept_inputs
from course_lib.surgery.silent_neurons import remove_silent_neurons

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """A convolution of 8 channels, an operation on them, and a layer that reads what it gives."""

    def __init__(self, operation, out: nn.Module, first: nn.Module | None = None):
        super().__init__()
        self.first, self.operation, self.out = first or nn.Conv2d(3, 8, 3), operation, out

    def forward(self, x):
        return self.out(self.operation(self.first(x).relu()))


def without(model: nn.Module, layer: str, gone: list[int], example=IMAGES) -> nn.Module:
    channels = len(model.get_submodule(layer).weight)
    return surgery.keep_channels(model, layer, [c for c in range(channels) if c not in gone], example)


def zeroed(model: nn.Module, rows: dict[str, list[int]]) -> nn.Module:
    model = copy.deepcopy(model)
    for name, channels in rows.items():
        module = model.get_submodule(name)
        for tensor in (module.weight, module.bias):
            if tensor is not None:
                tensor.data[channels] = 0
    return model


def same(model: nn.Module, other: nn.Module, example=IMAGES) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model(example), other(example), atol=1e-9, rtol=1e-7)


RIGHT = {
    "channels first": (lambda x: x.flatten(1), 288),
    "channels last": (lambda x: x.permute(0, 2, 3, 1).flatten(1), 288),
    "channels last, reshape": (lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1), 288),
    "channels last, view": (lambda x: x.movedim(1, -1).contiguous().view(len(x), -1), 288),
    "channels in the middle": (lambda x: x.transpose(1, 2).flatten(1), 288),
    "transposed, negative axes": (lambda x: x.transpose(-1, -3).flatten(1), 288),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2).flatten(1), 288),
    "pooled, channels last": (lambda x: F.max_pool2d(x, 2).permute(0, 3, 2, 1).flatten(1), 72),
    "sigmoid": (lambda x: x.mean((2, 3)).sub(1).relu(), 8),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_flatten_in_any_order_of_axes_is_right(case):
    torch.manual_seed(0)
    operation, columns = RIGHT[case]
    model = Between(operation, nn.Linear(columns, 5)).double().eval()
    same(without(model, "first", [1, 6]), zeroed(model, dict(first=[1, 6])))
    tied = surgery.coupling(model, "first", IMAGES)
    marked = copy.deepcopy(model)  # an independent account of the columns: which inputs change when channel 3 does
    seen = []
    marked.out.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach().clone()))
    model.out.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach().clone()))
    marked.first.bias.data[3] += 10
    marked(IMAGES), model(IMAGES)
    changed = (seen[0] != seen[1]).any(0).nonzero().flatten()
    assert torch.equal(tied.consumers["out"][3].sort().values, changed)


def test_tokens_of_a_dense_layer_are_flattened_right():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 8, 4)).double()
    tokens = torch.randn(3, 5, 6, dtype=torch.float64)
    same(without(model, "0", [0, 5], tokens), zeroed(model, {"0": [0, 5]}), tokens)
    assert surgery.coupling(model, "0", tokens).consumers["3"][1].tolist() == [1, 9, 17, 25, 33]


class Joined(nn.Module):
    """Two convolutions, their channels joined by an operation, and a dense layer."""

    def __init__(self, operation, columns: int):
        super().__init__()
        self.a, self.b, self.operation, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3), operation, nn.Linear(columns, 4)

    def forward(self, x):
        return self.out(self.operation(self.a(x), self.b(x), x))


@pytest.mark.parametrize(
    ("operation", "columns"),
    [
        (lambda a, b, _x: torch.cat([a, b], 1).flatten(1), 9 * 36),
        (lambda a, b, _x: torch.cat([a.flatten(1), b.flatten(1)], 1), 9 * 36),
        (lambda a, b, _x: torch.cat([a, b], 1).permute(0, 2, 3, 1).flatten(1), 9 * 36),
        (lambda a, b, x: torch.cat([b, x[:, :, 1:-1, 1:-1], a, a], 1).relu().flatten(1), 16 * 36),
        (lambda a, b, _x: torch.cat([a, b], 1).split([4, 5], 1)[1].mean((2, 3)) + a.sum(), 5),
    ],
    ids=["cat, flatten", "flatten, cat", "cat, channels last", "with the input, and twice", "cat, split"],
)
@pytest.mark.parametrize("layer", ["a", "b"])
def test_concatenated_channels_are_right_or_refused(operation, columns, layer):
    torch.manual_seed(0)
    model = Joined(operation, columns).double().eval()
    if "split" in operation.__code__.co_names:  # its sizes are in the code
        with pytest.raises(ValueError, match=f"'{layer}'.*chunk or split"):
            without(model, layer, [0, 2])
    else:
        same(without(model, layer, [0, 2]), zeroed(model, {layer: [0, 2]}))


def test_an_unflatten_takes_whole_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Unflatten(1, (-1, 4, 4)), nn.Conv2d(4, 3, 1)).double()
    same(without(model, "1", [*range(16, 32)]), zeroed(model, {"1": [*range(16, 32)]}))
    with pytest.raises(ValueError, match=r"'1' cannot lose channels \[16\] alone.*view or reshape"):
        without(model, "1", [16])


def halves(x):
    a, b = x.chunk(2, 1)
    return (a * b.sigmoid()).flatten(1)


REFUSED = {  # operation, columns of the dense layer, channels to remove, what the message must name
    "chunk gate": (halves, 4 * 36, [1, 6], "chunk or split"),
    "GLU": (lambda x: F.glu(x, 1).flatten(1), 4 * 36, [1, 6], "GLU"),
    "PixelShuffle": (lambda x: F.pixel_shuffle(x, 2).flatten(1), 8 * 36, [0, 2, 4, 6], "PixelShuffle"),
    "every second channel": (lambda x: x[:, ::2].flatten(1), 4 * 36, [0, 2], "a slice"),
    "the first channels": (lambda x: x[:, :4].flatten(1), 4 * 36, [1], "a slice"),
    "the last channels": (lambda x: x[:, 4:].flatten(1), 4 * 36, [1], "a slice"),
    "roll": (lambda x: x.roll(1, 1).flatten(1), 8 * 36, [0, 3], "roll"),
    "flip": (lambda x: x.flip(1).flatten(1), 8 * 36, [0, 3], "flip"),
    "half of a chunk": (lambda x: x.chunk(2, 1)[0].flatten(1), 4 * 36, [1], "chunk or split"),
    "other half of a chunk": (lambda x: x.chunk(2, 1)[1].flatten(1), 4 * 36, [1], "chunk or split"),
    "permuted by a list": (lambda x: x[:, [3, 1, 2, 0, 7, 6, 5, 4]].flatten(1), 8 * 36, [0], "indexing"),
    "shuffle": (lambda x: x.view(-1, 2, 4, 6, 6).transpose(1, 2).flatten(1, 2).mean((2, 3)), 8, [0, 1], "transpose"),
    "softmax": (lambda x: x.softmax(1).flatten(1), 8 * 36, [0], "softmax"),
    "divided by a mean": (lambda x: (x / (1 + x.mean(1, keepdim=True))).flatten(1), 8 * 36, [0], "a mean"),
    "einsum": (lambda x: torch.einsum("nchw,ndhw->ncd", x, x).flatten(1), 64, [0], "a matrix product or einsum"),
    "local response norm": (lambda x: F.local_response_norm(x, 3, alpha=1).flatten(1), 8 * 36, [3], "."),
    "functional layer norm": (lambda x: F.layer_norm(x, x.shape[1:]).flatten(1), 8 * 36, [0], "layer_norm"),
    "a width in the code": (lambda x: x.reshape(-1, 8 * 36), 8 * 36, [0], "width written into it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_moves_or_mixes_channels_is_refused_by_name(case):
    torch.manual_seed(0)
    operation, columns, gone, words = REFUSED[case]
    model = Between(operation, nn.Linear(columns, 5)).double().eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"(?s)'first'.*{words}"):
        without(model, "first", gone)
    assert surgery.prunable_layers(model, IMAGES) == []
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_both_halves_of_a_gate_can_go_together():
    torch.manual_seed(0)
    model = Between(halves, nn.Linear(4 * 36, 5)).double().eval()
    same(without(model, "first", [1, 5]), zeroed(model, dict(first=[1, 5])))
    with pytest.raises(ValueError, match=r"'first' cannot lose channels \[1, 6\] alone: by chunk or split.*joined with \[2, 5\]"):
        without(model, "first", [1, 6])


def test_weights_of_zero_hide_nothing():
    """The flipped path ends in a gain of zero, as many residual branches start: on these weights every removal is right."""
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(
        conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8),
        between=Between(lambda x: x.flip(1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1)),
        last=nn.BatchNorm2d(4),
    )).double().eval()  # fmt: skip
    nn.init.zeros_(model.last.weight)
    nn.init.zeros_(model.between.out.weight)
    with pytest.raises(ValueError, match=r"'between\.first'.*flip"):
        without(model, "between.first", [0])
    same(without(model, "conv", [0]), zeroed(model, dict(conv=[0], norm=[0])))


class ChannelsLast(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("norm", [lambda: ChannelsLast(8), lambda: nn.GroupNorm(2, 8), lambda: nn.GroupNorm(2, 8, affine=False)])
def test_the_wiring_of_norms_over_channels_is_checked_all_the_same(norm):
    straight = nn.Sequential(OrderedDict(first=nn.Conv2d(3, 8, 3), norm=norm(), out=nn.Conv2d(8, 4, 1))).double()
    assert len(without(straight, "first", [0, 5]).first.weight) == 6
    flipped = Between(lambda x: x.flip(1), nn.Sequential(norm(), nn.Conv2d(8, 4, 1))).double()
    with pytest.raises(ValueError, match="'first'.*flip"):
        without(flipped, "first", [0, 5])


class OptionA(nn.Module):
    """The shortcut of CIFAR's residual networks that pads channels with zeros."""

    def __init__(self, padding: int):
        super().__init__()
        self.padding = padding

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding), "constant", 0)


class Lambda(nn.Module):
    """As in the code for CIFAR that is passed around: the function is given."""

    def __init__(self, function):
        super().__init__()
        self.lambd = function

    def forward(self, x):
        return self.lambd(x)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, shortcut: nn.Module):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1 + (inputs != outputs), 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


def padded_resnet(written_as: str) -> nn.Module:
    """Three stages of 4, 8 and 16 channels, two blocks each."""
    torch.manual_seed(0)

    def shortcut(inputs: int, outputs: int) -> nn.Module:
        if inputs == outputs:
            return nn.Sequential()
        p = inputs // 2
        return (
            OptionA(p) if written_as == "class" else Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, p, p), "constant", 0))
        )

    blocks = [Block(i, o, shortcut(i, o)) for i, o in ((4, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))]
    layers = OrderedDict(conv1=nn.Conv2d(3, 4, 3, 1, 1, bias=False), bn1=nn.BatchNorm2d(4), relu=nn.ReLU())
    layers |= {f"block{number}": block for number, block in enumerate(blocks, start=1)}
    model = nn.Sequential(layers | OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(16, 5)))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias), nn.init.normal_(module.running_mean)
    return model.double().eval()


STAGES = [["conv1:bn1", *(f"block{b}.conv2:block{b}.bn2" for b in (1, 2))]]
STAGES += [[f"block{b}.conv2:block{b}.bn2" for b in pair] for pair in ((3, 4), (5, 6))]


@pytest.mark.parametrize("written_as", ["class", "lambda"])
@pytest.mark.parametrize(("stage", "channel"), [(stage, channel) for stage in range(3) for channel in range(4)])
def test_an_option_a_shortcut_ties_channel_c_to_channel_c_plus_p(written_as, stage, channel):
    """By hand: channel c of the first stage is c + 2 of the second and c + 6 of the third."""
    model = padded_resnet(written_as)
    offsets = (0, 2, 6)
    rows = {
        name: [channel + offset]
        for offset, pairs in zip(offsets, STAGES, strict=True)
        for pair in pairs
        for name in pair.split(":")
    }
    layer = STAGES[stage][-1].split(":")[0]
    narrower = without(model, layer, [channel + offsets[stage]])
    same(narrower, zeroed(model, rows))
    assert [len(narrower.get_submodule(pairs[0].split(":")[0]).weight) for pairs in STAGES] == [3, 7, 15]


@pytest.mark.parametrize("layer", [f"block{number}.conv1" for number in range(1, 7)])
def test_layers_inside_the_blocks_of_option_a_are_free(layer):
    model = padded_resnet("class")
    same(without(model, layer, [0, 3]), zeroed(model, {layer: [0, 3], layer.replace("conv", "bn"): [0, 3]}))


def test_channels_that_option_a_pads_stay():
    model = padded_resnet("class")
    with pytest.raises(ValueError, match=r"channels \[0, 7\] of layer 'block4\.conv2'.*pad.*keep them"):
        without(model, "block4.conv2", [0, 3, 7])
    assert surgery.coupling(model, "block4.conv2", IMAGES).fixed == (0, 1, 6, 7)
    firsts = [f"block{number}.conv1" for number in range(1, 7)]
    assert surgery.prunable_layers(model, IMAGES) == ["conv1", *firsts]  # conv1 stands for all of its stage's sums


def test_several_stages_of_option_a_are_cut_at_once():
    model = padded_resnet("lambda")
    kept = {"conv1": [0, 3], "block3.conv1": range(5), "block6.conv1": range(1, 16)}
    rows = {
        name: [c + o for c in (1, 2)] for o, pairs in zip((0, 2, 6), STAGES, strict=True) for p in pairs for name in p.split(":")
    }
    rows |= {"block3.conv1": [5, 6, 7], "block3.bn1": [5, 6, 7], "block6.conv1": [0], "block6.bn1": [0]}
    same(surgery.narrow(model, kept, IMAGES), zeroed(model, rows))
    with pytest.raises(ValueError, match="'conv1' and 'block4.conv2' make the same channels"):
        surgery.narrow(model, {"conv1": [0, 1], "block4.conv2": range(7)}, IMAGES)


def small(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    side = 75 if name == "inception_v3" else 64 if name == "googlenet" else 32
    settings = (
        dict(image_size=32)
        if name == "vit_b_16"
        else dict(init_weights=False)
        if "ception" in name or name == "googlenet"
        else {}
    )
    return torchvision.models.get_model(name, weights=None, num_classes=10, **settings).eval(), torch.randn(1, 3, side, side)


# Layers by the words of their refusal; "" stands for one that is narrowed
TORCHVISION = {
    "shufflenet_v2_x0_5": {
        "conv1.0": "", "conv5.0": "",
        "stage2.0.branch1.2": "chunk|split|view", "stage2.0.branch2.0": "", "fc": "output",
    },
    "swin_t": {"features.1.0.mlp.0": "", "features.1.0.attn.qkv": "not traced layer by layer", "features.4.reduction": "cannot"},
    "regnet_y_400mf": {"stem.0": "", "trunk_output.block1.block1-0.f.a.0": "groups"},
    "mobilenet_v2": {"features.0.0": "", "features.3.conv.0.0": "", "classifier.1": "output"},
    "vit_b_16": {
        "encoder.layers.encoder_layer_0.mlp.0": "",
        "encoder.layers.encoder_layer_0.self_attention.out_proj": "MultiheadAttention.*not traced layer by layer",
        "encoder.layers.encoder_layer_0.mlp.3": "cannot",
    },
    "googlenet": {"conv1.conv": "", "inception4a.branch2.0.conv": "", "fc": "output"},
    "efficientnet_b0": {"features.0.0": "", "features.2.0.block.2.fc1": ""},
    "convnext_tiny": {"features.1.0.block.3": "", "features.0.0": ""},
}  # fmt: skip


@pytest.mark.parametrize("name", ["regnet_y_400mf", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_every_prunable_layer_is_narrowed_and_all_at_once(name):
    model, example = small(name)
    layers = surgery.prunable_layers(model, example)
    kept = {layer: range(len(model.get_submodule(layer).weight) // 2) for layer in layers}
    narrower = surgery.narrow(model, kept, example)
    assert all(len(narrower.get_submodule(layer).weight) == len(keep) for layer, keep in kept.items())
    assert len(layers) == {"regnet_y_400mf": 21, "mobilenet_v2": 25, "shufflenet_v2_x0_5": 18}[name]


@pytest.mark.parametrize("name", ["regnet_y_400mf", "mobilenet_v2"])
def test_the_layers_that_papers_list_are_narrowed(name):
    model, example = small(name)
    for layers in (filter_pruning.prunable_layers(model, example), list(network_trimming.apoz(model, images(example)))):
        assert layers
        surgery.narrow(model, {layer: range(1, len(model.get_submodule(layer).weight)) for layer in layers}, example)
    assert set(readers.layers_with_one_reader(model, example)) <= set(surgery.prunable_layers(model, example))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "vit_b_16" else name for name in TORCHVISION]
)
def test_torchvisions_networks_are_narrowed_or_refused_by_name(name):
    model, example = small(name)
    for layer, words in TORCHVISION[name].items():
        channels = len(model.get_submodule(layer).weight)
        if words:
            with pytest.raises(ValueError, match=f"(?s)'{layer}'.*({words})"):
                surgery.keep_channels(model, layer, range(1, channels), example)
        else:
            assert (
                len(surgery.keep_channels(model, layer, range(1, channels), example).get_submodule(layer).weight) == channels - 1
            )


# The papers


def images(example: torch.Tensor) -> Split:
    return Split(example, torch.zeros(len(example), dtype=torch.int64))


def with_dead_channels(make) -> nn.Module:
    """The model, with channels 2 and 6 of a layer dead, up to the next layer: they read nothing, and their bias is negative."""
    model = make().double().eval()
    first = next(module for module in model.modules() if isinstance(module, surgery.CUTTABLE))
    if first.bias is None:  # then a batch norm has the bias
        first, norm = model.block3.conv1, model.block3.bn1
        norm.weight.data[[2, 5]], norm.bias.data[[2, 6]] = 0, -1
    else:
        first.bias.data[[2, 6]] = -1
    first.weight.data[[2, 6]] = 0
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data[[2, 6]], module.bias.data[[2, 6]] = 0, 0
    return model


class OnTokens(nn.Module):
    """Dense layers on tokens (N, T, C)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.out(self.second(self.first(x).relu()).relu().mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.lstm, self.out = nn.Linear(6, 8), nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        return self.out(self.lstm(self.first(x).relu())[0][:, -1])


TOKENS = torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DEAD = {
    "option A": (lambda: padded_resnet("class"), IMAGES),
    "PixelShuffle": (lambda: Between(REFUSED["PixelShuffle"][0], nn.Linear(288, 5)), IMAGES),
    "flip": (lambda: Between(REFUSED["flip"][0], nn.Linear(288, 5)), IMAGES),
    "channels last": (lambda: Between(RIGHT["channels last"][0], nn.Linear(288, 5)), IMAGES),
    "tokens": (OnTokens, TOKENS),
    "LSTM": (Recurrent, TOKENS),
    "layer norm": (lambda: Between(lambda x: x, nn.Sequential(ChannelsLast(8), nn.Conv2d(8, 4, 1))), IMAGES),
}


@pytest.mark.parametrize("case", DEAD)
@pytest.mark.parametrize("paper", ["weight pruning", "network trimming"])
def test_dead_neurons_go_without_a_trace_or_stay(case, paper):
    torch.manual_seed(0)
    make, example = DEAD[case]
    model = with_dead_channels(make)
    before = copy.deepcopy(model.state_dict())
    if paper == "weight pruning":
        smaller = dead_neurons.remove_dead_neurons(model, example)
    else:
        smaller = remove_silent_neurons(model, images(example))
    same(smaller, model, example)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    gone = {"channels last": "first", "tokens": "first", "option A": "block3.conv1"}
    if case in gone:
        assert len(smaller.get_submodule(gone[case]).weight) <= len(model.get_submodule(gone[case]).weight) - 2


def test_silent_neurons_that_cannot_be_removed_are_refused_by_name():
    torch.manual_seed(0)
    for case, words in {"flip": "'first'.*flip", "layer norm": "'first'.*statistics"}.items():
        model = with_dead_channels(DEAD[case][0])
        with pytest.raises(ValueError, match=words):
            remove_silent_neurons(model, images(IMAGES), layers=["first"])


def test_channel_selection_reads_the_right_columns_after_a_channels_last_flatten():
    """Two channels of eight are never used by the dense layer: LASSO and ThiNet leave the network's outputs as they are."""
    torch.manual_seed(0)
    example = torch.randn(250, 3, 8, 8, dtype=torch.float64)
    for operation in (RIGHT["channels first"][0], RIGHT["channels last"][0]):
        model = Between(operation, nn.Linear(288, 5)).double().eval()
        columns = surgery.coupling(model, "first", IMAGES).consumers["out"]
        model.out.weight.data[:, columns[[2, 5]]] = 0
        pruned = channel_pruning.prune(model, Split(example, torch.zeros(250)), dict(first=6))
        assert kept_inputs(pruned.model)["out"] == [0, 1, 3, 4, 6, 7]
        assert pruned.record[0]["explained"] == pytest.approx(1, abs=1e-3)
        same(pruned.model, model, example)
        same(thinet.prune_layer(model, "first", 6, example), model, example)


def test_dense_layers_on_tokens_are_refused_by_name():
    model = OnTokens().double()
    with pytest.raises(ValueError, match=r"'second'.*\(3, 5, 8\)"):
        thinet.prune_layer(model, "first", 4, TOKENS)
    with pytest.raises(ValueError, match=r"'second'.*\(3, 5, 8\)"):
        channel_pruning.prune(model, Split(TOKENS, torch.zeros(len(TOKENS))), dict(first=4))
    assert "first" not in channel_pruning.prunable_layers(model, TOKENS)


@pytest.mark.parametrize("prune", [thinet.prune_layer, surgery.keep_channels])
def test_an_encoder_layer_is_refused_by_name_or_right(prune):
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), nn.Linear(6, 4)).double()
    for layer in ("0.linear1", "0.linear2", "0.self_attn.out_proj"):
        if prune is surgery.keep_channels and layer == "0.linear1":
            narrower = without(model, layer, [1, 7], TOKENS)
            same(narrower.eval(), zeroed(model, {layer: [1, 7]}).eval(), TOKENS)
            continue
        with pytest.raises(ValueError, match=f"'{layer}'|'0.linear2'"):
            prune(model, layer, 4 if prune is thinet.prune_layer else [0, 2], TOKENS)


def test_a_network_that_cannot_be_traced_is_named():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)

        def forward(self, x):
            return self.first(x).detach().numpy().sum()

    for call in (surgery.couplings, surgery.prunable_layers, dead_neurons.remove_dead_neurons):
        with pytest.raises(ValueError, match="a Detached, cannot be traced.*\\(3, 5, 6\\)"):
            call(Detached(), TOKENS.float())
