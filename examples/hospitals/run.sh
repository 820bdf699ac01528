#!/usr/bin/env bash
# Two hospitals learn one task each; B goes on from what A has learned, and never sees A's training data.
# From the root of the repository, after `make demo-data`:
#
#   bash examples/hospitals/run.sh saves/hospitals
#
# Further words override keys of both recipes: bash examples/hospitals/run.sh OUT model_name_or_path=models/base
set -euo pipefail
out=$1
shift

# Hospital A trains `path` and packs what the next hospital needs, with the scores it has measured.
llamafactory-cli train examples/hospitals/hospital_a.yaml output_dir="$out/a" "$@"
cl-plugins carry pack "$out/a" --out "$out/a.carry.zip" --with-matrix

# Hospital B looks at the file before it uses it ...
cl-plugins carry inspect "$out/a.carry.zip"
cl-plugins carry verify "$out/a.carry.zip"
# ... trains `cell` on top, and packs the result.
llamafactory-cli train examples/hospitals/hospital_b.yaml output_dir="$out/b" cl.carry_from="$out/a.carry.zip" "$@"
cl-plugins carry pack "$out/b" --out "$out/b.carry.zip" --with-matrix

# Whoever has the last file has the rows of both hospitals: one matrix, as of a single run.
cl-plugins matrix join "$out/b.carry.zip" --out "$out/joined"
