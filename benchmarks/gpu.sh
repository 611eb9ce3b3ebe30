#!/usr/bin/env bash
# The suite on a machine with an accelerator and without the internet: uses what is installed, skips the rest with a
# line, and writes rows to the file named, or to gpu.jsonl. No part may take more than its share of eight minutes.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu.jsonl}
for part in equations planning tabular replay learner profile seeds emulator overhead end_to_end time_to_solve; do
    PYTHONPATH=. timeout 43 python3 -m benchmarks "$part" --quick --out "$out" || echo "$part: stopped" >&2
done
