#!/usr/bin/env bash
# Trains the five networks whose filters are shown here: CIFAR-10, two epochs, reduced widths.
# CONVPRIOR_DATA is a folder with cifar10; one argument: where the runs go.
set -eu
runs=$1
train() {
    convprior train --out "$runs/$1" --threads 1 --set model.name="$1" "${@:2}" \
        --set data.source=cifar10 --set data.flip=true --set data.crop=4 \
        --set optimizer.lr=0.1 --set optimizer.weight_decay=2e-3 \
        --set budget.examples=100_000 --set budget.batch_size=50
}
# The decay is strong so that 2,000 steps forget the initial weights, as long training does.
train vgg11_bn --set model.width=32
train resnet18 --set model.width=16
train googlenet --set model.width=16
train densenet_bc22_12
train mobilenet_v2 --set model.width=16
