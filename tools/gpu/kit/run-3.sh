#!/usr/bin/env bash
# From the checkout on the GPU machine: the demo on the GPU beside the CPU. At most 400 s.
source tools/gpu/kit/unpacked.sh
for method in cadc gold; do
  for device in cuda cpu; do
    [[ -e $OUT/work-$device ]] || cp -r .gpukit/work "$OUT/work-$device"
    timeout 100 python3 -m cadc_rec run configs/demo.toml --method "$method" --json \
      --workdir "$OUT/work-$device" --set "compute.device=$device" \
      >"$OUT/$method-$device.json" 2>"$OUT/$method-$device.log" || tail -5 "$OUT/$method-$device.log"
    echo "$method $device $(cat "$OUT/$method-$device.json")"
  done
done
