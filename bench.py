"""Images per second of our training loop beside a plain PyTorch loop: same network, images and machine.

    python bench.py

Each measurement is a process of its own, so that none inherits another's memory, threads or settings; they
alternate, since a machine's speed drifts, and the medians are compared. The pixels are random.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import write_png
from torchvision.transforms import ToTensor

import train
from data import ImageData, read_images
from models import ResNet
from runs import run_command
from settings import Settings, complete

N_IMAGES, N_ROUNDS = 20000, 3


def random_digits(n_images):
    """Return an ImageData of random pixels in MNIST's shape."""
    images = torch.randint(256, (n_images, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(10, (n_images,))
    return ImageData(images, labels, tuple("0123456789"), tuple(map(str, range(n_images))), "random pixels")


def ours():
    """Return images per second of `train.fit` in its second epoch."""
    settings = complete(Settings(model="resnet", init="xavier", epochs=2))
    data, test = random_digits(N_IMAGES), random_digits(128)
    model = train.build(settings, 10, (1, 28, 28))
    return N_IMAGES / train.fit(model, data, test, settings)[1]["seconds"]


class PlainDataset(Dataset):
    """One image at a time, as torchvision.datasets.MNIST gives it with ToTensor."""

    def __init__(self, data):
        self.data, self.to_tensor = data, ToTensor()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.to_tensor(Image.fromarray(self.data.images[index, 0].numpy())), int(
            self.data.labels[index]
        )


def plain():
    """Return images per second of a DataLoader loop in fp32 in its second epoch."""
    device = complete(Settings()).device
    model = ResNet().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    loader = DataLoader(PlainDataset(random_digits(N_IMAGES)), batch_size=128, shuffle=True)
    for _ in range(2):
        start = time.perf_counter()
        for images, labels in loader:
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()  # waits for a GPU
    return N_IMAGES / (time.perf_counter() - start)


def limit():
    """Return the images per second that the machine's matrix product allows in our precision."""
    settings = complete(Settings())
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    a = torch.randn(2048, 2048, device=settings.device, dtype=dtype)
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    flops_per_second = 2 * 2048**3 / statistics.median(seconds)
    with FlopCounterMode(display=False) as counter:
        ResNet()(torch.rand(1, 1, 28, 28)).sum().backward()
    return flops_per_second / counter.get_total_flops()


def reading():
    """Return PNG files read per second."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{index}.png")) for index in range(N_IMAGES)]
        for image, file in zip(random_digits(N_IMAGES).images, files, strict=True):
            write_png(image, file)
        start = time.perf_counter()
        read_images(files)
        return N_IMAGES / (time.perf_counter() - start)


PARTS = {part.__name__: part for part in (ours, plain, limit, reading)}


def main():
    """Measure every part in turn, or with one's name as argument only that, and print the rates."""
    if sys.argv[1:]:
        print(json.dumps(PARTS[sys.argv[1]]()))
        return
    settings = complete(Settings())
    where = f"{settings.device}, {settings.precision}, {settings.threads} threads"
    print(f"{N_ROUNDS} rounds, about three minutes; {where}")
    rates = {name: [] for name in PARTS}
    for _ in range(N_ROUNDS):
        for name in PARTS:
            done = subprocess.run(
                [sys.executable, __file__, name], capture_output=True, text=True, check=True
            )
            rates[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  {name:8} {rates[name][-1]:8,.0f} images/s", flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    share = median["ours"] / median["limit"]
    print(f"ours     {median['ours']:8,.0f} images/s (medians)")
    print(f"plain    {median['plain']:8,.0f} images/s: ours is {median['ours'] / median['plain']:.2f} × that")
    print(f"limit    {median['limit']:8,.0f} images/s if all were matrix products: ours is {share:.0%} of it")
    print(f"reading  {median['reading']:8,.0f} PNGs/s: 60,000 in {60000 / median['reading']:.1f} s")


if __name__ == "__main__":
    run_command(main)
