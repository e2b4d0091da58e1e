#!/usr/bin/env bash
# benchmarks/gpu.sh [options of python -m benchmarks.gpu]: everything that is measured on one GPU,
# in less than ten minutes. Whatever the clock cuts short, what was measured so far is written.
cd "$(dirname "$0")/.." || exit
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
exec timeout --signal=INT --kill-after=20 570 "${PYTHON:-python}" -m benchmarks.gpu "$@"
