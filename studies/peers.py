"""The training loops of others, with our network and images: PyTorch's plain one, and Lightning."""

import time
from contextlib import redirect_stdout
from io import StringIO

from support.settings import Settings, complete

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

import train
from models import ResNet

BATCH_SIZE = 128
ENOUGH = 0.99  # of the test images right


class PlainDataset(Dataset):
    """One image at a time, as torchvision.datasets.MNIST gives it with ToTensor."""

    def __init__(self, data):
        self.data = data
        self.to_tensor = ToTensor()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image = Image.fromarray(self.data.images[index, 0].numpy())
        return self.to_tensor(image), int(self.data.labels[index])


def loader_of(data, n_workers=0):
    """Return a DataLoader of the ImageData `data`; `n_workers` processes prepare the batches."""
    return DataLoader(PlainDataset(data), batch_size=BATCH_SIZE, shuffle=True, num_workers=n_workers)


def is_enough(model, test, settings):
    """Return whether `model` is right on 99 % of the ImageData `test`."""
    with redirect_stdout(StringIO()):  # its progress
        return train.evaluate(model, test, settings)[1] >= ENOUGH


def plain_loop(data, precision=None, n_workers=0, n_to_warm_up=0, test=None):
    """Train as PyTorch's tutorials do; return (seconds of training after `n_to_warm_up` steps, epochs).

    `precision` is ours by default. It trains for one epoch; with `test`, an ImageData, until 99 % of it are
    right after an epoch. The tests do not count.
    """
    settings = complete(Settings(precision=precision))
    model = ResNet().to(settings.device)
    optimizer = torch.optim.AdamW(model.parameters())
    loader = loader_of(data, n_workers)
    seconds, n_epochs, done = 0, 0, False
    while not done:
        model.train()
        n_epochs += 1
        start = time.perf_counter()
        for step, (images, labels) in enumerate(loader, 1):
            with train.autocast(settings.device, settings.precision):
                loss = F.cross_entropy(model(images.to(settings.device)), labels.to(settings.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == n_to_warm_up:
                loss.item()  # waits for a GPU
                start = time.perf_counter()
        loss.item()
        seconds += time.perf_counter() - start
        done = test is None or is_enough(model, test, settings)
    return seconds, n_epochs


def lightning(data, n_to_warm_up=0, test=None):
    """Train with Lightning's Trainer in our precision; else it is as `plain_loop`, and returns the same."""
    from lightning import LightningModule, Trainer  # not above: only --peers needs it

    settings = complete(Settings())

    class Plain(LightningModule):
        seconds, n_epochs = 0, 0

        def __init__(self):
            super().__init__()
            self.model = ResNet()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

        def training_step(self, batch):
            images, labels = batch
            return F.cross_entropy(self.model(images), labels)

        def on_train_epoch_start(self):
            self.start = time.perf_counter()

        def on_train_batch_end(self, outputs, batch, index):
            self.loss = outputs["loss"]
            if index + 1 == n_to_warm_up:
                self.loss.item()  # waits for a GPU
                self.start = time.perf_counter()

        def on_train_epoch_end(self):
            self.loss.item()
            self.seconds += time.perf_counter() - self.start
            self.n_epochs += 1
            if test is not None:
                self.trainer.should_stop = is_enough(self.model, test, settings)
                self.train()  # evaluation mode is over

    module = Plain()
    precision = {"fp32": "32-true", "bf16": "bf16-mixed"}[settings.precision]
    # Bare bones: without logs, checkpoints and progress, as its makers measure it.
    trainer = Trainer(max_epochs=1 if test is None else -1, precision=precision, devices=1, barebones=True)
    with redirect_stdout(StringIO()):
        trainer.fit(module, loader_of(data))
    return module.seconds, module.n_epochs
