"""Makes safetensors files of the convolutions of five networks that others trained and published.

They come with two npm packages under the MIT license, ``nsfwjs`` 4.3.0 (image moderation:
Inception-v3 and MobileNetV2 at two widths) and
``@vladmandic/face-api`` 1.7.15 (a ResNet for face recognition, a MobileNetV1 for face detection):

    npm pack nsfwjs@4.3.0 @vladmandic/face-api@1.7.15
    mkdir nsfwjs face-api
    tar xzf nsfwjs-4.3.0.tgz -C nsfwjs && tar xzf vladmandic-face-api-1.7.15.tgz -C face-api
    python results/tap-profiles/published.py nsfwjs face-api networks
    convprior inspect networks/*.safetensors --taps --out profiles.html

Most weights are stored in 8 bits. Rounding adds scale^2 / 12 to each tap's second moment, which
moves every ratio towards 1; the largest share it has of a tap's moment is printed for each network
(taps that are zero, in the last layer of the face ResNet, left out).
"""

import base64
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Entry = dict[str, Any]

# An entry of a manifest, as JavaScript writes it: keys without quotes, numbers like .5 and 1e-5.
_ENTRY = re.compile(r'\{name:"[^"]+",shape:\[[\d,]*\],dtype:"\w+"(?:,quantization:\{[^}]*\})?\}')

# What every layer of a network is called as well.
_PADDING = re.compile(
    r"^Mobilenet\w+/|/(depthwise_)?(kernel|weights)$|/Conv2D_weights$|/conv/filters$"
)


def nsfwjs(folder: Path) -> tuple[list[Entry], bytes]:
    """Manifest and bytes of a network that is packed into scripts."""
    script = (folder / "model.min.js").read_text()
    entries = []
    for found in _ENTRY.findall(script):
        quoted = re.sub(r"([{,])(\w+):", r'\1"\2":', found)
        entries.append(json.loads(re.sub(r"([:-])\.(\d)", r"\g<1>0.\2", quoted)))
    shards = sorted(folder.glob("group1-shard*.js"))
    texts = [max(re.findall(r'"([A-Za-z0-9+/=]+)"', s.read_text()), key=len) for s in shards]
    return entries, b"".join(base64.b64decode(text) for text in texts)


def face_api(path: Path) -> tuple[list[Entry], bytes]:
    """Manifest and bytes of a network that is stored as JSON beside a binary file."""
    groups = json.loads(path.with_name(f"{path.stem}-weights_manifest.json").read_text())
    return [entry for group in groups for entry in group["weights"]], path.read_bytes()


def convolutions(entries: list[Entry], data: bytes) -> Iterator[tuple[str, Tensor, float]]:
    """Name, weight (out, in/groups, k_h, k_w) and the step of its rounding."""
    offset = 0
    kinds = {"uint8": torch.uint8, "float32": torch.float32, "int32": torch.int32}
    for entry in entries:
        rounding = entry.get("quantization", {"dtype": entry["dtype"], "scale": 0.0, "min": 0.0})
        kind, count = kinds[rounding["dtype"]], math.prod(entry["shape"])
        raw = torch.frombuffer(bytearray(data), dtype=kind, count=count, offset=offset)
        offset += raw.nbytes
        if len(entry["shape"]) != 4:
            continue
        step = rounding["scale"]
        weight = (raw * step + rounding["min"] if step else raw).reshape(entry["shape"])
        # TensorFlow: (k_h, k_w, in, out), and (k_h, k_w, channels, 1) for a depthwise one.
        order = (2, 3, 0, 1) if "depthwise_" in entry["name"] else (3, 2, 0, 1)
        name = _PADDING.sub("", entry["name"].split("/predict/")[-1]).replace("/", ".")
        yield name, weight.permute(order).contiguous(), step
    if offset != len(data):
        raise SystemExit(f"{len(data) - offset} bytes are left over: another version of the file?")


def by_depth(name: str) -> list[Any]:
    """The order of the layers, from their numbers; the stem has none and comes first."""
    stem = 0 if re.match(r"(Conv1|Conv|Conv2d_0_pointwise|conv32_down)$", name) else 1
    if name.startswith("Prediction"):
        stem = 2
    stage = re.match(r"conv(\d+)_(down_out|down|\d+)\.(conv\d)", name)
    if stage:  # conv64_down comes before conv64_1; conv256_down_out is the last
        place = (
            {"down": 0, "down_out": 99}.get(stage[2]) if not stage[2].isdigit() else int(stage[2])
        )
        return [stem, int(stage[1]), place, stage[3]]
    numbers = [int(number) for number in re.findall(r"_(\d+)", name)]
    return [stem, numbers or [0], name]


def main(packed: Path, faces: Path, out: Path) -> None:
    """Reads both packages and writes one file a network."""
    models = packed / "package" / "dist" / "models"
    found = {
        "inception_v3": nsfwjs(models / "inception_v3"),
        "mobilenet_v2": nsfwjs(models / "mobilenet_v2"),
        "mobilenet_v2_140": nsfwjs(models / "mobilenet_v2_mid"),
        "face_resnet": face_api(faces / "package" / "model" / "face_recognition_model.bin"),
        "face_mobilenet_v1": face_api(faces / "package" / "model" / "ssd_mobilenetv1_model.bin"),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, (entries, data) in found.items():
        layers = sorted(convolutions(entries, data), key=lambda layer: by_depth(layer[0]))
        # The order of the file is that of the names, so depth goes into the name.
        weights = {f"{i:03d} {layer}.weight": w for i, (layer, w, _) in enumerate(layers)}
        save_file(weights, out / f"{name}.safetensors")
        shares = [
            step**2 / 12 / least
            for _, weight, step in layers
            if max(weight.shape[2:]) > 1 and (least := float(weight.square().mean((0, 1)).min()))
        ]
        print(f"{name}: {len(shares)} spatial convolutions, rounding at most {max(shares):.1%}")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
