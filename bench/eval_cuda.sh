#!/bin/bash
# What sparse prefill costs the embedded model, in full, on one GPU:
#
#   bench/eval_cuda.sh FOLDER [MINUTES]
#
# Patterns are searched on the GPU at 32K tokens when bench/patterns/needle-32k.json is not there. Then, in order: every retrieval task
# at 32K, 200 prompts, MInference against dense; the same at 128K, 50 prompts; curves of all methods at 16K, 50 prompts.
# Ends after about MINUTES (8 unless told otherwise), with summaries of what is there; the same command goes on. What FOLDER
# gets: patterns and the search's report; 32k/, 128k/ and curves/ with samples.jsonl and summaries; *_cuda.json, results. Last come
# all selections on synthetic heads of a layer like Qwen2-7B's.
# A trial without a GPU, with lengths divided by SCALE: SCALE=8 PROMPTS=1 DEVICE=cpu bench/eval_cuda.sh /tmp/trial 20
set -uo pipefail

output=$(realpath -m "${1:?a folder for what is written}")
end=$(($(date +%s) + 60 * ${2:-8}))
device=${DEVICE:-cuda}
scale=${SCALE:-1}
cd "$(dirname "$0")/.."
mkdir -p "$output"
minference=("${PYTHON:-python3}" -m minference)
export PYTHONPATH=$PWD/python${PYTHONPATH:+:$PYTHONPATH}
patterns=bench/patterns/needle-32k.json
[ "$scale" = 1 ] || patterns=$output/patterns.json
status=0

# Summaries take some seconds more.
remaining() { echo $((end - 20 - $(date +%s))); }

evaluate() { # NAME TITLE_OF_RESULT LENGTH SAMPLES ARGUMENTS...
  local folder=$output/$1 result=$output/$2.json length=$(($3 / scale)) samples=${PROMPTS:-$4}
  shift 4
  local left
  left=$(remaining)
  [ "$left" -gt 0 ] || return 0
  echo "== $folder: $length tokens, $samples prompts a task, ${left} s left"
  "${minference[@]}" eval "$@" --device "$device" --lengths "$length" --samples "$samples" --patterns "$patterns" \
    --minutes "$((left / 60)).$(printf %03d $((left % 60 * 1000 / 60)))" --output "$folder" --result "$result" \
    >"$folder.txt" 2>"$folder.log" || status=$?
  tail -n 3 "$folder.log" "$folder.txt"
}

if [ ! -e "$patterns" ]; then
  echo "== searching patterns"
  timeout "$(remaining)" "${minference[@]}" search --device "$device" --lengths $((32768 / scale)) --cost 0.045 \
    --kinds A-shape,vertical-slash --tasks niah_multikey_1,kv_words,restated,lagged,repeated,recall \
    --work "$output/search" --output "$patterns" >"$output/search.txt" 2>"$output/search.log"
  if [ ! -e "$patterns" ]; then
    tail -n 3 "$output/search.log"
    echo "== the search failed: going on with the model's own patterns"
    patterns=models/needle/head_patterns.json status=1
  fi
  cat "$output/search.txt"
fi
cp "$patterns" "$output/needle-32k.json"

evaluate 32k eval_retrieval_32k_cuda 32768 200 retrieval --attn dense,minference --decoded
evaluate 128k eval_retrieval_128k_cuda 131072 50 retrieval --attn dense,minference --decoded
methods=dense,minference,adaptive,a_shape,tri_shape,static,vertical_only,slash_only
# Block-sparse heads have a kernel of their own: should it end the process, the others are there.
for attention in $methods $methods,block_sparse; do
  evaluate curves eval_curves_cuda 16384 50 middle niah_multikey_1 kv_words kv_copies vt --forced --attn "$attention" \
    --scales 2,1,0.5,0.25,0.1
done
if [ "$(remaining)" -gt 0 ]; then
  timeout "$(remaining)" "${minference[@]}" compare --synthetic 28,4,128 --length $((32768 / scale)) --costs 0.05,0.1 \
    --device "$device" --result "$output/compare_qwen2_7b_cuda.json" >"$output/compare.txt" 2>"$output/compare.log" || status=$?
  tail -n 3 "$output/compare.log"
fi
exit $status
