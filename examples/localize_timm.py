"""A pretrained network of timm becomes local, by degrees, without changing what it computes.

Run: python examples/localize_timm.py (fetches the weights of ResNet-18 once; --random does without)
"""

import sys

import timm
import torch

from convprior import localize
from convprior.local import invariance_report, param_groups


def main(pretrained: bool = True) -> float:
    """Localizes the last stage, trains it for three steps, and returns how far it moved."""
    model = timm.create_model("resnet18", pretrained=pretrained).eval()
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    local = localize(model, images, rank=4, layers=["layer4"])  # 7x7 maps: four filters mixed
    with torch.inference_mode():
        print(f"largest difference {(local(images) - model(images)).abs().max():.1e}")

    optimizer = torch.optim.AdamW(param_groups(local, weight_decay=0.01), lr=1e-3)
    labels = torch.arange(4)
    for _ in range(3):  # your fine-tuning goes here
        torch.nn.functional.cross_entropy(local(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    report = invariance_report(local)
    print(report.table())
    return max(row["distance"] for row in report.rows())


if __name__ == "__main__":
    main(pretrained="--random" not in sys.argv)
