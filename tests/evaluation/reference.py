"""The test protocols once more, of one picture at a time, as plainly as Pillow and torch allow."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def scaled(picture: Image.Image, side: int, kind: Image.Resampling) -> Image.Image:
    short = min(picture.size)
    width, height = (int(side * length / short) for length in picture.size)
    return picture.resize((width, height), kind)


def views(picture: Image.Image, name: str, resize: int, size: int, kind: Image.Resampling) -> list[Image.Image]:
    if name in ("dense", "multi-scale"):
        found = [scaled(picture, side, kind) for side in ([resize] if name == "dense" else [224, 256, 384, 480, 640])]
    else:
        picture = scaled(picture, resize, kind)
        right, low = picture.width - size, picture.height - size
        places = [(round(right / 2), round(low / 2)), *((x, y) for x in (0, right) for y in (0, low))]
        places = places if name == "ten-crop" else places[:1]
        found = [picture.crop((x, y, x + size, y + size)) for x, y in places]
    return found if name == "center" else [*found, *map(ImageOps.mirror, found)]


def logits(network: nn.Module, view: Image.Image, name: str) -> Tensor:
    pixels = (np.asarray(view, np.float64) / 255 - MEAN) / STD
    x = F.relu(network.bn1(network.conv1(torch.tensor(pixels).permute(2, 0, 1)[None])))
    x = network.layer4(network.layer3(network.layer2(network.layer1(network.maxpool(x)))))[0]
    side = 7 if name in ("dense", "multi-scale") else x.shape[-1]
    places = x.unfold(1, side, 1).unfold(2, side, 1).mean((3, 4)).flatten(1)
    return network.fc(places.T).mean(0)


def probabilities(
    network: nn.Module, picture: Image.Image, name: str, average: str, resize: int, size: int, interpolation: str
) -> Tensor:
    """Return a picture's probabilities [classes] under a protocol, float64."""
    seen = views(picture, name, resize, size, Image.Resampling[interpolation.upper()])
    answers = torch.stack([logits(network, view, name) for view in seen])
    return answers.mean(0).softmax(0) if average == "logits" else answers.softmax(1).mean(0)
