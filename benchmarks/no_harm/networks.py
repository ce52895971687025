"""The networks of the table: strangers' cases, the package's own, torchvision's, timm's, Hugging Face's and MONAI's."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "methods"))

CLASSES = 10


class Siamese(nn.Module):
    """One encoder on two images, and a head on their difference."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 64)),
        )
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Compare an image with its mirror image."""
        return self.head(self.net(x) - self.net(x.flip(3)) + self.net(x))


class LSTMClassifier(nn.Module):
    """Linear layers around an LSTM over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.lstm = nn.Linear(96, 64), nn.LSTM(64, 64, batch_first=True)
        self.hidden, self.out = nn.Linear(64, 64), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Read the image row by row."""
        rows = x.transpose(1, 2).flatten(2)
        return self.out(torch.relu(self.hidden(self.lstm(torch.relu(self.into(rows)))[0][:, -1])))


class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip paths over an image's pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(3, 32, 1)
        self.gates = nn.ModuleList(nn.Conv1d(32, 64, 3, padding=2**i, dilation=2**i) for i in range(6))
        self.mixes = nn.ModuleList(nn.Conv1d(32, 32, 1) for _ in range(6))
        self.out = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Pool what all layers say."""
        x = self.into(x[..., ::2, ::2].flatten(2))
        total = torch.zeros_like(x)
        for gate, mix in zip(self.gates, self.mixes, strict=True):
            a, b = gate(x).chunk(2, 1)
            step = mix(a.tanh() * b.sigmoid())
            x, total = x + step, total + step
        return self.out(total.mean(2))


class UNet(nn.Module):
    """A small U-Net without norms, pooled."""

    def __init__(self, norm: bool) -> None:
        super().__init__()

        def block(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b) if norm else nn.Identity(), nn.ReLU())

        self.a, self.b, self.c = block(3, 16), block(16, 32), block(32, 32)
        self.up, self.d, self.out = nn.ConvTranspose2d(32, 16, 2, 2), block(48, 16), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Down, up, and the mean of the map."""
        a = self.a(x)
        b = self.c(self.b(nn.functional.max_pool2d(a, 2)))
        return self.out(self.d(torch.cat([a, self.up(b), a], 1)[:, :48])).mean((2, 3))


class Rows(nn.Module):
    """A recurrent network of the cases on the rows of an image."""

    def __init__(self, cell: nn.Module, width: int) -> None:
        super().__init__()
        self.cell, self.width = cell, width

    def forward(self, x: Tensor) -> Tensor:
        """Hand the rows over one after the other."""
        return self.cell(x.transpose(1, 2).flatten(2)[..., : self.width])


class Frames(nn.Module):
    """A convolutional recurrent network of the cases, with the channels as frames."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.head = net, nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Three frames, and the mean of the map."""
        return self.head(self.net(x[..., ::2, ::2].unsqueeze(2)).mean((2, 3)))


class Fields(nn.Module):
    """A SIREN that reads an image instead of coordinates."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        net[-1] = nn.Linear(128, CLASSES)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Two numbers of the image."""
        return self.net(torch.stack([x[:, 0].mean((1, 2)), x[:, 1].mean((1, 2))], 1))


def cases() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Networks of the reports: those that the default once made worse, and those on which it was on."""
    import test_auto_authors as theirs

    yield "cases: tanh cell", lambda: Rows(_reading(theirs.Cell()), 8)
    yield "cases: LSTM cell", lambda: Rows(_reading(theirs.LSTMCell()), 8)
    yield "cases: ConvLSTM", lambda: Frames(theirs.ConvLSTM())
    yield "cases: SIREN", lambda: Fields(theirs.siren())
    yield (
        "cases: Fixup",
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), *(theirs.Fixup() for _ in range(6))),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES)),
        ),
    )
    yield "cases: Siamese", Siamese
    yield "cases: LSTM classifier", LSTMClassifier
    yield "cases: WaveNet", WaveNet
    yield "cases: U-Net without norms", lambda: UNet(False)
    yield "cases: U-Net", lambda: UNet(True)


def _reading(cell: nn.Module) -> nn.Module:
    cell.o = nn.Linear(cell.o.in_features, CLASSES)  # type: ignore[union-attr, arg-type]
    return cell


OWN = (
    *("prewarm-cnn", "plain-cnn:depth=5,width=16", "plain-cnn:depth=20,width=16", "cifar-resnet20"),
    *("cifar-resnet20:norm=0", "resnet18", "mobilenet-v1:width=8", "mobilenet-v2", "mobilenet-v3-small"),
)
TORCHVISION = (
    *("shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "mobilenet_v3_small", "resnet18", "mobilenet_v2"),
    *("regnet_y_400mf", "regnet_x_400mf", "efficientnet_b0", "googlenet", "densenet121", "convnext_tiny", "alexnet"),
)
TIMM = (Path(__file__).parent / "timm.txt").read_text().split()  # small ones first


def timm_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """The list above, as far as the installed version has it."""
    import timm

    known = set(timm.list_models())
    for name in TIMM:
        if name in known:
            yield f"timm: {name}", lambda name=name: timm.create_model(name, num_classes=CLASSES)


def torchvision_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Those of the tests, and other kinds."""
    from torchvision import models

    for name in TORCHVISION:
        extra = {"aux_logits": False} if name == "googlenet" else {}
        yield (
            f"torchvision: {name}",
            lambda name=name, extra=extra: models.get_model(name, weights=None, num_classes=CLASSES, **extra),
        )


def own_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Those of the benchmark that have rows in the results, and near ones."""
    from headstart.bench.models.builders import resolve_model

    for name in OWN:
        yield f"headstart: {name}", lambda name=name: resolve_model(f"headstart:{name}")(3, CLASSES, (32, 32))


class Logits(nn.Module):
    """A model that returns a record, with its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Run the model."""
        found: Tensor = self.model(x).logits
        return found


class Tokens(nn.Module):
    """A model of texts that reads images: sixteen levels of brightness are its words."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Read the means of squares of 4×4 pixels, one after the other."""
        words = (2 * nn.functional.avg_pool2d(x, 4).flatten(1) + 8).long().clamp(1, 15)
        found: Tensor = self.model(words).logits
        return found


def hugging_face_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Classifiers of images and texts from their configurations, small."""
    import transformers as t

    def images(kind: str, **options: object) -> Callable[[], nn.Module]:
        config = getattr(t, f"{kind}Config")(num_labels=CLASSES, **options)
        return lambda: Logits(getattr(t, f"{kind}ForImageClassification")(config))

    def texts(kind: str, **options: object) -> Callable[[], nn.Module]:
        config = getattr(t, f"{kind}Config")(num_labels=CLASSES, vocab_size=16, pad_token_id=0, **options)
        return lambda: Tokens(getattr(t, f"{kind}ForSequenceClassification")(config))

    small = {"depths": [1, 1, 2, 1], "hidden_sizes": [24, 48, 96, 192]}
    yield "Hugging Face: ResNet", images("ResNet", embedding_size=24, layer_type="basic", **small)
    yield "Hugging Face: RegNet", images("RegNet", embedding_size=24, groups_width=24, **small)
    yield (
        "Hugging Face: BiT",
        images("Bit", embedding_size=32, num_groups=8, **{**small, "hidden_sizes": [32, 64, 96, 128]}),
    )
    yield "Hugging Face: ConvNeXt", images("ConvNext", **small)
    yield "Hugging Face: ConvNeXt v2", images("ConvNextV2", **small)
    yield "Hugging Face: MobileNet v1", images("MobileNetV1", depth_multiplier=0.25)
    yield "Hugging Face: MobileNet v2", images("MobileNetV2", depth_multiplier=0.35)
    yield (
        "Hugging Face: EfficientNet",
        images("EfficientNet", width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640),
    )
    yield "Hugging Face: PoolFormer", images("PoolFormer", depths=[1, 1, 2, 1], hidden_sizes=[24, 48, 96, 192])
    yield (
        "Hugging Face: MobileViT",
        images("MobileViT", hidden_sizes=[48, 64, 80], neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 96]),
    )
    yield "Hugging Face: FocalNet", images("FocalNet", image_size=32, embed_dim=24, depths=[1, 1, 2, 1])
    yield (
        "Hugging Face: Swin",
        images("Swin", image_size=32, embed_dim=24, depths=[1, 2], num_heads=[2, 4], window_size=4),
    )
    size = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
    yield "Hugging Face: ViT", images("ViT", image_size=32, patch_size=8, **size)
    yield "Hugging Face: BERT", texts("Bert", **size)
    yield "Hugging Face: DistilBERT", texts("DistilBert", dim=48, n_layers=3, n_heads=3, hidden_dim=96)
    yield "Hugging Face: GPT-2", texts("GPT2", n_embd=48, n_layer=3, n_head=3)


class Pooled(nn.Module):
    """A network that returns a map, averaged."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Run the model."""
        found = self.model(x)
        found = found[0] if isinstance(found, (tuple, list)) else found
        return found.flatten(2).mean(2) if found.dim() > 2 else found


class Grey(Pooled):
    """One that wants a single channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the model on the channels' mean."""
        return super().forward(x.mean(1, keepdim=True))


def monai_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Networks for images of two dimensions and of three."""
    from monai.networks import nets as n

    for dims, size in ((2, ""), (3, ", 3-D")):
        plain = {"spatial_dims": dims, "in_channels": 3, "out_channels": CLASSES}
        steps = {"channels": (8, 16, 32), "strides": (2, 2)}
        made: dict[str, Callable[..., nn.Module]] = {
            "UNet": lambda plain=plain, steps=steps: Pooled(n.UNet(**plain, **steps)),
            "UNet, batch norm": lambda plain=plain, steps=steps: Pooled(
                n.UNet(**plain, **steps, num_res_units=1, norm="batch")
            ),
            "UNet without norms": lambda plain=plain, steps=steps: Pooled(n.UNet(**plain, **steps, norm=None)),
            "AttentionUnet": lambda plain=plain, steps=steps: Pooled(n.AttentionUnet(**plain, **steps)),
            "SegResNet": lambda plain=plain: Pooled(n.SegResNet(**plain, init_filters=8)),
            "BasicUNet": lambda plain=plain: Pooled(n.BasicUNet(**plain, features=(8, 8, 16, 16, 32, 8))),
            "DynUNet": lambda plain=plain: Pooled(
                n.DynUNet(
                    **plain, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[8, 16, 32]
                )
            ),
            "VNet": lambda plain=plain, dims=dims: Grey(n.VNet(**plain | {"in_channels": 1}, dropout_dim=dims)),
            "DenseNet": lambda plain=plain: n.DenseNet121(**plain, init_features=16, growth_rate=8),
            "ResNet": lambda dims=dims: n.resnet10(
                spatial_dims=dims, n_input_channels=3, num_classes=CLASSES, widen_factor=0.25
            ),
            "AutoEncoder": lambda plain=plain, steps=steps: Pooled(
                n.AutoEncoder(**plain, **steps | {"strides": (2, 2, 1)})
            ),
        }
        for name, build in made.items():
            yield f"MONAI: {name}{size}", build


def every() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """All networks whose packages are there; what is missing is said."""
    for group in (cases, own_models, torchvision_models, hugging_face_models, monai_models, timm_models):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield from list(group())
        except ImportError as error:  # noqa: PERF203
            print(f"left out: {group.__name__} ({error})")
