#!/usr/bin/env bash
# From the checkout on the GPU machine: are the libraries right, is the project? At most 360 s.
source tools/gpu/kit/unpacked.sh
nvidia-smi -L
logged 1-stack 120 python3 -m tools.gpu.stack
logged 2-project 240 python3 -m tools.gpu.project
