#!/bin/bash
# What sparse prefill costs the embedded model, in full, on the GPUs of one machine:
#
#   bench/eval_cuda.sh FOLDER [MINUTES]
#
# Patterns are those of PATTERNS (the model's own). Where that is not there, they are searched on the GPU at 32K tokens, of a
# cost at which no task computes more than 5 % of the pairs. Then, in order: dense, MInference and TriShape at 32K, 200 prompts, on every
# retrieval task and those that need more than the last rows; dense and MInference at 128K, 50 prompts, and 200 of the tasks
# that lost most of these; curves of all methods at 16K, 50 prompts.
# Each is shared by several processes, PROCESSES (8) on each of GPUS ("0 1"; all), with prompts of their own: times to first
# token mean nothing here.
# Ends after about MINUTES (8 unless told otherwise), with summaries of what is there; the same command goes on. What FOLDER
# gets: patterns and the search's report; 32k/, 128k/, 128k_more/ and curves/ with samples.jsonl and summaries; *_cuda.json, results. Last come
# all selections on synthetic heads of a layer like Qwen2-7B's. PARTS ("128k curves") picks some of these: all_parts has their names.
# A trial without a GPU, with lengths divided by SCALE: SCALE=8 PROMPTS=2 DEVICE=cpu bench/eval_cuda.sh /tmp/trial 20
set -uo pipefail

output=$(realpath -m "${1:?a folder for what is written}")
end=$(($(date +%s) + 60 * ${2:-8}))
device=${DEVICE:-cuda}
scale=${SCALE:-1}
cd "$(dirname "$0")/.."
mkdir -p "$output"
minference=("${PYTHON:-python3}" -m minference)
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD/python${PYTHONPATH:+:$PYTHONPATH}
patterns=${PATTERNS:-models/needle/head_patterns.json}
[ "$scale" = 1 ] || patterns=$output/patterns.json
status=0
all_parts="32k 128k 128k_more curves synthetic"
parts=${PARTS:-$all_parts}
for name in $parts; do
  case " $all_parts " in *" $name "*) ;; *) echo "PARTS must be among $all_parts, got $name" >&2 && exit 1 ;; esac
done

# Summaries take some seconds more.
remaining() { echo $((end - 20 - $(date +%s))); }

# Processes, and GPUs for them to take in turn.
if [ "$device" = cuda ]; then read -ra gpus <<<"${GPUS:-$(nvidia-smi --query-gpu=index --format=csv,noheader | xargs)}"; else gpus=(0); fi
processes=$((${PROCESSES:-8} * ${#gpus[@]}))
# The GPUs wait for prompts, not the other way round.
workers=$(($(nproc) / processes))

# SAMPLES prompts of every task, SEED and then every STRIDE-th, into FOLDER, for at most SECONDS.
share() { # FOLDER SECONDS SEED STRIDE SAMPLES ARGUMENTS...
  local folder=$1 seconds=$2 seed=$3 stride=$4 samples=$5
  shift 5
  "${minference[@]}" eval "$@" --device "$device" --patterns "$patterns" --seed "$seed" --stride "$stride" --samples "$samples" --output "$folder" \
    --minutes "$((seconds / 60)).$(printf %03d $((seconds % 60 * 1000 / 60)))" >"$folder.txt" 2>"$folder.log"
}

# Puts what the processes have made into FOLDER; a killed one may have left half a line.
join() { # FOLDER
  local folder=$1
  local runs=("$folder"/shares/*/run.json)
  # Processes stopped before their first sample have made nothing.
  if [ ! -e "${runs[0]}" ]; then rm -rf "$folder/shares" && return; fi
  cp "${runs[0]}" "$folder/" &&
    { grep -hs '}$' "$folder/samples.jsonl" "$folder"/shares/*/samples.jsonl || true; } | sort -u >"$folder/samples.jsonl.new" &&
    mv "$folder/samples.jsonl.new" "$folder/samples.jsonl" &&
    rm -r "$folder/shares"
}

evaluate() { # NAME TITLE_OF_RESULT LENGTH SAMPLES ARGUMENTS...
  local folder=$output/$1 result=$output/$2.json length=$(($3 / scale)) samples=${PROMPTS:-$4}
  shift 4
  local left process pid pids=()
  left=$(remaining)
  [ "$left" -gt 0 ] || return 0
  echo "== $folder: $length tokens, $samples prompts a task, ${left} s left"
  join "$folder" || { status=1; return; }
  # In turn, so that what a run cut short has made are the first prompts.
  for ((process = 0; process < processes && process < samples; process++)); do
    mkdir -p "$folder/shares/$process"
    # What is there, whoever made it, is not made again. Kept mass takes a dense attention more: one prompt a task.
    [ ! -e "$folder/samples.jsonl" ] || cp "$folder/samples.jsonl" "$folder/run.json" "$folder/shares/$process/"
    CUDA_VISIBLE_DEVICES=${gpus[process % ${#gpus[@]}]} share "$folder/shares/$process" "$left" "$process" \
      "$processes" "$(((samples - process + processes - 1) / processes))" --lengths "$length" --prompt-workers "$workers" \
      --mass-samples "$((process == 0))" "$@" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  tail -qn 1 "$folder"/shares/*.log
  join "$folder" || { status=1; return; }
  # The summary: this run finds every sample made.
  share "$folder" 0 0 1 "$samples" --lengths "$length" --prompt-workers 0 --result "$result" "$@" || status=$?
  tail -n 3 "$folder.log" "$folder.txt"
}

if [ ! -e "$patterns" ]; then
  echo "== searching patterns"
  timeout "$(remaining)" "${minference[@]}" search --device "$device" --lengths $((32768 / scale)) --cost 0.046 --samples 2 --weigh \
    --kinds A-shape,vertical-slash --tasks niah_multikey_2,niah_multikey_3,niah_multivalue,kv_words,vt,cwe,lagged,recall \
    --work "$output/search" --output "$patterns" >"$output/search.txt" 2>"$output/search.log"
  if [ ! -e "$patterns" ]; then
    tail -n 3 "$output/search.log"
    echo "== the search failed: going on with the model's own patterns"
    patterns=models/needle/head_patterns.json status=1
  fi
  cat "$output/search.txt"
fi
cp "$patterns" "$output/patterns-used.json"

part() { # NAME
  case $1 in
    32k) evaluate 32k eval_retrieval_32k_cuda 32768 200 retrieval vt vt_two_hops early_question cwe recall restated \
      --attn dense,minference,tri_shape --decoded ;;
    128k) evaluate 128k eval_retrieval_128k_cuda 131072 50 retrieval --attn dense,minference --decoded ;;
    128k_more) evaluate 128k_more eval_more_128k_cuda 131072 200 niah_multivalue niah_multikey_2 --attn dense,minference --decoded ;;
    curves) evaluate curves eval_curves_cuda 16384 50 middle niah_multikey_1 kv_words vt --forced --scales 2,1,0.5,0.25,0.1 \
      --attn dense,minference,adaptive,a_shape,tri_shape,static,vertical_only,slash_only,block_sparse ;;
    synthetic)
      [ "$(remaining)" -gt 0 ] || return 0
      timeout "$(remaining)" "${minference[@]}" compare --synthetic 28,4,128 --length $((32768 / scale)) --costs 0.05,0.1 \
        --device "$device" --result "$output/compare_qwen2_7b_cuda.json" >"$output/compare.txt" 2>"$output/compare.log" || status=$?
      tail -n 3 "$output/compare.log" ;;
  esac
}

for name in $parts; do part "$name"; done
exit $status
