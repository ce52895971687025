"""Data of the first comparisons. None of it serves any other page's judgement.

CIFAR-100's images are training images of the superclasses 0 to 9, the development data of this project; volumes and
sounds are drawn by a formula. Each function returns inputs and targets; a fifth of them is the test split.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from headstart.bench import load_task

SUPERCLASSES = 10
IMAGES = 4000
RAREST = 0.01  # of the most frequent class
SYMBOLS, LENGTH, DELAY = 4, 3, 20  # of the copy task
NOISE = 1.0  # of the volumes, in deviations of what they show
RATE = 8000  # of the sounds, in Hz
# Peterson and Barney 1952: the first three formants of men's vowels, in Hz.
FORMANTS = {
    "heed": (270, 2290, 3010),
    "hid": (390, 1990, 2550),
    "head": (530, 1840, 2480),
    "had": (660, 1720, 2410),
    "hod": (730, 1090, 2440),
    "hawed": (570, 840, 2410),
    "hood": (440, 1020, 2240),
    "who'd": (300, 870, 2240),
}


def images() -> tuple[Tensor, Tensor]:
    """Return 400 images of each of ten superclasses."""
    pixels, labels = _development()
    rows = torch.cat([_of(labels, kind)[: IMAGES // SUPERCLASSES] for kind in range(SUPERCLASSES)])
    return pixels[rows], labels[rows]


def small_images() -> tuple[Tensor, Tensor]:
    """Return the same at 16×16 pixels, each the mean of four."""
    pixels, labels = images()
    return _halved(pixels), labels


def rare() -> tuple[Tensor, Tensor]:
    """Return images of 16×16 pixels whose classes get rarer by one factor, down to a hundredth of the first."""
    pixels, labels = _development()
    counts = [round(2500 * RAREST ** (kind / (SUPERCLASSES - 1))) for kind in range(SUPERCLASSES)]
    rows = torch.cat([_of(labels, kind)[:count] for kind, count in enumerate(counts)])
    return _halved(pixels[rows]), labels[rows]


def balanced(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of each class that is recognized, the mean over classes, in percent."""
    right = outputs.argmax(1) == targets
    return 100 * float(torch.stack([right[targets == kind].float().mean() for kind in targets.unique()]).mean())


def rarer_half(outputs: Tensor, targets: Tensor) -> float:
    """Return the same of the five rarest classes alone."""
    rows = targets >= SUPERCLASSES // 2
    return balanced(outputs[rows], targets[rows])


def copying() -> tuple[Tensor, Tensor]:
    """Return sequences of three symbols, blanks, and a signal to repeat them; the targets are blank until then."""
    draw = torch.Generator().manual_seed(1)
    count, steps = 4000, LENGTH + DELAY + LENGTH
    symbols = torch.randint(2, SYMBOLS + 2, (count, LENGTH), generator=draw)  # 0 is blank, 1 the signal
    inputs, targets = torch.zeros(count, steps, dtype=torch.long), torch.zeros(count, steps, dtype=torch.long)
    inputs[:, :LENGTH], inputs[:, -LENGTH] = symbols, 1
    targets[:, -LENGTH:] = symbols
    return inputs, targets


def copied(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of the symbols that are repeated right, in percent."""
    return 100 * float((outputs[:, -LENGTH:].argmax(2) == targets[:, -LENGTH:]).float().mean())


def blobs() -> tuple[Tensor, Tensor]:
    """Return volumes of 16³ voxels with smooth structure, of eight classes by the direction in which it is longest.

    Noise, smoothed by a Gaussian whose axes are drawn for each volume; the class says along which of the cube's four
    diagonals, three axes or no axis at all it is the longest. White noise is added.
    """
    draw = torch.Generator().manual_seed(2)
    count, side = 1600, 16
    labels = torch.arange(count) % 8
    found = torch.empty(count, 1, side, side, side)
    frequencies = torch.stack(torch.meshgrid(*[torch.fft.fftfreq(side)] * 3, indexing="ij"))
    diagonals = [(1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)]
    axes = torch.nn.functional.normalize(torch.tensor([*diagonals, (1, 0, 0), (0, 1, 0), (0, 0, 1)]).float(), dim=1)
    for row, label in enumerate(labels.tolist()):
        short = 0.8 + 0.4 * torch.rand((), generator=draw)
        power = short**2 * frequencies.square().sum(0)
        if label < len(axes):
            along = torch.tensordot(axes[label], frequencies, 1)
            power = power + ((2 * short) ** 2 - short**2) * along.square()
        smooth = torch.exp(-2 * torch.pi**2 * power)
        noise = torch.randn(side, side, side, generator=draw)
        volume = torch.fft.ifftn(torch.fft.fftn(noise) * smooth).real
        found[row, 0] = volume / volume.std() + NOISE * torch.randn(side, side, side, generator=draw)
    return found, labels


def vowels() -> tuple[Tensor, Tensor]:
    """Return an eighth of a second of eight vowels each, by many voices, in noise.

    A voice is a train of pulses of a pitch between 90 and 220 Hz; a vowel is three resonances, up to a tenth off their
    published places. Noise of the same power falls off as real noise does, by 1/f.
    """
    draw = np.random.default_rng(3)
    count, length = 4000, 1024
    labels = np.arange(count) % len(FORMANTS)
    frequencies = np.fft.rfftfreq(length, 1 / RATE)
    found = np.empty((count, 1, length), np.float32)
    for row, formants in enumerate(list(FORMANTS.values())[label] for label in labels):
        pulses = np.zeros(length)
        pulses[np.arange(draw.uniform(0, 40), length, RATE / draw.uniform(90, 220)).astype(int)] = 1
        spectrum = np.fft.rfft(pulses)
        for place, width in zip(formants, (60, 90, 150), strict=True):
            pole = place * draw.uniform(0.9, 1.1)
            spectrum *= pole**2 / (pole**2 - frequencies**2 + 1j * width * frequencies)
        voice = np.fft.irfft(spectrum, length)
        fall = 1 / np.sqrt(np.maximum(frequencies, frequencies[1]))
        noise = np.fft.irfft(np.fft.rfft(draw.standard_normal(length)) * fall, length)
        found[row, 0] = voice / voice.std() + noise / noise.std()
    return torch.from_numpy(found), torch.from_numpy(labels)


def _development() -> tuple[Tensor, Tensor]:
    task = load_task("cifar100:coarse,validation=5000")
    pixels = torch.cat([task.train.images, task.validation.images])
    labels = torch.cat([task.train.labels, task.validation.labels])
    return pixels[labels < SUPERCLASSES], labels[labels < SUPERCLASSES]


def _halved(pixels: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(pixels.float(), 2).round().to(torch.uint8)


def _of(labels: Tensor, kind: int) -> Tensor:
    return (labels == kind).nonzero()[:, 0]
