#!/usr/bin/env bash
# Prepares the checks for a GPU machine that has torch 2.11 of CUDA 13 and Python 3.12 and no
# network: tools/gpu/kit/prepare.sh [WORKFOLDER]. Downloads some 500 MB, needs 5 GB of disk, unzip,
# zstd and readelf; leaves .gpukit/ (some 40 MiB) in the checkout, which travels with it.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
checkout=$(realpath "$here/../../..")
work=$(realpath "${1:-$(mktemp -d)}")
python=${PYTHON:-python3}
mkdir -p "$work/wheels" "$checkout/.gpukit"
cd "$work"

# The trio for torch 2.11; and what of their requirements such a machine lacks.
wheels=(
  fbgemm-gpu==1.6.0 torchrec==1.6.1 tensordict==0.15.3 pyvers==0.2.3 iopath==0.1.9 pydantic==2.14.4
  pydantic-core==2.50.5 annotated-types==0.8.0 typing-inspection==0.4.5
)
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${name}_x86_64")
done
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp "${platforms[@]}" -d wheels "${wheels[@]}"

rm -rf whole site
mkdir whole site
unzip -qo wheels/fbgemm_gpu-*.whl -d whole
for wheel in wheels/*.whl; do
  [[ $wheel == wheels/fbgemm_gpu-* ]] || unzip -qo "$wheel" -d site
done
(cd whole && tar cf - --exclude='*.so' fbgemm_gpu fbgemm_gpu-*.dist-info) | tar xf - -C site
cp -r "$here/stubs/." site/ # DuckDB and Ibis, which the checks import and never call

# Libraries without kernels as they are; of the others, what the project launches. `vbe` and `gwd`
# (variable batches, global weight decay; 665 MB) are left out.
for name in asmjit fbgemm fbgemm_gpu_config fbgemm_gpu_tbe_training_backward_pt2 \
  fbgemm_gpu_tbe_training_backward_split_host; do
  cp "whole/fbgemm_gpu/$name.so" site/fbgemm_gpu/
done
reduced() {
  "$python" "$here/fatbin.py" "whole/fbgemm_gpu/fbgemm_gpu_$1.so" \
    "site/fbgemm_gpu/fbgemm_gpu_$1.so" "${@:2}"
}
for name in embedding_inplace_ops sparse_async_cumsum tbe_cache tbe_common tbe_utils tbe_optimizers; do
  reduced "$name"
done
reduced py '^(?!.*(faster_hash|auc_kernel|zipf|histogram|mx4|msfp|fp8|FP8|jagged_softmax|2d_weights))'
reduced tbe_index_select 'batch_index_select_dim0_codegen_forward_kernel'
reduced tbe_training_forward \
  '(split|dense)_embedding_(nobag_)?codegen_forward_(un)?weighted_(kernel|v2|small)'
reduced tbe_training_backward \
  '(grad_mean|backward_codegen_(rowwise_adagrad|adam|sgd|adagrad)_(un)?weighted|indice_weight)'
reduced tbe_training_backward_dense '(un)?weighted|indice_weight'
reduced tbe_inference 'embedding_codegen_forward_unweighted'

# fbgemm loads the libraries that are there, and knows torch 2.11.
"$python" - <<'P'
from pathlib import Path

file = Path("site/fbgemm_gpu/__init__.py")
text = file.read_text()
loop = "    for library in libraries_to_load.get(target, []):\n"
assert loop in text
there = 'os.path.exists(os.path.join(os.path.dirname(__file__), library + ".so"))'
text = text.replace(loop, f"{loop}        if not {there}:\n            continue\n")
file.write_text(text.replace('    "1.5": "2.10",', '    "1.6": "2.11",\n    "1.5": "2.10",'))
P
"$python" "$here/pieces.py" pack site "$checkout/.gpukit/site.bin"

# A prepared dataset for run-3.sh: the machine has no DuckDB.
if [[ -x $checkout/.venv/bin/cadc-rec ]]; then
  (cd "$checkout" && .venv/bin/cadc-rec prepare configs/demo.toml --workdir .gpukit/work)
fi
du -sh "$checkout/.gpukit"
