#!/usr/bin/env bash
# From the checkout on the GPU machine: kernels and a step, right and how fast. At most 490 s.
source tools/gpu/kit/unpacked.sh
logged 3-kernels 150 python3 -m tools.gpu.kernels
logged 4-step 240 python3 -m tools.gpu.step
logged 5-pytest 100 python3 -m pytest -q -p no:cacheprovider -m cuda tests
