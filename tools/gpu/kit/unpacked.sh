# Sourced by the run scripts: the kit's libraries before anything else, unpacked once.
set -uo pipefail
export OUT=${OUT:-work/gpu} SITE=${SITE:-$HOME/gpu-site}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$SITE:.
export LD_LIBRARY_PATH=/usr/local/nvidia/lib64:${LD_LIBRARY_PATH:-}
mkdir -p "$OUT"
[[ -e $SITE/torchrec ]] || python3 tools/gpu/kit/pieces.py unpack .gpukit/site.bin "$SITE" || exit 9

# logged NAME SECONDS COMMAND...: its output is shown, and kept in $OUT.
logged() {
  timeout "$2" "${@:3}" 2>&1 | tee "$OUT/$1.log"
}
