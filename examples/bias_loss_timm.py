"""Bias Loss with a network of timm, mixup and label smoothing, and what its weights were.

Run: python examples/bias_loss_timm.py (scikit-learn's digits, about half a minute)
"""

import timm
import torch
from sklearn.datasets import load_digits
from timm.data import Mixup

from convprior import BiasLoss
from convprior.diagnose import feature_diversity
from convprior.losses import FeatureTap


def main(epochs: int = 8) -> float:
    """Trains a narrow SkipNet on 1,280 digits; returns its accuracy on the others."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    train, test = slice(0, 1280), slice(1280, None)

    torch.manual_seed(0)
    model = timm.create_model(
        "convprior_skipnet_xs", num_classes=10, in_chans=1, small_input=True, width=4
    )
    tap = FeatureTap(model)  # finds the map before global pooling in the first pass
    criterion = BiasLoss()
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=10)  # gives soft targets
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    for epoch in range(epochs):
        model.train()
        for batch in torch.randperm(1280).split(64):
            mixed, target = mixup(x[train][batch], y[train][batch])
            loss = criterion(model(mixed), target, tap)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss:.2f}, mean weight {criterion.mean_weight:.3f}")

    print(tap)
    result = feature_diversity(model, [(x[test], y[test])])
    print(result.conclusion)
    return result.accuracy


if __name__ == "__main__":
    print(f"accuracy {main():.1%}")
