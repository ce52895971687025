"""Weight selection: a plain loop as oracle, and functions that theory says are kept."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import headstart as hs
from headstart.bench.models.builders import resolve_model
from headstart.conformance.runs import run
from headstart.conformance.state import Snapshot, same_bits
from headstart.methods.weight_selection import block_names, pick


def make(factory, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return factory()


def images(size=8, n=4):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A stem, a block with a depthwise layer and a shortcut, a flattened head of two layers."""

    def __init__(self, width, hidden=10):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.wide = nn.Conv2d(width, 2 * width, 1, bias=False)
        self.depth = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.back = nn.Conv2d(2 * width, width, 1)
        self.hidden = nn.Linear(width * 16, hidden)
        self.head = nn.Linear(hidden, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.back(F.relu(self.depth(F.relu(self.wide(x)))))
        return self.head(F.relu(self.hidden(F.max_pool2d(x, 2).flatten(1))))


class Dense(nn.Module):
    """Concatenations, pre-activation norms over them."""

    def __init__(self, width, growth):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, growth, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(width + growth), nn.Conv2d(width + growth, growth, 3, padding=1)
        self.head = nn.Linear(width + 2 * growth, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x)))], 1)
        return self.head(x.mean((2, 3)))


def trained(model, size=8):
    """Norms that saw data and whose channels differ."""
    model.train()
    for _ in range(3):
        model(images(size, 8))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model.eval()


def duplicated(student, k, positions):
    """A teacher whose every channel stands ``k`` times in a row, with inputs shared among the copies.

    ``positions`` tells for the layers with flattened inputs how many positions a channel has.
    """
    state = {}
    for name, value in student.state_dict().items():
        owner = name.rsplit(".", 1)[0]
        module = student.get_submodule(owner)
        if value.dim() == 0:
            state[name] = value
            continue
        last = owner == "head"
        out = value if last else value.repeat_interleave(k, 0)
        if value.dim() > 1 and owner != "stem" and getattr(module, "groups", 1) == 1:
            p = positions.get(owner, 1)
            rest = out.shape[2:]
            blocks = out.unflatten(1, (-1, p)).repeat_interleave(k, 1)
            out = blocks.reshape(len(out), -1, *rest) / k
        state[name] = out
    return state


@pytest.mark.parametrize(("k", "data"), [(2, True), (3, True), (3, False)])
def test_a_duplicated_teacher_gives_back_the_function(k, data):
    source, student = trained(make(lambda: Residual(4))), make(lambda: Residual(4), 1)
    teacher = make(lambda: Residual(4 * k, 10 * k))
    teacher.load_state_dict(duplicated(source, k, {"hidden": 16}))
    x = images()
    assert torch.allclose(teacher.eval()(x), source(x), atol=1e-5)  # the teacher is what it should be
    method = hs.WeightSelection(teacher, scale="fan-in", head="select")
    report = run(method, student, x if data else None)
    assert torch.allclose(student.eval()(x), source(x), atol=1e-5)
    assert set(report.changed) == {"stem", "wide", "depth", "back", "hidden", "head"}
    assert "norm.running_mean" in report.others


def test_a_duplicated_dense_teacher_gives_back_the_function():
    source, student = trained(make(lambda: Dense(6, 4))), make(lambda: Dense(6, 4), 1)
    teacher = make(lambda: Dense(18, 12))
    teacher.load_state_dict(duplicated(source, 3, {}))
    x = images()
    assert torch.allclose(teacher.eval()(x), source(x), atol=1e-5)
    run(hs.WeightSelection(teacher, scale="fan-in", head="select"), student, x)
    assert torch.allclose(student.eval()(x), source(x), atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "size"),
    [
        (lambda: Residual(4), 8),
        (lambda: Dense(6, 4), 8),
        (lambda: resolve_model("headstart:cifar-resnet20")(3, 10, (16, 16)), 16),
        pytest.param(lambda: resolve_model("headstart:mobilenet-v2")(3, 10, (32, 32)), 32, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("data", [True, False])
def test_a_teacher_of_the_same_size_is_copied(factory, size, data):
    teacher, student = make(factory), make(factory, 1)
    trained(teacher, size)
    run(hs.WeightSelection(teacher, head="select"), student, images(size) if data else None)
    for key, value in teacher.state_dict().items():
        assert same_bits(value, student.state_dict()[key]), key


def places(t, s):
    """As published, in plain words."""
    return [i * (t // s) for i in range(s)] if t % s == 0 else [round(i * (t - 1) / (s - 1)) for i in range(s)]


def naive(value, shape):
    for axis, size in enumerate(shape):
        value = value.transpose(0, axis)
        value = torch.stack([value[i] for i in places(len(value), size)]).transpose(0, axis)
    return value


@pytest.mark.parametrize(("large", "small"), [(12, 4), (12, 6), (11, 4), (9, 7)])
def test_chains_are_selected_as_published(large, small):
    def chain(width):
        convolutions = nn.Conv2d(3, width, 5), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3)
        return nn.Sequential(*convolutions, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))

    teacher, student = make(lambda: chain(large)), make(lambda: chain(small), 1)
    teacher = trained(teacher, 9)
    head = copy.deepcopy(student[7])
    for data in (None, images(9)):
        report = run(hs.WeightSelection(teacher), student, data)
        assert report.row("7").notes == ["the head keeps its start"]
        assert same_bits(head.weight, student[7].weight)
        for key, value in student.state_dict().items():
            if value.dim() and not key.startswith("7."):
                assert torch.equal(value, naive(teacher.state_dict()[key], value.shape)), key
        assert report.row("3").notes == [f"from '3.weight' ({large}, {large}, 3, 3)"]


def test_kernels_are_selected_along_their_axes():
    teacher, student = nn.Conv2d(3, 8, 7), nn.Conv2d(3, 4, 3)
    run(hs.WeightSelection(teacher, head="select"), student, None)
    assert torch.equal(student.weight, teacher.weight[::2][:, :, [0, 3, 6]][:, :, :, [0, 3, 6]])


def test_parts_of_a_concatenation_keep_their_channels():
    teacher, student = trained(make(lambda: Dense(9, 5))), make(lambda: Dense(4, 3), 1)
    run(hs.WeightSelection(teacher), student, images())
    stem, growth = places(9, 4), places(5, 3)
    into = [*stem, *(9 + i for i in growth)]
    assert torch.equal(student.conv2.weight, teacher.conv2.weight[growth][:, into])
    assert torch.equal(student.norm2.running_mean, teacher.norm2.running_mean[into])
    # Sizes alone do not tell the parts of 14 channels from each other.
    blind = make(lambda: Dense(4, 3), 1)
    report = run(hs.WeightSelection(teacher), blind, None)
    assert report.changed == ["stem", "conv1"]
    assert "not outputs of a layer" in report.row("conv2").notes[0]


def test_flattened_inputs_are_blocks():
    teacher, student = make(lambda: Residual(9)), make(lambda: Residual(4), 1)
    for data in (None, images()):
        run(hs.WeightSelection(teacher), student, data)
        into = [16 * i + p for i in places(9, 4) for p in range(16)]
        assert torch.equal(student.hidden.weight, teacher.hidden.weight[:, into])
        assert torch.equal(student.depth.weight, teacher.depth.weight[places(18, 8)])


def test_shortcuts_that_pad_stay_consistent():
    class Padded(nn.Module):
        """A stream of two stages, the second twice as wide: the first's channels and as many zeros (option A)."""

        def __init__(self, width):
            super().__init__()
            self.stem, self.wide = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
            self.last, self.head = nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.Linear(2 * width, 5)

        def forward(self, x):
            x = F.relu(self.stem(x))
            x = F.relu(self.wide(x) + F.pad(x, (0, 0, 0, 0, 0, x.shape[1])))
            return self.head(F.relu(x + self.last(x)).mean((2, 3)))

    source, student = make(lambda: Padded(4)), make(lambda: Padded(4), 1)
    teacher = make(lambda: Padded(12))
    teacher.load_state_dict(duplicated(source, 3, {}))
    x = images()
    assert torch.allclose(teacher(x), source(x), atol=1e-5)
    run(hs.WeightSelection(teacher, scale="fan-in", head="select"), student, x)
    assert torch.allclose(student(x), source(x), atol=1e-5)


class Grouped(nn.Module):
    def __init__(self, width, groups):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.mix = nn.Conv2d(width, width, 1, groups=groups)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(F.relu(self.mix(F.relu(self.stem(x)))).mean((2, 3)))


def test_grouped_layers_are_selected_where_groups_stay_whole():
    teacher, student = make(lambda: Grouped(24, 2)), make(lambda: Grouped(8, 2), 1)
    run(hs.WeightSelection(teacher), student, images())
    view = torch.block_diag(*teacher.mix.weight.flatten(1).unflatten(0, (2, -1)))[::3, ::3]
    mine = torch.block_diag(*student.mix.weight.flatten(1).unflatten(0, (2, -1)))
    assert torch.equal(mine, view)
    for other in (Grouped(24, 6), Grouped(12, 2)):  # other groups, and sizes that do not divide
        first = copy.deepcopy(student)
        report = run(hs.WeightSelection(other), first, images())
        assert report.changed == ["stem"]
        assert "its groups would not fit" in report.row("mix").notes[0]
        assert same_bits(first.mix.weight, student.mix.weight)


def test_transposed_layers_are_selected_along_their_own_axes():
    def net(width):
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.ConvTranspose2d(width, width, 2), nn.Flatten(2))

    teacher, student = make(lambda: net(12)), make(lambda: net(4), 1)
    run(hs.WeightSelection(teacher, head="select"), student, images())
    assert torch.equal(student[2].weight, teacher[2].weight[::3, ::3])
    assert torch.equal(student[2].bias, teacher[2].bias[::3])


def test_a_smaller_teacher_is_refused():
    student = make(lambda: Residual(8))
    before = Snapshot(student)
    with pytest.raises(hs.HeadstartError, match=r"smaller than layer 'stem' .*its weight is \(4, 3, 3, 3\)") as caught:
        hs.initialize(student, method=hs.WeightSelection(make(lambda: Residual(4))))
    assert "exclude='stem'" in caught.value.remedy
    before.require_kept()


def test_blocks_first_and_spaced():
    class Blocks(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.stem = nn.Linear(6, 6)
            self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(n)))
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.blocks(self.stem(x)))

    teacher, student = make(lambda: Blocks(6)), make(lambda: Blocks(3), 1)
    run(hs.WeightSelection(teacher), student, None)
    for i in range(3):
        assert torch.equal(student.blocks[i][0].weight, teacher.blocks[i][0].weight)
    report = run(hs.WeightSelection(teacher, blocks="spaced"), student, torch.randn(8, 6))
    for i, j in enumerate([0, 2, 5]):
        assert torch.equal(student.blocks[i][0].weight, teacher.blocks[j][0].weight)
    assert report.row("blocks.2.0").notes == ["from 'blocks.5.0.weight' (6, 6)"]


def test_numbered_layers_of_a_plain_sequence_are_no_blocks():
    names = block_names(["0.weight", "2.weight"], ["0.weight", "2.weight", "4.weight"])
    assert names == {"0.weight": "0.weight", "2.weight": "2.weight"}


def test_channels_that_are_lost_are_told():
    class Sneaky(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3)

        def forward(self, x):
            return self.head(F.relu(self.b(F.relu(self.a(x))))) + self.b.weight[0, 0]

    teacher, student = make(lambda: Sneaky(12)), make(lambda: Sneaky(4), 1)
    report = run(hs.WeightSelection(teacher), student, torch.randn(8, 4))
    assert "matched by their sizes" in report.findings[0]
    assert torch.equal(student.b.weight, teacher.b.weight[::3, ::3])


class Text(nn.Module):
    """A module of each kind that holds several layers in one parameter, and attention packed into a linear layer."""

    def __init__(self, width, packed):
        super().__init__()
        self.tokens, self.lstm = nn.Embedding(11, width), nn.LSTM(width, width, batch_first=True)
        self.attention, self.qkv = nn.MultiheadAttention(width, 2, batch_first=True), nn.Linear(width, 3 * width)
        self.head, self.packed = nn.Linear(width, 5), packed

    def forward(self, x):
        x = self.tokens(x)
        if self.packed:
            q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            x = x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        else:
            x = x + self.attention(x, x, x)[0]
        return self.head(self.lstm(x)[0])


@pytest.mark.parametrize("packed", [False, True])
def test_blocks_of_one_parameter_are_selected_each_from_the_teachers_own(packed):
    """18 to 8 is no whole ratio, so rows spaced over the whole parameter would drift from block to block."""
    torch.manual_seed(0)
    teacher, student = Text(18, packed), Text(8, packed)
    for p in teacher.parameters():
        nn.init.normal_(p)
    hs.initialize(student, torch.arange(24).reshape(4, 6) % 11, hs.WeightSelection(teacher))
    places = torch.linspace(0, 17, 8, dtype=torch.float64).round().long()

    def chosen(parameter, blocks):
        own = torch.cat([part[places] for part in parameter.chunk(blocks)])
        return own if own.dim() == 1 else own[:, places]

    assert torch.equal(student.tokens.weight, teacher.tokens.weight[:, places])
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        assert torch.equal(getattr(student.lstm, name), chosen(getattr(teacher.lstm, name), 4)), name
    if packed:
        assert torch.equal(student.qkv.weight, chosen(teacher.qkv.weight, 3))
        assert torch.equal(student.qkv.bias, chosen(teacher.qkv.bias, 3))
        assert not torch.equal(chosen(teacher.qkv.bias, 3), chosen(teacher.qkv.bias, 1)[:24])
    else:
        assert torch.equal(student.attention.in_proj_weight, chosen(teacher.attention.in_proj_weight, 3))
        assert torch.equal(student.attention.in_proj_bias, chosen(teacher.attention.in_proj_bias, 3))
        assert torch.equal(student.attention.out_proj.weight, chosen(teacher.attention.out_proj.weight, 1))


def test_layers_with_inputs_first_are_selected_along_their_own_axes():
    class Conv1D(nn.Module):  # as Hugging Face's
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight, self.bias, self.nf = (
                nn.Parameter(torch.randn(inputs, outputs)),
                nn.Parameter(torch.randn(outputs)),
                outputs,
            )

        def forward(self, x):
            return x @ self.weight + self.bias

    def net(width):
        return nn.Sequential(Conv1D(4, width), nn.ReLU(), Conv1D(width, width), nn.Linear(width, 3))

    teacher, student = net(12), net(6)
    hs.initialize(student, torch.randn(8, 4), hs.WeightSelection(teacher))
    assert torch.equal(student[0].weight, teacher[0].weight[:, ::2])
    assert torch.equal(student[2].weight, teacher[2].weight[::2, ::2])
    assert torch.equal(student[2].bias, teacher[2].bias[::2])


def test_what_fits_nothing_is_an_error():
    student = make(lambda: Residual(4))
    with pytest.raises(hs.HeadstartError, match=r"nothing in <state_dict of 1 tensors> fits.*no 'stem.weight'"):
        hs.initialize(student, method=hs.WeightSelection({"body.weight": torch.zeros(3, 3)}))
    with pytest.raises(hs.HeadstartError, match="has no source"):
        hs.initialize(student, method="weight-selection")


@pytest.mark.parametrize("option", [{"blocks": "last"}, {"scale": "match"}, {"head": "require"}])
def test_wrong_options_are_told(option):
    with pytest.raises(hs.HeadstartError, match="is not known"):
        hs.WeightSelection(**option)


@pytest.mark.parametrize(("t", "s"), [(12, 4), (10, 4), (7, 7), (5, 1), (768, 192), (100, 64)])
def test_pick_is_the_published_rule(t, s):
    found = pick(t, s).tolist()
    assert found == (places(t, s) if s > 1 else [0])
    assert len(set(found)) == s
